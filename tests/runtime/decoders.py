"""Pictures, and processes that run other code than a decoder, for tests of decoding."""

from __future__ import annotations

import contextlib
import gc
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime import ImageLimits
from runtime.decoding import process

LIMITS = ImageLimits()
READ = "import struct, sys, os, time; print('ready', flush=True); i, o = sys.stdin.buffer, "
READ += "sys.stdout.buffer; a, b = struct.unpack('<IQ', i.read(12)); data = i.read(a + b)[a:]\n"
"""Start of a fake decoder, which has read its first request."""


def hanging(begun: Path) -> str:
    """Returns a fake decoder that creates a file once it has a picture, and never answers."""
    return READ + f"open({str(begun)!r}, 'w'); time.sleep(600)"


def fake_decoders(monkeypatch: pytest.MonkeyPatch, code: str, *, times: int = 1) -> None:
    """Makes the next processes that start run other code."""
    real, left = process.command, [times]

    def command() -> list[str]:
        left[0] -= 1
        return [sys.executable, "-c", code] if left[0] >= 0 else real()

    monkeypatch.setattr(process, "command", command)


def encoded(kind: str = "PNG", size: tuple[int, int] = (24, 16), seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def open_files() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def children() -> set[int]:
    """Returns the processes that this one has started and not awaited, zombies included."""
    while True:
        lists = [task / "children" for task in Path("/proc/self/task").iterdir()]
        # A thread may end meanwhile; its processes are another one's then.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return {int(number) for path in lists for number in path.read_text().split()}


def wait_until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.001)
