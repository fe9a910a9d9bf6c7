"""The documentation: what it states is compared with the code."""
