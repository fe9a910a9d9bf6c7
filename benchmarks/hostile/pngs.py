"""Hostile PNG files. Layouts: the PNG specification (W3C, third edition), RFC 1951."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from functools import partial

from benchmarks.hostile.parts import (
    LIMIT_SIDE,
    MAX_BYTES,
    Hostile,
    chunk,
    cut,
    exif,
    nested_exif,
    noise,
    zeros,
)
from benchmarks.hostile.png_files import (
    EMPTY_FIXED,
    EMPTY_STORED,
    GRAY,
    MOST_CHUNKS,
    PALETTE,
    RGB,
    RGBA,
    TURNED_SIDE,
    TYPES,
    apng,
    dynamic_block,
    empty_blocks,
    filtered,
    many_idat,
    noisy_png,
    png,
    text_bomb,
    tiny_png,
    transparency,
)


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
        if color in (GRAY, RGB, PALETTE):
            make = partial(png, side, side, color, depth, extra=transparency(color))
            yield Hostile("PNG with tRNS at the limit", name, make)
    for color in (GRAY, RGB, RGBA):
        for filter_ in range(1, 5):
            name = f"type {color}, filter {filter_}"
            yield Hostile("PNG filters at the limit", name, partial(filtered, color, filter_))
    yield Hostile("PNG filters at the limit", "32 MB of noise", noisy_png)


def _turned() -> Iterator[Hostile]:
    for color, depth in ((0, 8), (0, 16), (2, 8), (2, 16), (3, 8), (4, 8), (6, 8), (6, 16)):
        for orientation in range(2, 9):
            side = LIMIT_SIDE if orientation in (3, 6) else TURNED_SIDE
            extra = chunk(b"eXIf", exif(orientation))
            name = f"type {color}, {depth} bits, orientation {orientation}, {side}×{side}"
            make = partial(png, side, side, color, depth, extra=extra)
            yield Hostile("PNG turned", name, make)
    for color in (GRAY, RGB, PALETTE):
        extra = chunk(b"eXIf", exif(6)) + transparency(color)
        make = partial(png, LIMIT_SIDE, LIMIT_SIDE, color, 8, extra=extra)
        yield Hostile("PNG turned", f"type {color} with tRNS, orientation 6", make)


def _sizes() -> Iterator[Hostile]:
    extreme = 0x7FFFFFFF
    for width, height in (
        *((1, 65_535), (65_535, 1), (65_535, 762), (762, 65_535), (2, 65_535), (7, 65_535)),
        *((1, 65_536), (65_536, 762), (1, 50_000_000), (50_000_000, 1), (3, 16_666_666)),
        *((7072, 7071), (extreme, 1), (1, extreme), (extreme, extreme), (0, 5), (5, 0)),
    ):
        for color, interlaced in ((PALETTE, False), (RGBA, True)):
            bounded = width * height <= 50_000_000
            data = None if bounded else zeros(100)
            name = f"{width}×{height}, type {color}{', Adam7' * interlaced}"
            make = partial(png, width, height, color, interlaced=interlaced, data=data)
            yield Hostile("PNG of odd sizes", name, make, small=width * height < 300_000)
    for side in range(1, 9):
        make = partial(png, side, 9 - side, GRAY, 1, interlaced=True)
        yield Hostile("PNG of odd sizes", f"{side}×{9 - side}, 1 bit, Adam7", make, small=True)


def _chunks() -> Iterator[Hostile]:
    kind = "PNG with many chunks"
    for size in (0, 1, 3):
        make = partial(many_idat, size, MOST_CHUNKS)
        yield Hostile(kind, f"{MOST_CHUNKS} IDAT of {size} bytes", make)
    for code in (b"IDAT", b"tEXt", b"abcd", b"ABCD", b"PLTE", b"IHDR", b"tRNS"):
        for count in (MOST_CHUNKS, 2_700_000):
            small = count == MOST_CHUNKS and code in (b"IDAT", b"tEXt")
            make = partial(lambda code, count: tiny_png(chunk(code, b"") * count), code, count)
            yield Hostile(kind, f"{count} empty {code.decode()}", make, small=small)
    icc = chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(100_000)))
    for name, extra, count in (
        ("iCCP", icc, 20_000),
        ("iTXt", chunk(b"iTXt", b"k\0\0\0\0\0" + bytes(600)), MOST_CHUNKS),
        ("PLTE of 768 bytes", chunk(b"PLTE", bytes(768)), 40_000),
        ("tRNS of 256 bytes", chunk(b"tRNS", bytes(256)), MOST_CHUNKS),
        ("IHDR", chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0)), MOST_CHUNKS),
        ("unknown critical ones of 600 bytes", chunk(b"ABCD", bytes(600)), MOST_CHUNKS),
    ):
        make = partial(lambda extra, count: tiny_png(extra * count), extra, count)
        yield Hostile(kind, f"{count} {name}", make)
    for frames in (100, 15_000):
        yield Hostile("APNG", f"{frames} frames", partial(apng, frames), small=frames == 100)
    for name, metadata in (
        ("65,000 entries", exif(1, before=65_000)),
        ("directories in a circle", nested_exif(6)),
        ("next directory is the first", exif(3, following=8)),
        ("30 MB", exif(1) + bytes(30_000_000)),
    ):
        make = partial(tiny_png, chunk(b"eXIf", metadata))
        yield Hostile("PNG with EXIF", name, make, small="30" not in name)
    for text in (b"zTXt", b"iTXt", b"iCCP"):
        for size in (1 << 20, 1 << 26, 1 << 30):
            make = partial(text_bomb, text, size)
            name = f"{text.decode()} of {size >> 20} MiB"
            yield Hostile("PNG text and profile bombs", name, make, small=size < 1 << 30)


def _streams() -> Iterator[Hostile]:
    kind = "PNG with empty deflate blocks"
    size = MAX_BYTES - 10_000
    for name, bits in (
        ("stored", EMPTY_STORED),
        ("fixed", EMPTY_FIXED),
        ("dynamic, one code", dynamic_block(full=False)),
        ("dynamic, 257 codes", dynamic_block(full=True)),
    ):
        yield Hostile(kind, f"{name}, 32 MB", partial(empty_blocks, size, bits))
        yield Hostile(kind, f"{name}, 100 kB", partial(empty_blocks, 100_000, bits), small=True)
    kind = "PNG with too much data"
    for count in (1 << 20, 1 << 28, 1 << 33):
        make = partial(lambda count: tiny_png(data=zeros(count)), count)
        yield Hostile(kind, f"{count >> 20} MiB of pixels for 8×8", make, small=count == 1 << 20)
    make = partial(lambda: tiny_png() + noise(30_000_000))
    yield Hostile(kind, "30 MB after the end", make)


def _cut() -> Iterator[Hostile]:
    whole = png(300, 300, RGBA, data=zlib.compress(noise(300 * 1201), 1), extra=transparency(2))
    for place in range(0, 120, 4):
        yield Hostile("PNG cut off", f"at {place}", partial(cut, whole, place), small=True)
    for place in range(1000, len(whole), 45_000):
        yield Hostile("PNG cut off", f"at {place}", partial(cut, whole, place), small=True)
    for color, depth in TYPES[::3]:
        make = partial(
            lambda color, depth: png(LIMIT_SIDE, LIMIT_SIDE, color, depth)[:-1000], color, depth
        )
        yield Hostile("PNG cut off", f"at the limit, type {color}, {depth} bits", make)
