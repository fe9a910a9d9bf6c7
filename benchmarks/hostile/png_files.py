"""Builders of PNG files. Layouts: the PNG specification (W3C, third edition), RFC 1951."""

from __future__ import annotations

import struct
import zlib

from benchmarks.hostile.parts import (
    LIMIT_SIDE,
    Bits,
    chunk,
    deflated,
    noise,
    zeros,
)

_START = b"\x89PNG\r\n\x1a\n"
GRAY, RGB, PALETTE, _GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6
_SAMPLES = {GRAY: 1, RGB: 3, PALETTE: 1, _GRAY_ALPHA: 2, RGBA: 4}
TYPES = (
    *((GRAY, depth) for depth in (1, 2, 4, 8, 16)),
    *((RGB, depth) for depth in (8, 16)),
    *((PALETTE, depth) for depth in (1, 2, 4, 8)),
    *((color, depth) for color in (_GRAY_ALPHA, RGBA) for depth in (8, 16)),
)
"""Every color type with its bit depths."""
_ADAM7 = (
    (8, 8, 0, 0),
    (8, 8, 4, 0),
    (4, 8, 0, 4),
    (4, 4, 2, 0),
    (2, 4, 0, 2),
    (2, 2, 1, 0),
    (1, 2, 0, 1),
)
"""Steps and starts of the passes: x step, y step, x start, y start."""
_TINY = 8
TURNED_SIDE = 2000
MOST_CHUNKS = 49_990


def png(
    width: int,
    height: int,
    color: int = RGB,
    depth: int = 8,
    *,
    interlaced: bool = False,
    data: bytes | None = None,
    extra: bytes = b"",
) -> bytes:
    """Returns a PNG.

    Args:
        width: pixels.
        height: pixels.
        color: color type.
        depth: bits per sample.
        interlaced: whether it has Adam7's passes.
        data: zlib stream; by default of a black picture.
        extra: chunks before the data.
    """
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    if data is None:
        data = zeros(raw_bytes(width, height, color, depth, interlaced=interlaced))
    palette = chunk(b"PLTE", bytes(range(48)) if depth > 2 else bytes(6)) * (color == PALETTE)
    return b"".join(
        [_START, chunk(b"IHDR", header), palette, extra, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    )


def raw_bytes(width: int, height: int, color: int, depth: int, *, interlaced: bool = False) -> int:
    """Returns the bytes of a picture's rows with their filters, before compression."""
    bits = depth * _SAMPLES[color]
    passes = _ADAM7 if interlaced else ((1, 1, 0, 0),)
    total = 0
    for x_step, y_step, x, y in passes:
        columns, rows = -((x - width) // x_step), -((y - height) // y_step)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def tiny_png(extra: bytes = b"", data: bytes | None = None) -> bytes:
    """Returns a PNG of 8×8 pixels."""
    return png(_TINY, _TINY, extra=extra, data=data)


def filtered(color: int, filter_: int) -> bytes:
    """A picture at the limit, of repeated noise, in which every row has one filter."""
    size = LIMIT_SIDE * _SAMPLES[color]
    row = bytes([filter_]) + (noise(1000) * (size // 1000 + 1))[:size]
    return png(
        LIMIT_SIDE,
        LIMIT_SIDE,
        color,
        data=deflated(row * 9, LIMIT_SIDE // 9, row * (LIMIT_SIDE % 9)),
    )


def noisy_png() -> bytes:
    """As much noise as the limit on bytes permits."""
    height = 3300
    row = b"\4" + noise(9999)
    return png(
        3333,
        height,
        data=zlib.compress(b"".join(row[:1] + noise(9999, y) for y in range(height)), 1),
    )


def transparency(color: int) -> bytes:
    """Returns a chunk that makes some pixels of this color type transparent."""
    return chunk(b"tRNS", {GRAY: bytes(2), RGB: bytes(6), PALETTE: b"\x80\xff"}[color])


def dynamic_block(*, full: bool) -> tuple[int, ...]:
    """Bits of a deflate block that defines its codes and holds nothing.

    With `full` all 257 symbols have a code, so that tables are filled; otherwise only
    the end has one.
    """
    bits = Bits()
    bits.put(0b100, 3)  # dynamic, not last
    order = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
    if full:
        lengths = {16: 1, 8: 2, 9: 3, 1: 3}
        codes = {16: 0b0, 8: 0b10, 1: 0b110, 9: 0b111}
    else:
        lengths, codes = {1: 1, 18: 1}, {1: 0, 18: 1}
    bits.put(0, 5)
    bits.put(0, 5)
    bits.put(18 - 4, 4)
    for symbol in order[:18]:
        bits.put(lengths.get(symbol, 0), 3)

    def code(symbol: int, extra: int = 0, width: int = 0) -> None:
        bits.put_reversed(codes[symbol], lengths[symbol])
        bits.put(extra, width)

    if full:
        code(8)
        for _ in range(42):
            code(16, 3, 2)  # six more
        for symbol in (8, 8, 9, 9, 1):
            code(symbol)
        bits.put_reversed(0b111111111, 9)  # the end
    else:
        code(18, 127, 7)
        code(18, 107, 7)
        for symbol in (1, 1):
            code(symbol)
        bits.put(0, 1)
    return tuple(bits)


def _blocks(bits: tuple[int, ...], size: int) -> bytes:
    """Deflate blocks without content, `size` bytes of them."""
    eight = Bits()
    eight.extend(bits * 8)
    return eight.packed() * (size // len(bits))


EMPTY_STORED = (0, 0, 0, *(0,) * 5, *(0,) * 16, *(1,) * 16)
EMPTY_FIXED = (0, 1, 0, *(0,) * 7)


def empty_blocks(size: int, bits: tuple[int, ...] | None = None) -> bytes:
    """Returns a PNG of 8×8 pixels whose data begin with as many bytes of blocks without content.

    By default each block defines prefix codes, which is slowest.
    """
    bits = dynamic_block(full=False) if bits is None else bits
    raw = raw_bytes(_TINY, _TINY, RGB, 8)
    return tiny_png(data=deflated(bytes(raw), 1, before=_blocks(bits, size)))


def many_idat(size: int, count: int) -> bytes:
    """Pixel data in chunks of `size` bytes."""
    side = 600
    row = b"\0" + noise(side * 3)
    data = zlib.compress(b"".join(b"\0" + noise(side * 3, y) for y in range(side)), 1)
    whole = png(side, side, data=b"")
    place = whole.index(b"IDAT") - 4
    data = (data + row)[: size * count] if size else data
    parts = [data[i * size : (i + 1) * size] for i in range(count)] if size else [b""] * count
    rest = data[size * count :]
    return whole[:place] + b"".join(chunk(b"IDAT", part) for part in (*parts, rest)) + whole[-12:]


def text_bomb(kind: bytes, size: int) -> bytes:
    """Returns a PNG with a compressed text or profile of `size` bytes."""
    heads = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"iCCP": b"k\0\0"}
    return tiny_png(chunk(kind, heads[kind] + zeros(size)))


def apng(frames: int) -> bytes:
    """Returns an animated PNG."""
    control = struct.pack(">IIIIIHHBB", 0, _TINY, _TINY, 0, 0, 1, 10, 0, 0)
    frame = chunk(b"fcTL", control) + chunk(b"fdAT", b"\0\0\0\1" + zeros(raw_bytes(8, 8, 2, 8)))
    return tiny_png(chunk(b"acTL", struct.pack(">II", frames, 0)) + frame * frames)
