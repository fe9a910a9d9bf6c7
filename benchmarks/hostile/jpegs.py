"""Hostile JPEG files. Layout: ITU-T T.81, JFIF, Exif, Adobe's segment."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from functools import cache, partial

import numpy as np
from PIL import Image

from benchmarks.hostile.parts import (
    LIMIT_SIDE,
    MAX_BYTES,
    Bits,
    Hostile,
    exif,
    nested_exif,
    noise,
)

BASELINE, EXTENDED, PROGRESSIVE, LOSSLESS = 0xC0, 0xC1, 0xC2, 0xC3
_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_QUANTIZATION = bytes([0, *[1] * 64])
_LONGEST = 65_533
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


_DC = codes(0x00, (1, 0))
_AC_END = codes(0x10, (1, 0))
_AC_DENSE = codes(0x10, (1, 0x01))
_AC_RUN = codes(0x10, (1, 0xE0))
"""One code: none of the coefficients in the next 16,384 blocks and as many as 14 bits add."""


def jpeg(  # noqa: PLR0913
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
    tables = segment(0xDB, _QUANTIZATION) + _DC + (_AC_DENSE if dense else _AC_END)
    head = frame(marker, width, height, sampling, precision)
    body = scan(range(1, len(sampling) + 1), data)
    return b"".join([_SOI, before, tables, head, body, _EOI])


@cache
def _eight_dense_blocks() -> bytes:
    bits = Bits()
    for _ in range(8):
        bits.extend((0, *(bit for place in range(63) for bit in (0, place & 1))))
    return bits.packed(high_first=True)


def _dense(count: int) -> bytes:
    return _eight_dense_blocks() * -(-count // 8)


def progressive(
    width: int, height: int, sampling: Sampling, scans: int, *, kind: str = "DC", end: bytes = _EOI
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
    parts = [_SOI, segment(0xDB, _QUANTIZATION), frame(PROGRESSIVE, width, height, sampling), _DC]
    first = scan(everyone, bytes(-(-count // 8)), (0, 0), 0x00 if kind == "AC" else 0x01)
    parts.append(first)
    if kind == "AC":
        run = np.packbits(np.array([0, *[1] * 14], np.uint8).repeat(1)).tobytes()
        one = Bits()
        one.extend((0, *(1,) * 14) * 8)
        data = one.packed(high_first=True) * (own // (32_767 * 8) + 1)
        data = data.replace(b"\xff", b"\xff\0") or run
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


def _restarts(width: int, height: int, *, extra: bytes = b"") -> bytes:
    """A gray JPEG with a restart marker after each block."""
    count = -(-width // 8) * -(-height // 8)
    eight = b"".join(b"\x3f" + extra + bytes([0xFF, 0xD0 + i]) for i in range(8))
    tables = segment(0xDB, _QUANTIZATION) + _DC + _AC_END + segment(0xDD, b"\0\1")
    data = eight * (count // 8) + b"\x3f" * (count % 8 > 0)
    head = frame(BASELINE, width, height, (0x11,))
    return b"".join([_SOI, tables, head, scan([1], data), _EOI])


def _noisy(side: int, marker: int = BASELINE) -> bytes:
    """Noise as the data of a scan, with the codes of ordinary pictures."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, "JPEG", progressive=marker == PROGRESSIVE)
    data = buffer.getvalue()
    start = data.index(b"\xff\xda")
    start += 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    return data[:start] + noise(MAX_BYTES - start - 20_000).replace(b"\xff", b"\xfe") + _EOI


def _small(extra: bytes = b"", before: bytes = b"", after: bytes = b"") -> bytes:
    return jpeg(_TINY, _TINY, before=extra) + before + after


def _tables(content: bytes, marker: int) -> bytes:
    """As many tables as the limit on bytes permits, in segments as long as possible."""
    filled = segment(marker, content * (_LONGEST // len(content)))
    return _small(filled * (MAX_BYTES // len(filled) - 1))


def pictures() -> Iterator[Hostile]:
    """Yields all hostile JPEG files."""
    yield from _at_the_limit()
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
    for side in (1000, 4000, 7000):
        for marker in (BASELINE, PROGRESSIVE):
            name = f"{'progressive, ' * (marker == PROGRESSIVE)}{side}×{side}"
            yield Hostile("JPEG of 32 MB of noise", name, partial(_noisy, side, marker))
    for width, height in ((65_535, 762), (762, 65_535), (65_535, 1), (1, 65_535), (65_500, 763)):
        for sampling in ((0x11,), (0x44, 0x11, 0x11)[:1], (0x41, 0x14, 0x11)):
            name = f"{width}×{height}, {' '.join(f'{f:x}' for f in sampling)}"
            make = partial(jpeg, width, height, sampling)
            yield Hostile("JPEG of odd sizes", name, make, small=width * height < 100_000)
    for width, height in ((0, 8), (8, 0), (65_535, 65_535), (7072, 7072)):
        make = partial(_empty, width, height)
        yield Hostile("JPEG of odd sizes", f"{width}×{height}", make, small=True)


def _empty(width: int, height: int) -> bytes:
    head = frame(BASELINE, width, height, FULL[3])
    return b"".join(
        [_SOI, segment(0xDB, _QUANTIZATION), _DC, _AC_END, head, scan([1, 2, 3], b""), _EOI]
    )


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
            partial(_restarts, side, side),
            small=side < 2000,
        )
        make = partial(_restarts, side, side, extra=b"\xff" * 30)
        yield Hostile("JPEG with restarts", f"{side}×{side}, filled", make, small=side < 2000)


def _segments() -> Iterator[Hostile]:
    kind = "JPEG with many tables"
    yield Hostile(kind, "quantization", partial(_tables, _QUANTIZATION, 0xDB))
    yield Hostile(
        kind, "quantization of 16 bits", partial(_tables, bytes([16, *[0, 1] * 64]), 0xDB)
    )
    yield Hostile(kind, "empty codes", partial(_tables, bytes(17), 0xC4))
    full = bytes([0, *[0] * 7, 255, *[0] * 8, *range(255)])
    yield Hostile(kind, "codes of 255 symbols", partial(_tables, full, 0xC4))
    yield Hostile(
        kind,
        "too many codes",
        lambda: _small(segment(0xC4, bytes([0, *[255] * 16]) + bytes(4080))),
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
        ("second starts", _SOI, 16_000_000),
        ("fill bytes", b"\xff", 32_000_000),
        ("JFIF of 3 kB", segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0" + bytes(3000)), 9_900),
        ("garbage", b"\0garbage\xff\0\xff\1", 2_000_000),
    ):
        make = partial(lambda extra, count: _small(extra * count), extra, count)
        yield Hostile(kind, f"{count} {name}", make, small=count < 10_000 and len(extra) < 100)
    yield Hostile(
        kind, "32 MB of fill bytes at the end", lambda: _small()[:-2] + b"\xff" * 32_000_000 + _EOI
    )
    yield Hostile(
        kind,
        "32 MB of fill bytes and zeros",
        lambda: _small()[:-2] + b"\xff\xff\0" * 10_000_000 + _EOI,
    )
    yield Hostile(kind, "30 MB after the end", lambda: _small() + noise(30_000_000))


def _metadata() -> Iterator[Hostile]:
    kind = "JPEG with metadata"
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>" + b"<a>" * 20_000
    longest = bytes(_LONGEST - 60)
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
        yield Hostile(kind, name, partial(_small, content), small="30" not in name)


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
                + _EOI
            ),
            height,
            dnl,
        )
        yield Hostile(kind, f"height {height} and DNL", make, small=True)
    lines = segment(0xDC, b"\xff\xff")
    yield Hostile(kind, "100,000 DNL", lambda: _small()[:-2] + lines * 100_000 + _EOI, small=True)
    two = frame(BASELINE, 16, 16, FULL[3]) + frame(BASELINE, 65_000, 65_000, FULL[3])
    yield Hostile(kind, "two frames, the second too large", lambda: _small(two), small=True)


def _cut() -> Iterator[Hostile]:
    buffer = io.BytesIO()
    Image.frombytes("RGB", (200, 200), noise(120_000)).save(buffer, "JPEG", quality=95)
    whole = buffer.getvalue()
    for place in (*range(0, 700, 28), *range(1000, len(whole), 9_000)):
        yield Hostile(
            "JPEG cut off", f"at {place}", partial(whole.__getitem__, slice(place)), small=True
        )
    for name, sampling in (("gray", (0x11,)), ("4:4:4", FULL[3]), ("CMYK", FULL[4])):
        for cut in (2, 100, 50_000):
            make = partial(
                lambda sampling, cut: jpeg(LIMIT_SIDE, LIMIT_SIDE, sampling)[:-cut], sampling, cut
            )
            yield Hostile("JPEG cut off", f"at the limit, {name}, {cut} bytes", make)
