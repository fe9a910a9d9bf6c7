"""Builders of WebP files. Layouts: WebP's container and lossless specifications, RFC 6386."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from functools import cache

from PIL import Image

from benchmarks.hostile.parts import MAX_BYTES, Bits, noise, riff

SIDE = 4082
"""Pixels; its square is just within a third of 50 million, the limit of this format."""
PREDICTOR, CROSS_COLOR, SUBTRACT_GREEN, COLOR_INDEXING = range(4)
_CODES = 5
"""Prefix codes of a group: green, red, blue, alpha, distance."""
_ORDER = (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
"""Order in which the lengths of the code for code lengths are stored."""


def container(*chunks: bytes, size: int | None = None) -> bytes:
    """Returns a WebP file of these chunks."""
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def lossless_header(width: int, height: int, *, alpha: bool = False) -> Bits:
    """Returns the beginning of a lossless bitstream."""
    bits = Bits()
    bits.put(0x2F, 8)
    bits.put(width - 1, 14)
    bits.put(height - 1, 14)
    bits.put(int(alpha), 1)
    bits.put(0, 3)
    return bits


def _one_symbol(bits: Bits, symbol: int = 0) -> None:
    """A prefix code of one symbol, which takes no bits."""
    bits.put(0b01, 2)  # simple, one symbol
    bits.put(1, 1)
    bits.put(symbol, 8)


def _group(bits: Bits, *symbols: int) -> None:
    for index in range(_CODES):
        _one_symbol(bits, symbols[index] if index < len(symbols) else 0)


def _transform(bits: Bits, kind: int, tile_bits: int, mode: int) -> None:
    bits.put(1, 1)
    bits.put(kind, 2)
    if kind in (PREDICTOR, CROSS_COLOR):
        bits.put(tile_bits - 2, 3)
    elif kind == COLOR_INDEXING:
        bits.put(mode, 8)  # colors less one
    if kind != SUBTRACT_GREEN:
        bits.put(0, 1)  # no color cache
        _group(bits, mode % 14, 3, 5, 255)


def lossless(
    width: int,
    height: int,
    *,
    transforms: Sequence[int] = (),
    mode: int = 11,
    cache_bits: int = 0,
    alpha: bool = False,
    rest: bytes = b"",
) -> bytes:
    """Returns a lossless WebP of one color; its pixels take no bits.

    Args:
        width: pixels.
        height: pixels.
        transforms: their kinds, in order.
        mode: of the predictor, and number of colors less one.
        cache_bits: of the color cache; 0 for none.
        alpha: whether it is transparent.
        rest: noise to put in the place of the prefix codes and pixels.
    """
    bits = lossless_header(width, height, alpha=alpha)
    for kind in transforms:
        _transform(bits, kind, 2, mode)
    if rest:
        return container(riff(b"VP8L", bits.packed() + rest))
    bits.put(0, 1)
    bits.put(int(cache_bits > 0), 1)
    if cache_bits:
        bits.put(cache_bits, 4)
    bits.put(0, 1)  # one group of codes
    _group(bits, 7, 9, 11, 0 if alpha else 255)
    return container(riff(b"VP8L", bits.packed() + bytes(8)))


def _eight_bit_code(bits: Bits, alphabet: int) -> None:
    """A prefix code in which the first 256 symbols have eight bits and the others none."""
    bits.put(0, 1)
    bits.put(len(_ORDER) - 4, 4)
    lengths = {8: 1, 18: 2, 0: 3, 16: 3}
    for symbol in _ORDER:
        bits.put(lengths.get(symbol, 0), 3)
    bits.put(0, 1)  # all symbols are given
    codes = {8: (0b0, 1), 18: (0b10, 2), 0: (0b110, 3), 16: (0b111, 3)}

    def put(symbol: int, extra: int = 0, width: int = 0) -> None:
        bits.put_reversed(*codes[symbol])
        bits.put(extra, width)

    put(8)
    for _ in range(42):
        put(16, 3, 2)  # repeated six times
    for _ in range(3):
        put(8)
    for _ in range((alphabet - 256) // 138):
        put(18, 127, 7)
    for _ in range((alphabet - 256) % 138):
        put(0)


@cache
def many_groups(side: int, groups: int, cache_bits: int, *, wide: bool = False) -> bytes:
    """Many groups of prefix codes, each used by a tile of 4×4 pixels.

    With `wide` each first code has 256 symbols, so that tables are filled.
    """
    bits = lossless_header(side, side)
    bits.put(0, 1)
    bits.put(int(cache_bits > 0), 1)
    if cache_bits:
        bits.put(cache_bits, 4)
    bits.put(1, 1)
    bits.put(0, 3)  # tiles of 4
    bits.put(0, 1)  # the picture of groups: no color cache
    _eight_bit_code(bits, 256 + 24)
    _eight_bit_code(bits, 256)
    for _ in range(3):
        _one_symbol(bits)
    reversed_ = [int(f"{value:08b}"[::-1], 2) for value in range(256)]
    for tile in range((-(-side // 4)) ** 2):
        group = tile % groups
        bits.put(reversed_[group & 255], 8)
        bits.put(reversed_[group >> 8], 8)
    colors = 256 + 24 + (1 << cache_bits if cache_bits else 0)
    single, first = Bits(), Bits()
    _group(single)
    if wide:
        _eight_bit_code(first, colors)
        for _ in range(_CODES - 1):
            _one_symbol(first)
    for _ in range(groups):
        bits.extend(first if wide else single)
    return container(riff(b"VP8L", bits.packed() + bytes(side * side if wide else 8)))


def deep_codes(side: int) -> bytes:
    """Noise after a code of 256 symbols for each color."""
    bits = lossless_header(side, side)
    for kind in (PREDICTOR, CROSS_COLOR, SUBTRACT_GREEN):
        _transform(bits, kind, 2, 11)
    bits.put(0, 3)
    _eight_bit_code(bits, 256 + 24)
    for _ in range(3):
        _eight_bit_code(bits, 256)
    _one_symbol(bits)
    return container(riff(b"VP8L", bits.packed() + noise(min(side * side * 4, MAX_BYTES - 1000))))


def lossy_frame(width: int, height: int, data: bytes) -> bytes:
    """Returns a key frame of VP8 whose first partition is most of the data."""
    first = min(len(data) // 2, (1 << 19) - 1)
    head = (first << 5 | 1 << 4).to_bytes(3, "little")
    return head + b"\x9d\x01\x2a" + struct.pack("<HH", width, height) + data


def lossy(width: int, height: int, data: bytes) -> bytes:
    """Returns a lossy WebP of these data."""
    return container(riff(b"VP8 ", lossy_frame(width, height, data)))


def extended(width: int, height: int, flags: int, *chunks: bytes) -> bytes:
    """Returns a WebP with an extended header, in which `flags` tell its features."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return container(riff(b"VP8X", bytes([flags, 0, 0, 0]) + size), *chunks)


def with_alpha(side: int, compression: int, filter_: int, preprocessing: int) -> bytes:
    """Returns a lossy WebP with an alpha channel, coded in one of its ways."""
    head = bytes([compression | filter_ << 2 | preprocessing << 4])
    if compression:
        # A lossless bitstream without its header of 5 bytes.
        bits = Bits()
        bits.put(0, 3)
        _group(bits, 128)
        alpha = bits.packed() + bytes(8)
    else:
        alpha = (noise(4096) * (side * side // 4096 + 1))[: side * side]
    picture = riff(b"VP8 ", lossy_frame(side, side, bytes(1_000_000)))
    return extended(side, side, 0x10, riff(b"ALPH", head + alpha), picture)


def animation(frames: int, side: int, canvas: int, inner: bytes) -> bytes:
    """Returns an animation of equal frames."""
    place = bytes(6) + (side - 1).to_bytes(3, "little") * 2 + (100).to_bytes(3, "little") + b"\0"
    frame = riff(b"ANMF", place + inner)
    return extended(canvas, canvas, 0x02, riff(b"ANIM", bytes(6)), frame * frames)


def real_webp(side: int, **options: object) -> bytes:
    """Returns noise as Pillow encodes it."""
    buffer = io.BytesIO()
    Image.frombytes("RGBA", (side, side), noise(side * side * 4)).save(buffer, "WEBP", **options)
    return buffer.getvalue()
