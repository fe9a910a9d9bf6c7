"""Benchmarks, run as files: python benchmarks/….py."""
