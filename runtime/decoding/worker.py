"""What runs in a decoder's process: encoded pictures come in, pixels or an error go out.

Requests and replies take turns. A request is a `REQUEST`, the limits as JSON and the encoded
picture; a reply is a `REPLY`, an error's text or the pixels, and an `END`.
The process imports only what decoding needs, and ends when its standard input does.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import time
from collections.abc import Iterator
from typing import IO, Any

from runtime.decoding.limits import bounded, end_first, resident_bytes
from runtime.errors import ImageError, InputError
from runtime.images import ImageLimits, rgb_strips

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


def serve() -> None:
    """Decodes pictures until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, replies = own_streams()
    end_first()
    start_bytes = resident_bytes()
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
                grown = resident_bytes() > start_bytes + _GROWN_BYTES
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
        picture = _decoded(data, ImageLimits(**options["limits"]))
        if isinstance(picture, bytes):
            write_all(replies, REPLY.pack(0, 0, len(picture)) + picture)
            return
        width, height, strips = picture
        write_all(replies, REPLY.pack(height, width, 0))
        for strip in strips:
            write_all(replies, strip)


def _decoded(data: bytes, limits: ImageLimits) -> tuple[int, int, Iterator[bytes]] | bytes:
    """Returns width, height and pixels, or the name and text of the error."""
    try:
        return rgb_strips(data, limits)
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
