"""Checkpoints: found, hashed and loaded without executing pickle."""
