"""Benchmarks, run as files: python benchmarks/latency.py."""
