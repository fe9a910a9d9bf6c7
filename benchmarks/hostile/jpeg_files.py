"""Builders of JPEG files. Layout: ITU-T T.81."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from functools import cache

from PIL import Image

from benchmarks.hostile.parts import (
    MAX_BYTES,
    Bits,
    noise,
)

BASELINE, EXTENDED, PROGRESSIVE, LOSSLESS = 0xC0, 0xC1, 0xC2, 0xC3
SOI, EOI = b"\xff\xd8", b"\xff\xd9"
QUANTIZATION = bytes([0, *[1] * 64])
LONGEST = 65_533
"""Bytes of a segment's content."""
_TINY = 16
Sampling = Sequence[int]
"""Per component: horizontal factor times 16 plus vertical factor."""
FULL = {1: (0x11,), 3: (0x11,) * 3, 4: (0x11,) * 4}
"""No subsampling, by number of components."""


def segment(marker: int, content: bytes = b"") -> bytes:
    """Returns a segment."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def frame(marker: int, width: int, height: int, sampling: Sampling, precision: int = 8) -> bytes:
    """Returns the header of a frame."""
    components = b"".join(bytes([i + 1, factors, 0]) for i, factors in enumerate(sampling))
    return segment(
        marker, struct.pack(">BHHB", precision, height, width, len(sampling)) + components
    )


def codes(kind: int, *symbols: tuple[int, int]) -> bytes:
    """Returns a Huffman table: class and number, then pairs of code length and symbol."""
    counts = [sum(length == n for length, _ in symbols) for n in range(1, 17)]
    return segment(0xC4, bytes([kind, *counts, *(symbol for _, symbol in symbols)]))


def scan(
    components: Sequence[int], data: bytes, band: tuple[int, int] = (0, 63), bits: int = 0
) -> bytes:
    """Returns a scan: its components, coefficients, and the high and low bit position."""
    head = bytes([len(components), *(byte for i in components for byte in (i, 0)), *band, bits])
    return segment(0xDA, head) + data


def blocks(width: int, height: int, sampling: Sampling) -> int:
    """Returns the blocks of all components in an interleaved scan."""
    across, down = max(f >> 4 for f in sampling), max(f & 15 for f in sampling)
    units = -(-width // (8 * across)) * -(-height // (8 * down))
    return units * sum((f >> 4) * (f & 15) for f in sampling)


DC = codes(0x00, (1, 0))
AC_END = codes(0x10, (1, 0))
_AC_DENSE = codes(0x10, (1, 0x01))
_AC_RUN = codes(0x10, (1, 0xE0))
"""One code: none of the coefficients in the next 16,384 blocks and as many as 14 bits add."""


def jpeg(
    width: int,
    height: int,
    sampling: Sampling = FULL[3],
    *,
    before: bytes = b"",
    marker: int = BASELINE,
    precision: int = 8,
    dense: bool = False,
) -> bytes:
    """Returns a JPEG of one gray, with two bits per block, or with all coefficients if `dense`."""
    count = blocks(width, height, sampling)
    data = _dense(count) if dense else bytes(-(-count // 4))
    if len(sampling) == 1:
        count = -(-width // 8) * -(-height // 8)
    tables = segment(0xDB, QUANTIZATION) + DC + (_AC_DENSE if dense else AC_END)
    head = frame(marker, width, height, sampling, precision)
    body = scan(range(1, len(sampling) + 1), data)
    return b"".join([SOI, before, tables, head, body, EOI])


@cache
def _eight_dense_blocks() -> bytes:
    bits = Bits()
    for _ in range(8):
        bits.extend((0, *(bit for place in range(63) for bit in (0, place & 1))))
    return bits.packed(high_first=True)


def _dense(count: int) -> bytes:
    return _eight_dense_blocks() * -(-count // 8)


def progressive(
    width: int, height: int, sampling: Sampling, scans: int, *, kind: str = "DC", end: bytes = EOI
) -> bytes:
    """Returns a progressive JPEG with as many scans.

    Args:
        width: pixels.
        height: pixels.
        sampling: of each component.
        scans: number of scans.
        kind: what the scans after the first hold: `DC` values of all components, `AC` values that
            are all zero, or `refinement`: one more bit of each of them.
        end: what follows.
    """
    count = blocks(width, height, sampling)
    own = -(-width // 8) * -(-height // 8)
    everyone = range(1, len(sampling) + 1)
    parts = [SOI, segment(0xDB, QUANTIZATION), frame(PROGRESSIVE, width, height, sampling), DC]
    first = scan(everyone, bytes(-(-count // 8)), (0, 0), 0x00 if kind == "AC" else 0x01)
    parts.append(first)
    if kind == "AC":
        one = Bits()
        one.extend((0, *(1,) * 14) * 8)
        data = one.packed(high_first=True) * (own // (32_767 * 8) + 1)
        data = data.replace(b"\xff", b"\xff\0")
        parts += [_AC_RUN] + [
            scan([1 + i % len(sampling)], data, (1, 63), 0) for i in range(scans - 1)
        ]
    elif kind == "refinement":
        parts += [_AC_DENSE, scan([1], _dense_without_dc(own), (1, 63), 0x0D)]
        for low in range(12, 12 - scans + 2, -1):
            parts.append(scan([1], b"\x55" * (own * 63 // 8 + 1), (1, 63), (low + 1) << 4 | low))
    else:
        refined = bytes(-(-count // 8))
        parts += [scan(everyone, refined, (0, 0), 0x10) for _ in range(scans - 1)]
    return b"".join([*parts, end])


def _dense_without_dc(count: int) -> bytes:
    bits = Bits()
    bits.extend((0, 1) * 63 * 4)
    return bits.packed(high_first=True) * -(-count // 4)


def restarts(width: int, height: int, *, extra: bytes = b"") -> bytes:
    """A gray JPEG with a restart marker after each block."""
    count = -(-width // 8) * -(-height // 8)
    eight = b"".join(b"\x3f" + extra + bytes([0xFF, 0xD0 + i]) for i in range(8))
    tables = segment(0xDB, QUANTIZATION) + DC + AC_END + segment(0xDD, b"\0\1")
    data = eight * (count // 8) + b"\x3f" * (count % 8 > 0)
    head = frame(BASELINE, width, height, (0x11,))
    return b"".join([SOI, tables, head, scan([1], data), EOI])


def noisy_jpeg(side: int, marker: int = BASELINE) -> bytes:
    """Noise as the data of a scan, with the codes of ordinary pictures."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, "JPEG", progressive=marker == PROGRESSIVE)
    data = buffer.getvalue()
    start = data.index(b"\xff\xda")
    start += 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    return data[:start] + noise(MAX_BYTES - start - 20_000).replace(b"\xff", b"\xfe") + EOI


def tiny_jpeg(extra: bytes = b"", before: bytes = b"", after: bytes = b"") -> bytes:
    """Returns a JPEG of 16×16 pixels with other bytes after its start and after its end."""
    return jpeg(_TINY, _TINY, before=extra) + before + after


def many_tables(content: bytes, marker: int) -> bytes:
    """As many tables as the limit on bytes permits, in segments as long as possible."""
    filled = segment(marker, content * (LONGEST // len(content)))
    return tiny_jpeg(filled * (MAX_BYTES // len(filled) - 1))
