"""Decoding of strangers' pictures in processes that can be stopped, within a budget of memory.

Example:
    with DecoderPool() as decoders, AgeMoE(decoder=decoders.decode) as moe:
        estimate = moe.predict(upload)
"""

from runtime.decoding.budget import Budget, Hold
from runtime.decoding.job import Allowance
from runtime.decoding.pool import DecoderPool

__all__ = ["Allowance", "Budget", "DecoderPool", "Hold"]
