"""The architectures, one record each."""
