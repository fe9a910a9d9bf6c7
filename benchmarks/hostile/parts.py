"""Building blocks of hostile pictures: bits, deflate streams, chunks, EXIF data."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

MAX_BYTES = 32 << 20
"""Default limit on an encoded picture."""
LIMIT_SIDE = 7071
"""Pixels; its square is just within the default limit of 50 million."""
_UNIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Hostile:
    """A picture made to cost its reader more than it should."""

    kind: str
    """Kind of attack; the report has one row per kind."""
    name: str
    """Unique within its kind."""
    make: Callable[[], bytes]
    """Returns the same bytes every time."""
    small: bool = False
    """True if making and loading it is cheap enough for the tests."""


class Bits:
    """Bits, packed from the lowest up (deflate, VP8L)."""

    def __init__(self) -> None:
        """Starts empty."""
        self._value: list[int] = []

    def put(self, value: int, count: int) -> None:
        """Appends the lowest `count` bits of a value, lowest first."""
        self._value += [value >> place & 1 for place in range(count)]

    def put_reversed(self, value: int, count: int) -> None:
        """Appends the lowest `count` bits of a value, highest first, as prefix codes are."""
        self._value += [value >> place & 1 for place in reversed(range(count))]

    def extend(self, bits: Iterable[int]) -> None:
        """Appends single bits."""
        self._value += bits

    def __iter__(self) -> Iterator[int]:
        """Yields the bits in their order."""
        return iter(self._value)

    def packed(self, *, high_first: bool = False) -> bytes:
        """Returns the bits in bytes; the last one is filled up with zeros."""
        bits = np.array(self._value, np.uint8)
        packed = np.packbits(bits, bitorder="big" if high_first else "little")
        return bytes(packed)


def cut(data: bytes, place: int) -> bytes:
    """Returns the beginning of a file."""
    return data[:place]


def noise(count: int, seed: int = 0) -> bytes:
    """Returns random bytes."""
    return np.random.default_rng(seed).bytes(count)


def deflated(unit: bytes, times: int, rest: bytes = b"", *, before: bytes = b"") -> bytes:
    """Returns a zlib stream of `unit` repeated and `rest`, compressing the unit only once.

    Args:
        unit: at least some kB, or the stream becomes longer than necessary.
        times: number of repetitions.
        rest: what follows them.
        before: deflate blocks without content to put first.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(unit) + packer.flush(zlib.Z_FULL_FLUSH)
    end = packer.compress(rest) + packer.flush()
    checksum = 1
    for _ in range(times):
        checksum = zlib.adler32(unit, checksum)
    checksum = zlib.adler32(rest, checksum)
    return b"".join([b"\x78\xda", before, block * times, end, struct.pack(">I", checksum)])


def zeros(count: int) -> bytes:
    """Returns a zlib stream of zeros."""
    return deflated(bytes(_UNIT), count // _UNIT, bytes(count % _UNIT))


def chunk(kind: bytes, content: bytes) -> bytes:
    """Returns a PNG chunk."""
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return b"".join([struct.pack(">I", len(content)), kind, content, struct.pack(">I", checksum)])


def riff(kind: bytes, content: bytes) -> bytes:
    """Returns a RIFF chunk."""
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def exif(orientation: int, *, before: int = 0, following: int = 0) -> bytes:
    """Returns a TIFF header and a directory.

    Args:
        orientation: the value of the last entry.
        before: number of other entries.
        following: offset of the next directory; 8 is this one.
    """
    entry = struct.pack("<HHI4s", 0x9000, 2, 1, b"abcd")
    last = struct.pack("<HHIH2x", 0x0112, 3, 1, orientation)
    head = struct.pack("<4sIH", b"II*\0", 8, before + 1)
    return b"".join([head, entry * before, last, struct.pack("<I", following)])


def nested_exif(orientation: int) -> bytes:
    """Returns EXIF data whose directories for Exif, GPS and interoperability are all the first."""
    entries = [struct.pack("<HHII", tag, 4, 1, 8) for tag in (0x8769, 0x8825, 0xA005, 0x014A)]
    entries.append(struct.pack("<HHIH2x", 0x0112, 3, 1, orientation))
    head = struct.pack("<4sIH", b"II*\0", 8, len(entries))
    return head + b"".join(entries) + struct.pack("<I", 8)
