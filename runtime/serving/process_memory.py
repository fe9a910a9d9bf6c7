"""How this process gives freed memory back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
_LARGE_BYTES = 4 << 20
_SPARE_BYTES = 16 << 20


def return_large_blocks() -> bool:
    """Makes blocks of 4 MiB and more, such as pixels and bodies, go back to the system when freed.

    glibc's own limit grows to 32 MiB with use; smaller blocks then stay, in pieces between others.

    Returns:
        Whether the allocator could be told: not outside Linux, nor with another C library.
    """
    if sys.platform != "linux":
        return False
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        return all(
            mallopt(parameter, size)
            for parameter, size in (
                (_M_MMAP_THRESHOLD, _LARGE_BYTES),
                (_M_TRIM_THRESHOLD, _SPARE_BYTES),
            )
        )
    return False
