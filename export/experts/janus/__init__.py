"""Janus-Pro with a fixed prompt, as an expert."""
