"""Compares a variant or an engine with the FP32 graph layer by layer."""
