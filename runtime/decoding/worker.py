"""What runs in a decoder's process: encoded pictures come in, pixels or an error go out.

Requests and replies take turns. A request is a `REQUEST`, the limits as JSON and the encoded
picture; a reply is a `REPLY`, an error's text or the pixels, and an `END`.
The process imports only what decoding needs, and ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ImageError, InputError
from runtime.images import ImageLimits, load_rgb

READY = b"ready\n"
"""Written once the process can decode; otherwise it writes why not, and ends."""
REQUEST = struct.Struct("<IQ")
"""Bytes of the limits and of the picture."""
REPLY = struct.Struct("<III")
"""Height, width and bytes of text; an error has no pixels, and pixels have no text."""
END = struct.Struct("<?d")
"""Whether the process kept much memory and should be replaced; its seconds of processor time."""
MOST_TEXT = 4096
"""Bytes of an error's text."""

_GROWN_BYTES = 64 << 20
"""Resident memory above that at the start from which on a process is replaced."""
_STATM = Path("/proc/self/statm")
"""Pages of virtual and of resident memory; Linux only."""


def serve() -> None:
    """Decodes pictures until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, replies = own_streams()
    with contextlib.suppress(OSError):  # if memory runs out, this process is the one to end
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    start_bytes = _memory()[1]
    try:
        replies.write(READY)
        while len(head := requests.read(REQUEST.size)) == REQUEST.size:
            options_bytes, data_bytes = REQUEST.unpack(head)
            started = time.process_time()
            options = json.loads(requests.read(options_bytes))
            data = requests.read(data_bytes)
            if len(data) == data_bytes:
                _reply(replies, data, options)
                del data
                grown = _memory()[1] > start_bytes + _GROWN_BYTES
                replies.write(END.pack(grown, time.process_time() - started))
    except BrokenPipeError:  # the parent ended
        return


def own_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Returns the pipes to the parent; what else reads or prints gets the null device."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    return requests, replies


def _reply(replies: IO[bytes], data: bytes, options: dict[str, Any]) -> None:
    with bounded(options["seconds"], options["memory_bytes"]):
        pixels = _decoded(data, ImageLimits(**options["limits"]))
        if isinstance(pixels, bytes):
            write_all(replies, REPLY.pack(0, 0, len(pixels)) + pixels)
        else:
            write_all(replies, REPLY.pack(*pixels.shape[:2], 0))
            write_all(replies, pixels.data.cast("B"))


def _decoded(data: bytes, limits: ImageLimits) -> NDArray[np.uint8] | bytes:
    """Returns the pixels, or the name and text of the error."""
    try:
        return np.ascontiguousarray(load_rgb(data, limits))
    except InputError as error:
        name, text = type(error).__name__, str(error)
    except Exception as error:  # noqa: BLE001 - only this picture has failed
        name, text = ImageError.__name__, f"It cannot be decoded ({type(error).__name__}: {error})."
    return f"{name}\n{text}".encode("utf-8", "backslashreplace")[:MOST_TEXT]


def write_all(replies: IO[bytes], data: bytes | memoryview) -> None:
    """Writes all of the data to an unbuffered pipe."""
    view = memoryview(data)
    while view:
        view = view[replies.write(view) :]


@contextlib.contextmanager
def bounded(seconds: float, memory_bytes: int) -> Iterator[None]:
    """Ends this process after `seconds` of processor time; more memory raises MemoryError.

    Both where the platform can: the timer needs Unix, the memory Linux.
    """
    if not hasattr(signal, "setitimer"):
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


def _memory() -> tuple[int, int]:
    """Returns the bytes of virtual and of resident memory; zeros where they are not known."""
    try:
        pages = _STATM.read_text(encoding="ascii").split()
    except OSError:
        return 0, 0
    page_bytes = os.sysconf("SC_PAGESIZE")
    return int(pages[0]) * page_bytes, int(pages[1]) * page_bytes
