"""What the benchmarks' command lines take: refused before anything is measured."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def count(text: str) -> int:
    """A whole number of at least 1.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def positive(text: str) -> float:
    """A number above 0.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0.0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return number


def new_file(text: str) -> Path:
    """A path at which a file can be written.

    Raises:
        ArgumentTypeError: its folder is missing, or it is a folder itself.
    """
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"must be a file in a folder that exists, got {text!r}")
    return path
