"""Limits of a decoder's process, and what is missing: time needs Unix, memory Linux."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from runtime.images import DecoderLimitsWarning
from runtime.warn import warn

_STATM = Path("/proc/self/statm")
"""Pages of virtual and of resident memory; Linux only."""
_OOM_SCORE = Path("/proc/self/oom_score_adj")


def limits_processor_time() -> bool:
    """Returns whether processor time can be limited; otherwise only the clock ends a decoder."""
    return hasattr(signal, "setitimer")


def limits_memory() -> bool:
    """Returns whether memory can be limited: not on macOS, which ignores RLIMIT_AS, or Windows."""
    return limits_processor_time() and _STATM.exists()


def missing_limits() -> str:
    """Returns what cannot be limited here, as a sentence; empty on Linux."""
    if limits_memory():
        return ""
    what = "memory" if limits_processor_time() else "processor time and memory"
    return (
        f"The {what} of processes that decode pictures cannot be limited on this system; the clock "
        f"ends them, and pictures have limits on bytes and pixels. Decode pictures of strangers on "
        f"Linux."
    )


def warn_of_missing_limits() -> None:
    """Warns where limits are missing."""
    if missing := missing_limits():
        warn(missing, DecoderLimitsWarning)


def end_first() -> None:
    """Makes Linux end this process before others when memory runs out."""
    with contextlib.suppress(OSError):
        if _OOM_SCORE.exists():
            _OOM_SCORE.write_text("1000", encoding="ascii")


@contextlib.contextmanager
def bounded(seconds: float, memory_bytes: int) -> Iterator[None]:
    """Ends this process after `seconds` of processor time; more memory raises MemoryError.

    Both where the system can, see `missing_limits`.
    """
    if not limits_processor_time():
        yield
        return
    with _limited_memory(memory_bytes):
        signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends what does not handle it
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)


@contextlib.contextmanager
def _limited_memory(memory_bytes: int) -> Iterator[None]:
    """Limits the memory within the context only: the next picture is read before its own."""
    used_bytes = _memory()[0]
    if not used_bytes:
        yield
        return
    import resource  # exists where /proc does

    before = _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [used_bytes + memory_bytes, *(n for n in before if n != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def resident_bytes() -> int:
    """Returns the resident memory of this process; 0 where it is not known."""
    return _memory()[1]


def _memory() -> tuple[int, int]:
    """Returns the bytes of virtual and of resident memory; zeros where they are not known."""
    try:
        pages = _STATM.read_text(encoding="ascii").split()
    except OSError:
        return 0, 0
    page_bytes = os.sysconf("SC_PAGESIZE")
    return int(pages[0]) * page_bytes, int(pages[1]) * page_bytes
