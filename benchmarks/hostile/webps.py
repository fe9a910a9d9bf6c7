"""Hostile WebP files. Layouts: WebP's container and lossless bitstream specifications, RFC 6386."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.hostile.parts import Hostile, cut, exif, nested_exif, noise, riff
from benchmarks.hostile.webp_files import (
    COLOR_INDEXING,
    CROSS_COLOR,
    PREDICTOR,
    SIDE,
    SUBTRACT_GREEN,
    animation,
    container,
    deep_codes,
    extended,
    lossless,
    lossy,
    many_groups,
    real_webp,
    with_alpha,
)


def pictures() -> Iterator[Hostile]:
    """Yields all hostile WebP files."""
    yield from _lossless()
    yield from _lossy_ones()
    yield from _containers()
    yield from _cut()


def _lossless() -> Iterator[Hostile]:
    kind = "WebP in 40 bytes"
    for width, height in (
        *((7071, 7071), (SIDE, SIDE), (16_384, 16_384), (16_384, 1017), (1017, 16_384)),
        *((1, 16_384), (16_384, 1), (1, 1)),
    ):
        small = width * height < 20_000
        make = partial(lossless, width, height)
        yield Hostile(kind, f"{width}×{height}", make, small=small)
        make = partial(lossless, width, height, alpha=True)
        yield Hostile(kind, f"{width}×{height}, transparent", make, small=small)
    kind = "WebP with transforms"
    orders = (
        *((PREDICTOR,), (CROSS_COLOR,), (SUBTRACT_GREEN,), (COLOR_INDEXING,)),
        *((PREDICTOR, CROSS_COLOR, SUBTRACT_GREEN), (SUBTRACT_GREEN, CROSS_COLOR, PREDICTOR)),
        *((COLOR_INDEXING, PREDICTOR), (3, 0, 1, 2), (2, 1, 0, 3), (0, 0), (3, 3)),
    )
    for transforms in orders:
        name = "".join("PCSI"[kind_] for kind_ in transforms)
        for side in (SIDE, 64):
            make = partial(lossless, side, side, transforms=transforms)
            yield Hostile(kind, f"{name}, {side}×{side}", make, small=side == 64)
    for mode in range(14):
        make = partial(lossless, SIDE, SIDE, transforms=(0,), mode=mode)
        yield Hostile(kind, f"predictor {mode}", make)
    for colors in (2, 4, 16, 17, 256):
        make = partial(lossless, SIDE, SIDE, transforms=(3,), mode=colors - 1)
        yield Hostile(kind, f"palette of {colors}", make)
    for bits in (1, 11, 12):
        yield Hostile(
            kind, f"color cache of {bits} bits", partial(lossless, SIDE, SIDE, cache_bits=bits)
        )
    kind = "WebP with many groups of codes"
    for side, groups, cache_bits in (
        (1024, 65_536, 0),
        (1024, 65_536, 11),
        (512, 16_000, 11),
        (64, 256, 0),
    ):
        name = f"{groups}, {side}×{side}, cache of {cache_bits} bits"
        make = partial(many_groups, side, groups, cache_bits)
        yield Hostile(kind, name, make, small=side == 64)
        make = partial(many_groups, side, groups, cache_bits, wide=True)
        yield Hostile(kind, f"{name}, of 256 symbols", make, small=side == 64)
    for side in (512, 2800, SIDE):
        yield Hostile(
            "WebP of noise",
            f"lossless, {side}×{side}",
            partial(deep_codes, side),
            small=side == 512,
        )
        make = partial(lossless, side, side, rest=noise(100_000))
        yield Hostile("WebP of noise", f"as codes, {side}×{side}", make, small=True)


def _lossy_ones() -> Iterator[Hostile]:
    for side, size in ((SIDE, 1_000_000), (SIDE, 30_000_000), (16_383, 1000), (1000, 1_000_000)):
        for name, data in (("zeros", bytes), ("noise", noise)):
            make = partial(lambda side, size, data: lossy(side, side, data(size)), side, size, data)
            yield Hostile("WebP, lossy", f"{size} bytes of {name}, {side}×{side}", make)
    for compression in (0, 1, 2):
        for filter_ in range(4):
            for preprocessing in (0, 1):
                side = SIDE if preprocessing else 256
                make = partial(with_alpha, side, compression, filter_, preprocessing)
                name = f"compression {compression}, filter {filter_}, {side}×{side}"
                yield Hostile("WebP with alpha", name, make, small=side == 256)


def _containers() -> Iterator[Hostile]:
    inner = lossless(SIDE, SIDE)[12:]
    tiny = lossless(8, 8)[12:]
    for frames, side, canvas, content in (
        *((1, SIDE, SIDE, inner), (49_000, 8, 8, tiny), (400_000, 8, 8, tiny)),
        *(
            (100, 8, SIDE, tiny),
            (2, 8, 1 << 24, tiny),
            (100, SIDE, 8, inner),
            (100, 8, 16_384, tiny),
        ),
    ):
        make = partial(animation, frames, side, canvas, content)
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
                lambda name, count: extended(8, 8, 0x2C, riff(name, b"") * count, tiny),
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
        make = partial(extended, 8, 8, 0x2C, metadata, tiny)
        yield Hostile(kind, label, make, small="30" not in label)
    for orientation in range(2, 9):
        make = partial(extended, SIDE, SIDE, 0x08, inner, riff(b"EXIF", exif(orientation)))
        yield Hostile("WebP turned", f"orientation {orientation}", make)
    sizes: dict[str, Callable[[], bytes]] = {
        "canvas larger than the picture": partial(extended, 1 << 24, 1 << 24, 0, tiny),
        "picture larger than the canvas": partial(extended, 8, 8, 0, inner),
        "file of 4 GB": partial(container, tiny, size=0xFFFFFFFE),
        "file of 0 bytes": partial(container, tiny, size=0),
        "chunk of 4 GB": lambda: container(b"VP8L\xff\xff\xff\xff", tiny),
        "30 MB after the end": lambda: lossless(8, 8) + noise(30_000_000),
    }
    for name_, make_ in sizes.items():
        yield Hostile("WebP of odd sizes", name_, make_, small="30" not in name_)


def _cut() -> Iterator[Hostile]:
    for name, options in (("lossy", {"quality": 90}), ("lossless", {"lossless": True})):
        whole = real_webp(64, **options)
        for place in (*range(0, 64, 8), *range(100, len(whole), max(len(whole) // 8, 1))):
            yield Hostile(
                "WebP cut off",
                f"{name}, at {place}",
                partial(cut, whole, place),
                small=True,
            )
