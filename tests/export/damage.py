"""Damaged copies of files: parts replaced, repeated, cut, or exchanged for extreme values."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

_WORDS = re.compile(rb'"[^"]*"|[\w.]+')


def mutants(
    data: bytes, count: int, rng: random.Random, values: Sequence[bytes]
) -> Iterator[bytes]:
    """Yields damaged copies of a file.

    Args:
        data: the file.
        count: how many.
        rng: of the choices.
        values: extreme ones of the file's format.
    """
    words = [match.span() for match in _WORDS.finditer(data)]
    for _ in range(count):
        mutant = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 3))):
            start, end = rng.choice(words)
            kind = rng.randrange(6)
            if kind == 0:
                mutant[start:end] = rng.choice(values)
            elif kind == 1:
                mutant[start:start] = rng.choice(values)
            elif kind == 2:
                del mutant[start : start + rng.randrange(1, 200)]
            elif kind == 3:
                mutant[start:start] = mutant[start : start + rng.randrange(1, 300)]
            elif kind == 4:
                place = rng.randrange(len(mutant) + 1)
                mutant[place : place + 1] = rng.randbytes(1)
            else:
                place = rng.randrange(len(mutant) + 1)
                mutant[place : place + 4] = rng.choice(values)[:8]
        yield bytes(mutant)
