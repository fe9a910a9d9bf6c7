"""Requests for ages whose number of pictures, boxes or JSON is made to be expensive."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.hostile.jpeg_files import FULL, jpeg, segment
from benchmarks.hostile.parts import LIMIT_SIDE, exif, noise
from benchmarks.hostile.png_files import RGBA, empty_blocks, png
from benchmarks.hostile.webp_files import lossless

_BODY = 48 << 20
"""Default limit on a request's bytes."""
_FACES = 64
_IMAGES = 16


@dataclass(frozen=True, slots=True)
class HostileRequest:
    """The body of a request for ages, as JSON."""

    kind: str
    name: str
    make: Callable[[], bytes]
    """Returns the same bytes every time."""


def body(pictures: Sequence[bytes], **options: object) -> bytes:
    """Returns a request for ages as JSON."""
    listed = b",".join(b'"' + base64.b64encode(data) + b'"' for data in pictures)
    rest = json.dumps(options)[1:-1].encode()
    return b'{"images":[' + listed + b"]" + (b"," + rest if rest else b"") + b"}"


def _large_gray() -> bytes:
    """Returns a JPEG at the limit on pixels in 195 kB."""
    return jpeg(LIMIT_SIDE, LIMIT_SIDE, FULL[1])


def slow_picture() -> bytes:
    """Returns a PNG of 25 MB that takes seconds to decode unless that is stopped."""
    return empty_blocks(25_000_000)


def hostile_requests() -> Iterator[HostileRequest]:
    """Yields all hostile requests; each body is generated on demand."""
    kind = "64 faces on a picture at the limit"
    side = float(LIMIT_SIDE)
    whole = [[float(i), float(i), side - 64, side - 64] for i in range(_FACES)]
    tiny = [[60.0 * i, 9.0, 5.0, 5.0] for i in range(_FACES)]
    points = [[[0.3 * side, 0.3 * side], [0.7 * side, 0.3 * side], [0.5 * side, 0.5 * side],
               [0.3 * side, 0.8 * side], [0.7 * side, 0.8 * side]]] * _FACES  # fmt: skip
    for name, boxes, others in (
        ("whole, with persons", whole, {"person_boxes": [whole]}),
        ("whole", whole, {}),
        ("small, with persons of the whole", tiny, {"person_boxes": [whole]}),
        ("whole, with landmarks", whole, {"landmarks": [points]}),
        ("small", tiny, {}),
    ):
        make = partial(
            lambda boxes, others: body([_large_gray()], boxes=[boxes], **others), boxes, others
        )
        yield HostileRequest(kind, name, make)
    yield from _many_pictures()
    yield from _documents()


def _many_pictures() -> Iterator[HostileRequest]:
    kind = "16 pictures"
    share = LIMIT_SIDE // 4
    makers: dict[str, Callable[[], bytes]] = {
        "that fill the limit, JPEG": partial(jpeg, share, share),
        "that fill the limit, RGBA PNG": partial(png, share, share, RGBA),
        "that fill the limit, WebP": partial(lossless, share, share),
        "each at the limit": partial(jpeg, LIMIT_SIDE, LIMIT_SIDE),
        "each at the limit, without data": lambda: png(LIMIT_SIDE, LIMIT_SIDE, RGBA, data=b"x\x9c"),
        "cut off": lambda: jpeg(share, share)[:-2],
        "of 2 MB of noise": partial(noise, 2_000_000),
        "turned": lambda: jpeg(share, share, before=segment(0xE1, b"Exif\0\0" + exif(6))),
        "of empty deflate blocks": partial(empty_blocks, 2_000_000),
    }
    for name, make in makers.items():
        for detect in (True, False):
            built = partial(
                lambda make, detect: body([make()] * _IMAGES, detect=detect), make, detect
            )
            yield HostileRequest(kind, f"{name}{'' if detect else ', undetected'}", built)


def _documents() -> Iterator[HostileRequest]:
    kind = "odd JSON"
    size = _BODY - 1000
    picture = b'{"images":["/9j/"],'
    documents: dict[str, Callable[[], bytes]] = {
        "16 million empty pictures": lambda: b'{"images":[""' + b',""' * (size // 3) + b"]}",
        "nested lists": lambda: b'{"images":' + b"[" * size,
        "millions of numbers": lambda: picture + b'"boxes":[[[1' + b",1" * (size // 2) + b"]]]}",
        "millions of boxes": lambda: (
            picture + b'"boxes":[[[1,1,9,9]' + b",[1,1,9,9]" * (size // 10) + b"]]}"
        ),
        "millions of nulls": lambda: picture + b'"boxes":[null' + b",null" * (size // 5) + b"]}",
        "millions of keys": lambda: (
            picture + b",".join(b'"%d":1' % i for i in range(3_000_000)) + b"}"
        ),
        "base64 of spaces": lambda: b'{"images":["' + b" " * size + b'"]}',
        "base64 of line ends": lambda: b'{"images":["' + b"\\n" * (size // 2) + b'"]}',
        "no base64": lambda: b'{"images":["' + b"\xc3\xa9" * (size // 2) + b'"]}',
        "escapes": lambda: b'{"images":["' + b"\\u0041" * (size // 6) + b'"]}',
        "a number of 40 MB": lambda: picture + b'"threshold":' + b"9" * size + b"}",
        "spaces": lambda: b" " * size + b"{}",
        "a long data URI": lambda: b'{"images":["data:' + b"image/" * (size // 6) + b',/9j/"]}',
        "a picture too large": lambda: body([bytes(33_600_000)]),
    }
    for name, make in documents.items():
        yield HostileRequest(kind, name, make)
