"""Measures what decoding holds: `python -m tests.runtime.decoding_memory`, on Linux.

Reads lines of two paths, of a small and of a large picture of the same kind, and decodes each pair
in a new process. Prints what the large one added to the process's resident memory at its peak, in
bytes, the promise of `picture_cost`, and the pixels.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from runtime.images import ImageLimits, load_rgb, picture_cost

_LIMITS = ImageLimits()


def _resident(kind: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{kind}:"))


def _measured(small: str, large: str) -> str:
    data = Path(large).read_bytes()
    promised = picture_cost(data, _LIMITS).peak_bytes
    load_rgb(small, _LIMITS)
    before = _resident("VmRSS")
    pixels = load_rgb(data, _LIMITS)
    return f"{_resident('VmHWM') - before} {promised} {pixels.size // 3}"


def main() -> None:
    """Answers each line of the standard input with one line."""
    for line in sys.stdin:
        if not os.fork():
            sys.stdout.write(_measured(*line.rstrip("\n").split("\t")) + "\n")
            sys.exit()
        if os.wait()[1]:
            sys.stdout.write("failed\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
