"""Hostile WebP files. Layouts: WebP's container and lossless bitstream specifications, RFC 6386."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial

from PIL import Image

from benchmarks.hostile.parts import MAX_BYTES, Bits, Hostile, exif, nested_exif, noise, riff

_SIDE = 4082
"""Pixels; its square is just within a third of 50 million, the limit of this format."""
_PREDICTOR, _CROSS_COLOR, _SUBTRACT_GREEN, _COLOR_INDEXING = range(4)
_CODES = 5
"""Prefix codes of a group: green, red, blue, alpha, distance."""
_ORDER = (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
"""Of the lengths of the code for code lengths."""


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
    if kind in (_PREDICTOR, _CROSS_COLOR):
        bits.put(tile_bits - 2, 3)
    elif kind == _COLOR_INDEXING:
        bits.put(mode, 8)  # colors less one
    if kind != _SUBTRACT_GREEN:
        bits.put(0, 1)  # no color cache
        _group(bits, mode % 14, 3, 5, 255)


def lossless(  # noqa: PLR0913
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
def _many_groups(side: int, groups: int, cache_bits: int, *, wide: bool = False) -> bytes:
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
    pattern = _bit_list(first if wide else single)
    for _ in range(groups):
        bits.extend(pattern)
    return container(riff(b"VP8L", bits.packed() + bytes(side * side if wide else 8)))


def _bit_list(bits: Bits) -> tuple[int, ...]:
    packed = bits.packed()
    return tuple(packed[place // 8] >> place % 8 & 1 for place in range(len(bits)))


def _deep_codes(side: int) -> bytes:
    """Noise after a code of 256 symbols for each color."""
    bits = lossless_header(side, side)
    for kind in (_PREDICTOR, _CROSS_COLOR, _SUBTRACT_GREEN):
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


def _lossy(width: int, height: int, data: bytes) -> bytes:
    return container(riff(b"VP8 ", lossy_frame(width, height, data)))


def _extended(width: int, height: int, flags: int, *chunks: bytes) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return container(riff(b"VP8X", bytes([flags, 0, 0, 0]) + size), *chunks)


def _with_alpha(side: int, compression: int, filter_: int, preprocessing: int) -> bytes:
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
    return _extended(side, side, 0x10, riff(b"ALPH", head + alpha), picture)


def _animation(frames: int, side: int, canvas: int, inner: bytes) -> bytes:
    place = bytes(6) + (side - 1).to_bytes(3, "little") * 2 + (100).to_bytes(3, "little") + b"\0"
    frame = riff(b"ANMF", place + inner)
    return _extended(canvas, canvas, 0x02, riff(b"ANIM", bytes(6)), frame * frames)


def _real(side: int, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.frombytes("RGBA", (side, side), noise(side * side * 4)).save(buffer, "WEBP", **options)
    return buffer.getvalue()


def pictures() -> Iterator[Hostile]:
    """Yields all hostile WebP files."""
    yield from _lossless()
    yield from _lossy_ones()
    yield from _containers()
    yield from _cut()


def _lossless() -> Iterator[Hostile]:
    kind = "WebP in 40 bytes"
    for width, height in (
        *((7071, 7071), (_SIDE, _SIDE), (16_384, 16_384), (16_384, 1017), (1017, 16_384)),
        *((1, 16_384), (16_384, 1), (1, 1)),
    ):
        small = width * height < 20_000
        make = partial(lossless, width, height)
        yield Hostile(kind, f"{width}×{height}", make, small=small)
        make = partial(lossless, width, height, alpha=True)
        yield Hostile(kind, f"{width}×{height}, transparent", make, small=small)
    kind = "WebP with transforms"
    orders = (
        *((_PREDICTOR,), (_CROSS_COLOR,), (_SUBTRACT_GREEN,), (_COLOR_INDEXING,)),
        *((_PREDICTOR, _CROSS_COLOR, _SUBTRACT_GREEN), (_SUBTRACT_GREEN, _CROSS_COLOR, _PREDICTOR)),
        *((_COLOR_INDEXING, _PREDICTOR), (3, 0, 1, 2), (2, 1, 0, 3), (0, 0), (3, 3)),
    )
    for transforms in orders:
        name = "".join("PCSI"[kind_] for kind_ in transforms)
        for side in (_SIDE, 64):
            make = partial(lossless, side, side, transforms=transforms)
            yield Hostile(kind, f"{name}, {side}×{side}", make, small=side == 64)
    for mode in range(14):
        make = partial(lossless, _SIDE, _SIDE, transforms=(0,), mode=mode)
        yield Hostile(kind, f"predictor {mode}", make)
    for colors in (2, 4, 16, 17, 256):
        make = partial(lossless, _SIDE, _SIDE, transforms=(3,), mode=colors - 1)
        yield Hostile(kind, f"palette of {colors}", make)
    for bits in (1, 11, 12):
        yield Hostile(
            kind, f"color cache of {bits} bits", partial(lossless, _SIDE, _SIDE, cache_bits=bits)
        )
    kind = "WebP with many groups of codes"
    for side, groups, cache_bits in (
        (1024, 65_536, 0),
        (1024, 65_536, 11),
        (512, 16_000, 11),
        (64, 256, 0),
    ):
        name = f"{groups}, {side}×{side}, cache of {cache_bits} bits"
        make = partial(_many_groups, side, groups, cache_bits)
        yield Hostile(kind, name, make, small=side == 64)
        make = partial(_many_groups, side, groups, cache_bits, wide=True)
        yield Hostile(kind, f"{name}, of 256 symbols", make, small=side == 64)
    for side in (512, 2800, _SIDE):
        yield Hostile(
            "WebP of noise",
            f"lossless, {side}×{side}",
            partial(_deep_codes, side),
            small=side == 512,
        )
        make = partial(lossless, side, side, rest=noise(100_000))
        yield Hostile("WebP of noise", f"as codes, {side}×{side}", make, small=True)


def _lossy_ones() -> Iterator[Hostile]:
    for side, size in ((_SIDE, 1_000_000), (_SIDE, 30_000_000), (16_383, 1000), (1000, 1_000_000)):
        for name, data in (("zeros", bytes), ("noise", noise)):
            make = partial(
                lambda side, size, data: _lossy(side, side, data(size)), side, size, data
            )
            yield Hostile("WebP, lossy", f"{size} bytes of {name}, {side}×{side}", make)
    for compression in (0, 1, 2):
        for filter_ in range(4):
            for preprocessing in (0, 1):
                side = _SIDE if preprocessing else 256
                make = partial(_with_alpha, side, compression, filter_, preprocessing)
                name = f"compression {compression}, filter {filter_}, {side}×{side}"
                yield Hostile("WebP with alpha", name, make, small=side == 256)


def _containers() -> Iterator[Hostile]:
    inner = lossless(_SIDE, _SIDE)[12:]
    tiny = lossless(8, 8)[12:]
    for frames, side, canvas, content in (
        *((1, _SIDE, _SIDE, inner), (49_000, 8, 8, tiny), (400_000, 8, 8, tiny)),
        *(
            (100, 8, _SIDE, tiny),
            (2, 8, 1 << 24, tiny),
            (100, _SIDE, 8, inner),
            (100, 8, 16_384, tiny),
        ),
    ):
        make = partial(_animation, frames, side, canvas, content)
        yield Hostile(
            "WebP animations",
            f"{frames} of {side} on {canvas}",
            make,
            small=canvas == 8 and frames < 1000,
        )
    kind = "WebP with many chunks"
    for name in (b"abcd", b"ICCP", b"EXIF", b"XMP ", b"ALPH", b"VP8L", b"VP8X", b"ANIM", b"ANMF"):
        for count in (49_000, 3_900_000):
            make = partial(
                lambda name, count: _extended(8, 8, 0x2C, riff(name, b"") * count, tiny),
                name,
                count,
            )
            yield Hostile(
                kind,
                f"{count} empty {name.decode().strip()}",
                make,
                small=count == 49_000 and name in (b"abcd", b"ANMF"),
            )
    kind = "WebP with metadata"
    for label, metadata in (
        ("65,000 entries", riff(b"EXIF", exif(1, before=65_000))),
        ("directories in a circle", riff(b"EXIF", nested_exif(6))),
        ("30 MB of EXIF", riff(b"EXIF", exif(1) + bytes(30_000_000))),
        ("30 MB of XMP", riff(b"XMP ", bytes(30_000_000))),
        ("30 MB of ICC", riff(b"ICCP", bytes(30_000_000))),
    ):
        make = partial(_extended, 8, 8, 0x2C, metadata, tiny)
        yield Hostile(kind, label, make, small="30" not in label)
    for orientation in range(2, 9):
        make = partial(_extended, _SIDE, _SIDE, 0x08, inner, riff(b"EXIF", exif(orientation)))
        yield Hostile("WebP turned", f"orientation {orientation}", make)
    sizes: dict[str, Callable[[], bytes]] = {
        "canvas larger than the picture": partial(_extended, 1 << 24, 1 << 24, 0, tiny),
        "picture larger than the canvas": partial(_extended, 8, 8, 0, inner),
        "file of 4 GB": partial(container, tiny, size=0xFFFFFFFE),
        "file of 0 bytes": partial(container, tiny, size=0),
        "chunk of 4 GB": lambda: container(b"VP8L\xff\xff\xff\xff", tiny),
        "30 MB after the end": lambda: lossless(8, 8) + noise(30_000_000),
    }
    for name_, make_ in sizes.items():
        yield Hostile("WebP of odd sizes", name_, make_, small="30" not in name_)


def _cut() -> Iterator[Hostile]:
    for name, options in (("lossy", {"quality": 90}), ("lossless", {"lossless": True})):
        whole = _real(64, **options)
        for place in (*range(0, 64, 8), *range(100, len(whole), max(len(whole) // 8, 1))):
            yield Hostile(
                "WebP cut off",
                f"{name}, at {place}",
                partial(whole.__getitem__, slice(place)),
                small=True,
            )
