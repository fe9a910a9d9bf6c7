"""Janus-Pro with a fixed prompt."""
