"""Preflight check: enough memory and disk for a large expert."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from export.errors import ExportError

MEMORY_PER_WEIGHT = 1.25
"""Peak memory while a large graph is written or run, per byte of FP32 weights."""
SIZE_SHARES = {"fp32": 1.0, "fp16": 0.55, "bf16": 1.0, "int8": 0.3}
"""Size of each variant, per byte of FP32 weights; some weights always stay in FP32."""
_ALWAYS_BYTES = 1 << 30
"""Memory of PyTorch and ONNX Runtime themselves."""
_GIB = 1 << 30


def check_resources(name: str, parameters: int, precisions: Sequence[str], folder: Path) -> None:
    """Raises `ExportError` if building these variants of an expert would exhaust memory or disk."""
    weights = 4 * parameters
    memory = int(weights * MEMORY_PER_WEIGHT) + _ALWAYS_BYTES
    disk = int(weights * sum(SIZE_SHARES[precision] for precision in precisions))
    available = available_memory()
    problems = []
    if available is not None and available < memory:
        problems.append(f"{memory / _GIB:.1f} GiB of memory, {available / _GIB:.1f} are available")
    free = free_disk(folder)
    if free < disk:
        problems.append(f"{disk / _GIB:.1f} GiB of disk in {folder}, {free / _GIB:.1f} are free")
    if problems:
        raise ExportError(
            f"Expert {name!r} has {parameters / 1e9:.2f} billion weights; building it as "
            f"{' and '.join(precisions)} needs "
            + ", and ".join(problems)
            + ". Build it on a larger machine, or leave it out with --only."
        )


def available_memory() -> int | None:
    """Returns the memory available without swapping in bytes, or None where it is unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def free_disk(folder: Path) -> int:
    """Returns the free disk space for a folder in bytes."""
    return shutil.disk_usage(folder).free
