"""Faces: drawn ones with a known age, and those that verify and quantize graphs."""

REVISION = 1
"""To be raised with every change of the drawn, verification or quantization faces."""
