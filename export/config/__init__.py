"""Configuration of experts, and the contract of their graphs."""
