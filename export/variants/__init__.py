"""Precision variants of an FP32 graph: FP16, BF16, INT8."""
