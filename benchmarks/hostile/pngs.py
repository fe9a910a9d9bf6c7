"""Hostile PNG files. Layouts: the PNG specification (W3C, third edition), RFC 1951."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from functools import partial

from benchmarks.hostile.parts import (
    LIMIT_SIDE,
    MAX_BYTES,
    Bits,
    Hostile,
    chunk,
    deflated,
    exif,
    nested_exif,
    noise,
    zeros,
)

_START = b"\x89PNG\r\n\x1a\n"
_GRAY, _RGB, _PALETTE, _GRAY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_SAMPLES = {_GRAY: 1, _RGB: 3, _PALETTE: 1, _GRAY_ALPHA: 2, _RGBA: 4}
TYPES = (
    *((_GRAY, depth) for depth in (1, 2, 4, 8, 16)),
    *((_RGB, depth) for depth in (8, 16)),
    *((_PALETTE, depth) for depth in (1, 2, 4, 8)),
    *((color, depth) for color in (_GRAY_ALPHA, _RGBA) for depth in (8, 16)),
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
_TURNED_SIDE = 2000
_MOST_CHUNKS = 49_990


def png(  # noqa: PLR0913
    width: int,
    height: int,
    color: int = _RGB,
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
    palette = chunk(b"PLTE", bytes(range(48)) if depth > 2 else bytes(6)) * (color == _PALETTE)
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


def _tiny(extra: bytes = b"", data: bytes | None = None) -> bytes:
    return png(_TINY, _TINY, extra=extra, data=data)


def _filtered(color: int, filter_: int) -> bytes:
    """A picture at the limit, of repeated noise, in which every row has one filter."""
    size = LIMIT_SIDE * _SAMPLES[color]
    row = bytes([filter_]) + (noise(1000) * (size // 1000 + 1))[:size]
    return png(
        LIMIT_SIDE,
        LIMIT_SIDE,
        color,
        data=deflated(row * 9, LIMIT_SIDE // 9, row * (LIMIT_SIDE % 9)),
    )


def _noisy() -> bytes:
    """As much noise as the limit on bytes permits."""
    height = 3300
    row = b"\4" + noise(9999)
    return png(
        3333,
        height,
        data=zlib.compress(b"".join(row[:1] + noise(9999, y) for y in range(height)), 1),
    )


def _transparency(color: int) -> bytes:
    return chunk(b"tRNS", {_GRAY: bytes(2), _RGB: bytes(6), _PALETTE: b"\x80\xff"}[color])


def _dynamic_block(lengths_of_eight: bool) -> tuple[int, ...]:  # noqa: FBT001
    """Bits of a deflate block that defines its codes and holds nothing.

    With `lengths_of_eight` all 257 symbols have a code, so that tables are filled; otherwise only
    the end has one.
    """
    bits = Bits()
    bits.put(0b100, 3)  # dynamic, not last
    order = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
    if lengths_of_eight:
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

    if lengths_of_eight:
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
    bits_ = bits.packed()
    return tuple(bits_[place // 8] >> place % 8 & 1 for place in range(len(bits)))


def _blocks(bits: tuple[int, ...], size: int) -> bytes:
    """Deflate blocks without content, `size` bytes of them."""
    eight = Bits()
    eight.extend(bits * 8)
    return eight.packed() * (size // len(bits))


_EMPTY_STORED = (0, 0, 0, *(0,) * 5, *(0,) * 16, *(1,) * 16)
_EMPTY_FIXED = (0, 1, 0, *(0,) * 7)


def empty_blocks(size: int, bits: tuple[int, ...] | None = None) -> bytes:
    """Returns a PNG of 8×8 pixels whose data begin with as many bytes of blocks without content.

    By default each block defines prefix codes, which is slowest.
    """
    bits = _dynamic_block(False) if bits is None else bits
    raw = raw_bytes(_TINY, _TINY, _RGB, 8)
    return _tiny(data=deflated(bytes(raw), 1, before=_blocks(bits, size)))


def _many_idat(size: int, count: int) -> bytes:
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


def _text_bomb(kind: bytes, size: int) -> bytes:
    heads = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"iCCP": b"k\0\0"}
    return _tiny(chunk(kind, heads[kind] + zeros(size)))


def _apng(frames: int) -> bytes:
    control = struct.pack(">IIIIIHHBB", 0, _TINY, _TINY, 0, 0, 1, 10, 0, 0)
    frame = chunk(b"fcTL", control) + chunk(b"fdAT", b"\0\0\0\1" + zeros(raw_bytes(8, 8, 2, 8)))
    return _tiny(chunk(b"acTL", struct.pack(">II", frames, 0)) + frame * frames)


def pictures() -> Iterator[Hostile]:
    """Yields all hostile PNG files."""
    yield from _at_the_limit()
    yield from _turned()
    yield from _sizes()
    yield from _chunks()
    yield from _streams()
    yield from _cut()


def _at_the_limit() -> Iterator[Hostile]:
    side = LIMIT_SIDE
    for color, depth in TYPES:
        for interlaced in (False, True):
            name = f"type {color}, {depth} bits{', Adam7' * interlaced}"
            make = partial(png, side, side, color, depth, interlaced=interlaced)
            yield Hostile("PNG bomb at the pixel limit", name, make)
        name = f"type {color}, {depth} bits"
        make = partial(png, side, side, color, depth, data=zeros(100))
        yield Hostile("PNG at the limit without data", name, make)
        if color in (_GRAY, _RGB, _PALETTE):
            make = partial(png, side, side, color, depth, extra=_transparency(color))
            yield Hostile("PNG with tRNS at the limit", name, make)
    for color in (_GRAY, _RGB, _RGBA):
        for filter_ in range(1, 5):
            name = f"type {color}, filter {filter_}"
            yield Hostile("PNG filters at the limit", name, partial(_filtered, color, filter_))
    yield Hostile("PNG filters at the limit", "32 MB of noise", _noisy)


def _turned() -> Iterator[Hostile]:
    for color, depth in ((0, 8), (0, 16), (2, 8), (2, 16), (3, 8), (4, 8), (6, 8), (6, 16)):
        for orientation in range(2, 9):
            side = LIMIT_SIDE if orientation in (3, 6) else _TURNED_SIDE
            extra = chunk(b"eXIf", exif(orientation))
            name = f"type {color}, {depth} bits, orientation {orientation}, {side}×{side}"
            make = partial(png, side, side, color, depth, extra=extra)
            yield Hostile("PNG turned", name, make)
    for color in (_GRAY, _RGB, _PALETTE):
        extra = chunk(b"eXIf", exif(6)) + _transparency(color)
        make = partial(png, LIMIT_SIDE, LIMIT_SIDE, color, 8, extra=extra)
        yield Hostile("PNG turned", f"type {color} with tRNS, orientation 6", make)


def _sizes() -> Iterator[Hostile]:
    extreme = 0x7FFFFFFF
    for width, height in (
        *((1, 65_535), (65_535, 1), (65_535, 762), (762, 65_535), (2, 65_535), (7, 65_535)),
        *((1, 65_536), (65_536, 762), (1, 50_000_000), (50_000_000, 1), (3, 16_666_666)),
        *((7072, 7071), (extreme, 1), (1, extreme), (extreme, extreme), (0, 5), (5, 0)),
    ):
        for color, interlaced in ((_PALETTE, False), (_RGBA, True)):
            bounded = width * height <= 50_000_000
            data = None if bounded else zeros(100)
            name = f"{width}×{height}, type {color}{', Adam7' * interlaced}"
            make = partial(png, width, height, color, interlaced=interlaced, data=data)
            yield Hostile("PNG of odd sizes", name, make, small=width * height < 300_000)
    for side in range(1, 9):
        make = partial(png, side, 9 - side, _GRAY, 1, interlaced=True)
        yield Hostile("PNG of odd sizes", f"{side}×{9 - side}, 1 bit, Adam7", make, small=True)


def _chunks() -> Iterator[Hostile]:
    kind = "PNG with many chunks"
    for size in (0, 1, 3):
        make = partial(_many_idat, size, _MOST_CHUNKS)
        yield Hostile(kind, f"{_MOST_CHUNKS} IDAT of {size} bytes", make)
    for name in (b"IDAT", b"tEXt", b"abcd", b"ABCD", b"PLTE", b"IHDR", b"tRNS"):
        for count in (_MOST_CHUNKS, 2_700_000):
            small = count == _MOST_CHUNKS and name in (b"IDAT", b"tEXt")
            make = partial(lambda name, count: _tiny(chunk(name, b"") * count), name, count)
            yield Hostile(kind, f"{count} empty {name.decode()}", make, small=small)
    icc = chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(100_000)))
    for name, extra, count in (
        ("iCCP", icc, 20_000),
        ("iTXt", chunk(b"iTXt", b"k\0\0\0\0\0" + bytes(600)), _MOST_CHUNKS),
        ("PLTE of 768 bytes", chunk(b"PLTE", bytes(768)), 40_000),
        ("tRNS of 256 bytes", chunk(b"tRNS", bytes(256)), _MOST_CHUNKS),
        ("IHDR", chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0)), _MOST_CHUNKS),
        ("unknown critical ones of 600 bytes", chunk(b"ABCD", bytes(600)), _MOST_CHUNKS),
    ):
        make = partial(lambda extra, count: _tiny(extra * count), extra, count)
        yield Hostile(kind, f"{count} {name}", make)
    for frames in (100, 15_000):
        yield Hostile("APNG", f"{frames} frames", partial(_apng, frames), small=frames == 100)
    for name, metadata in (
        ("65,000 entries", exif(1, before=65_000)),
        ("directories in a circle", nested_exif(6)),
        ("next directory is the first", exif(3, following=8)),
        ("30 MB", exif(1) + bytes(30_000_000)),
    ):
        make = partial(_tiny, chunk(b"eXIf", metadata))
        yield Hostile("PNG with EXIF", name, make, small="30" not in name)
    for text in (b"zTXt", b"iTXt", b"iCCP"):
        for size in (1 << 20, 1 << 26, 1 << 30):
            make = partial(_text_bomb, text, size)
            name = f"{text.decode()} of {size >> 20} MiB"
            yield Hostile("PNG text and profile bombs", name, make, small=size < 1 << 30)


def _streams() -> Iterator[Hostile]:
    kind = "PNG with empty deflate blocks"
    size = MAX_BYTES - 10_000
    for name, bits in (
        ("stored", _EMPTY_STORED),
        ("fixed", _EMPTY_FIXED),
        ("dynamic, one code", _dynamic_block(False)),
        ("dynamic, 257 codes", _dynamic_block(True)),
    ):
        yield Hostile(kind, f"{name}, 32 MB", partial(empty_blocks, size, bits))
        yield Hostile(kind, f"{name}, 100 kB", partial(empty_blocks, 100_000, bits), small=True)
    kind = "PNG with too much data"
    for count in (1 << 20, 1 << 28, 1 << 33):
        make = partial(lambda count: _tiny(data=zeros(count)), count)
        yield Hostile(kind, f"{count >> 20} MiB of pixels for 8×8", make, small=count == 1 << 20)
    make = partial(lambda: _tiny() + noise(30_000_000))
    yield Hostile(kind, "30 MB after the end", make)


def _cut() -> Iterator[Hostile]:
    whole = png(300, 300, _RGBA, data=zlib.compress(noise(300 * 1201), 1), extra=_transparency(2))
    for place in range(0, 120, 4):
        yield Hostile(
            "PNG cut off", f"at {place}", partial(whole.__getitem__, slice(place)), small=True
        )
    for place in range(1000, len(whole), 45_000):
        yield Hostile(
            "PNG cut off", f"at {place}", partial(whole.__getitem__, slice(place)), small=True
        )
    for color, depth in TYPES[::3]:
        make = partial(
            lambda color, depth: png(LIMIT_SIDE, LIMIT_SIDE, color, depth)[:-1000], color, depth
        )
        yield Hostile("PNG cut off", f"at the limit, type {color}, {depth} bits", make)
