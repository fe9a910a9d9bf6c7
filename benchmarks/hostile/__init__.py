"""Pictures and requests made to cost a service more than they should, generated in memory."""

from __future__ import annotations

from functools import cache

from benchmarks.hostile import jpegs, others, pngs, webps
from benchmarks.hostile.parts import Hostile

__all__ = ["Hostile", "corpus"]


@cache
def corpus() -> tuple[Hostile, ...]:
    """Returns all hostile pictures, the same in every run; each is generated on demand."""
    return tuple(one for module in (jpegs, pngs, webps, others) for one in module.pictures())
