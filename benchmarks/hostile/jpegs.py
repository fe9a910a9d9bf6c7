"""Hostile JPEG files. Layout: ITU-T T.81, JFIF, Exif, Adobe's segment."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from functools import partial

from PIL import Image

from benchmarks.hostile.jpeg_files import (
    AC_END,
    BASELINE,
    DC,
    EOI,
    FULL,
    LONGEST,
    PROGRESSIVE,
    QUANTIZATION,
    SOI,
    frame,
    jpeg,
    many_tables,
    noisy_jpeg,
    progressive,
    restarts,
    scan,
    segment,
    tiny_jpeg,
)
from benchmarks.hostile.parts import (
    LIMIT_SIDE,
    Hostile,
    cut,
    exif,
    nested_exif,
    noise,
)


def pictures() -> Iterator[Hostile]:
    """Yields all hostile JPEG files."""
    yield from _at_the_limit()
    yield from _noise_and_sizes()
    yield from _scans()
    yield from _segments()
    yield from _metadata()
    yield from _codings()
    yield from _cut()


def _at_the_limit() -> Iterator[Hostile]:
    side = LIMIT_SIDE
    cases = {
        "gray": (0x11,),
        "4:4:4": FULL[3],
        "4:2:0": (0x22, 0x11, 0x11),
        "4:1:1": (0x41, 0x11, 0x11),
        "4:1:0": (0x42, 0x11, 0x11),
        "odd sampling": (0x11, 0x22, 0x12),
        "color at three times the gray": (0x11, 0x31, 0x13),
        "CMYK": FULL[4],
        "CMYK, odd sampling": (0x22, 0x11, 0x21, 0x11),
        "two components": (0x11, 0x11),
    }
    for name, sampling in cases.items():
        for adobe in (None, 0, 1, 2):
            extra = b"" if adobe is None else segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([adobe]))
            make = partial(jpeg, side, side, sampling, before=extra)
            full = f"{name}{'' if adobe is None else f', transform {adobe}'}"
            if adobe is None or len(sampling) > 2:
                yield Hostile("JPEG at the pixel limit", full, make)
    for name in ("gray", "4:2:0", "CMYK"):
        for orientation in (3, 5, 6, 7):
            extra = segment(0xE1, b"Exif\0\0" + exif(orientation))
            make = partial(jpeg, side, side, cases[name], before=extra)
            yield Hostile("JPEG turned", f"{name}, orientation {orientation}", make)
    for name in ("gray", "4:2:0"):
        make = partial(jpeg, side, side, cases[name], dense=True)
        yield Hostile("JPEG with all coefficients", name, make)


def _noise_and_sizes() -> Iterator[Hostile]:
    for side in (1000, 4000, 7000):
        for marker in (BASELINE, PROGRESSIVE):
            name = f"{'progressive, ' * (marker == PROGRESSIVE)}{side}×{side}"
            yield Hostile("JPEG of 32 MB of noise", name, partial(noisy_jpeg, side, marker))
    for width, height in ((65_535, 762), (762, 65_535), (65_535, 1), (1, 65_535), (65_500, 763)):
        for sampling in ((0x11,), (0x44,), (0x41, 0x14, 0x11)):
            name = f"{width}×{height}, {' '.join(f'{f:x}' for f in sampling)}"
            make = partial(jpeg, width, height, sampling)
            yield Hostile("JPEG of odd sizes", name, make, small=width * height < 100_000)
    for width, height in ((0, 8), (8, 0), (65_535, 65_535), (7072, 7072)):
        make = partial(_empty, width, height)
        yield Hostile("JPEG of odd sizes", f"{width}×{height}", make, small=True)


def _empty(width: int, height: int) -> bytes:
    head = frame(BASELINE, width, height, FULL[3])
    return b"".join([SOI, segment(0xDB, QUANTIZATION), DC, AC_END, head, scan([1, 2, 3], b""), EOI])


def _scans() -> Iterator[Hostile]:
    kind = "JPEG with many scans"
    for kind_, sampling, name in (
        ("DC", FULL[3], "DC, 4:4:4"),
        ("DC", FULL[4], "DC, CMYK"),
        ("DC", (0x11,), "DC, gray"),
        ("AC", FULL[3], "AC, 4:4:4"),
        ("AC", (0x11,), "AC, gray"),
    ):
        for scans, side in ((12, LIMIT_SIDE), (40, 3872), (100, 2449), (101, 64), (5000, 16)):
            make = partial(progressive, side, side, sampling, scans, kind=kind_)
            yield Hostile(kind, f"{scans} of {name}, {side}×{side}", make, small=side < 100)
        for scans, side in ((13, LIMIT_SIDE), (100, LIMIT_SIDE)):
            make = partial(progressive, side, side, sampling, scans, kind=kind_)
            yield Hostile(kind, f"{scans} of {name}, {side}×{side}", make)
        make = partial(progressive, 5000, 5000, sampling, 5, kind=kind_, end=b"")
        yield Hostile(kind, f"5 of {name}, 5000×5000, without an end", make)
    for scans, side in ((5, LIMIT_SIDE), (9, 4700), (12, 4000)):
        make = partial(progressive, side, side, (0x11,), scans, kind="refinement")
        yield Hostile(kind, f"{scans} refinements, {side}×{side}", make)
    for side in (LIMIT_SIDE, 1000):
        yield Hostile(
            "JPEG with restarts",
            f"{side}×{side}",
            partial(restarts, side, side),
            small=side < 2000,
        )
        make = partial(restarts, side, side, extra=b"\xff" * 30)
        yield Hostile("JPEG with restarts", f"{side}×{side}, filled", make, small=side < 2000)


def _segments() -> Iterator[Hostile]:
    kind = "JPEG with many tables"
    yield Hostile(kind, "quantization", partial(many_tables, QUANTIZATION, 0xDB))
    yield Hostile(
        kind, "quantization of 16 bits", partial(many_tables, bytes([16, *[0, 1] * 64]), 0xDB)
    )
    yield Hostile(kind, "empty codes", partial(many_tables, bytes(17), 0xC4))
    full = bytes([0, *[0] * 7, 255, *[0] * 8, *range(255)])
    yield Hostile(kind, "codes of 255 symbols", partial(many_tables, full, 0xC4))
    yield Hostile(
        kind,
        "too many codes",
        lambda: tiny_jpeg(segment(0xC4, bytes([0, *[255] * 16]) + bytes(4080))),
        small=True,
    )
    kind = "JPEG with many segments"
    for name, extra, count in (
        ("EXIF", segment(0xE1, b"Exif\0\0" + exif(1, before=200)), 9_900),
        ("empty quantization", segment(0xDB), 9_900),
        ("frames", frame(BASELINE, 16, 16, FULL[3]), 9_900),
        ("JFIF", segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"), 9_900),
        ("Adobe", segment(0xEE, b"Adobe\0\x64\0\0\0\0\0"), 9_900),
        ("restart intervals", segment(0xDD, b"\0\0"), 9_900),
        ("extensions", segment(0xF0), 9_900),
        ("JFIF", segment(0xE0, b"JFIF\0"), 4_000_000),
        ("comments", segment(0xFE), 8_000_000),
        ("second starts", SOI, 16_000_000),
        ("fill bytes", b"\xff", 32_000_000),
        ("JFIF of 3 kB", segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0" + bytes(3000)), 9_900),
        ("garbage", b"\0garbage\xff\0\xff\1", 2_000_000),
    ):
        make = partial(lambda extra, count: tiny_jpeg(extra * count), extra, count)
        yield Hostile(kind, f"{count} {name}", make, small=count < 10_000 and len(extra) < 100)
    yield Hostile(
        kind,
        "32 MB of fill bytes at the end",
        lambda: tiny_jpeg()[:-2] + b"\xff" * 32_000_000 + EOI,
    )
    yield Hostile(
        kind,
        "32 MB of fill bytes and zeros",
        lambda: tiny_jpeg()[:-2] + b"\xff\xff\0" * 10_000_000 + EOI,
    )
    yield Hostile(kind, "30 MB after the end", lambda: tiny_jpeg() + noise(30_000_000))


def _metadata() -> Iterator[Hostile]:
    kind = "JPEG with metadata"
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>" + b"<a>" * 20_000
    longest = bytes(LONGEST - 60)
    for name, content in (
        ("65,000 entries", segment(0xE1, b"Exif\0\0" + exif(1, before=5_400))),
        ("directories in a circle", segment(0xE1, b"Exif\0\0" + nested_exif(6))),
        ("next directory is the first", segment(0xE1, b"Exif\0\0" + exif(3, following=8))),
        ("30 MB of XMP", segment(0xE1, xmp) * 480),
        (
            "30 MB of ICC",
            b"".join(
                segment(0xE2, b"ICC_PROFILE\0" + bytes([i % 255 + 1, 255]) + longest)
                for i in range(480)
            ),
        ),
        (
            "30 MB of Photoshop",
            segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5_000) * 480,
        ),
        ("pictures of MPF", segment(0xE2, b"MPF\0" + exif(1, before=5_000)) * 400),
        (
            "thumbnail of 64 kB",
            segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\x93\x93" + bytes(147 * 147 * 3)),
        ),
        (
            "an EXIF thumbnail that is the picture",
            segment(0xE1, b"Exif\0\0" + exif(1, following=8) + jpeg(400, 400)),
        ),
    ):
        yield Hostile(kind, name, partial(tiny_jpeg, content), small="30" not in name)


def _codings() -> Iterator[Hostile]:
    kind = "JPEG of other codings"
    for marker in (*range(0xC1, 0xD0), 0xF7):
        if marker in (0xC4, 0xC8, 0xCC):
            continue
        for precision in (8, 12, 16):
            make = partial(jpeg, 512, 512, marker=marker, precision=precision)
            yield Hostile(kind, f"frame {marker:02X}, {precision} bits", make, small=True)
    for height in (0, 16):
        dnl = segment(0xDC, b"\0\x10")
        make = partial(
            lambda height, dnl: (
                jpeg(16, 16).replace(b"\x08\0\x10\0\x10", struct.pack(">BHH", 8, height, 16))[:-2]
                + dnl
                + EOI
            ),
            height,
            dnl,
        )
        yield Hostile(kind, f"height {height} and DNL", make, small=True)
    lines = segment(0xDC, b"\xff\xff")
    yield Hostile(kind, "100,000 DNL", lambda: tiny_jpeg()[:-2] + lines * 100_000 + EOI, small=True)
    two = frame(BASELINE, 16, 16, FULL[3]) + frame(BASELINE, 65_000, 65_000, FULL[3])
    yield Hostile(kind, "two frames, the second too large", lambda: tiny_jpeg(two), small=True)


def _cut() -> Iterator[Hostile]:
    buffer = io.BytesIO()
    Image.frombytes("RGB", (200, 200), noise(120_000)).save(buffer, "JPEG", quality=95)
    whole = buffer.getvalue()
    for place in (*range(0, 700, 28), *range(1000, len(whole), 9_000)):
        yield Hostile("JPEG cut off", f"at {place}", partial(cut, whole, place), small=True)
    for name, sampling in (("gray", (0x11,)), ("4:4:4", FULL[3]), ("CMYK", FULL[4])):
        for lacking in (2, 100, 50_000):
            whole = jpeg(LIMIT_SIDE, LIMIT_SIDE, sampling)
            make = partial(cut, whole, len(whole) - lacking)
            yield Hostile("JPEG cut off", f"at the limit, {name}, {lacking} bytes lack", make)
