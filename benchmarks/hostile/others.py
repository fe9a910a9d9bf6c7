"""Files of other formats, garbage, and files that are several formats at once."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from functools import partial

from PIL import Image

from benchmarks.hostile.jpeg_files import jpeg, segment
from benchmarks.hostile.parts import Hostile, chunk, noise, zeros
from benchmarks.hostile.png_files import png
from benchmarks.hostile.webp_files import lossless

_SAVED = (
    "GIF",
    "BMP",
    "TIFF",
    "ICO",
    "PPM",
    "TGA",
    "PCX",
    "SGI",
    "DDS",
    "JPEG2000",
    "AVIF",
    "EPS",
    "PDF",
    "MPO",
    "XBM",
)
_MAGIC = {
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n(%pipe%id) (w) file\n",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "JPEG XL": b"\xff\x0a\xff\xff\xff\xff\xff",
    "JPEG XL in boxes": b"\0\0\0\x0cJXL \r\n\x87\n",
    "Photoshop": b"8BPS\0\1\0\0\0\0\0\0\0\3\0\0\x75\x30\0\0\x75\x30\0\x10\0\3",
    "WMF": b"\xd7\xcd\xc6\x9a" + bytes(40),
    "FITS": b"SIMPLE  =                    T",
    "OpenEXR": b"v/1\1" + bytes(20),
    "FLI": bytes(4) + b"\x12\xaf" + bytes(120),
    "MNG": b"\x8aMNG\r\n\x1a\n",
    "JNG": b"\x8bJNG\r\n\x1a\n",
    "gzip": b"\x1f\x8b\x08" + bytes(30),
    "HTML": b"<html><img src=x onerror=alert(1)></html>",
    "ELF": b"\x7fELF" + bytes(60),
    "pickle": b"\x80\4cos\nsystem\n(S'id'\ntR.",
    "MP4": b"\0\0\0\x20ftypisom",
    "RIFF of sound": b"RIFF\xff\xff\xff\xffWAVEfmt ",
    "one byte": b"\xff",
    "line ends": b"\r\n" * 1000,
    "text": b"not a picture " * 99,
    "PNG after CR conversion": b"\x89PNG\n\x1a\n" + bytes(100),
    "JPEG 2000 codestream": b"\xff\x4f\xff\x51\0\x2f" + b"\xff" * 60,
}
"""Beginnings of files."""


def _saved(format_: str) -> bytes:
    buffer = io.BytesIO()
    Image.frombytes("RGB", (16, 16), noise(768)).convert("1" if format_ == "XBM" else "RGB").save(
        buffer, format_
    )
    return buffer.getvalue()


def _large_gif() -> bytes:
    return (
        b"GIF89a\xff\xff\xff\xff\xf7\0\0"
        + bytes(768)
        + b",\0\0\0\0\xff\xff\xff\xff\0\x08"
        + bytes(9)
    )


def _zip(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("x.txt"), "x")
    return data + buffer.getvalue()


def pictures() -> Iterator[Hostile]:
    """Yields the files."""
    for format_ in _SAVED:
        yield Hostile("other formats", format_, partial(_saved, format_), small=True)
    for name, start in _MAGIC.items():
        yield Hostile("other formats", name, partial(bytes, start), small=True)
        make = partial(lambda start: start + noise(20_000_000), start)
        if name in ("PostScript", "FITS", "gzip", "JPEG XL"):
            yield Hostile("other formats", f"{name} and 20 MB", make)
    yield Hostile("other formats", "GIF of 65,535×65,535", _large_gif, small=True)
    starts = {
        "JPEG": b"\xff\xd8\xff",
        "JPEG with a segment": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
        "PNG": b"\x89PNG\r\n\x1a\n",
        "PNG with a header": png(64, 64)[:33],
        "WebP": b"RIFF\xff\xff\xff\x7fWEBP",
        "WebP, lossless": lossless(64, 64)[:25],
        "nothing": b"",
    }
    for name, start in starts.items():
        for label, size in (("100 bytes", 100), ("100 kB", 100_000), ("30 MB", 30_000_000)):
            for data, fill in (("zeros", bytes), ("noise", noise)):
                build = partial(lambda start, fill, size: start + fill(size), start, fill, size)
                small = size < 1_000_000
                yield Hostile("garbage", f"{name}, then {label} of {data}", build, small=small)
        build = partial(lambda start: start + b"\xff" * 30_000_000, start)
        yield Hostile("garbage", f"{name}, then 30 MB of FF", build)
    yield from _several_formats()


def _several_formats() -> Iterator[Hostile]:
    kind = "several formats at once"
    small_png, small_webp = png(8, 8), lossless(8, 8)
    whole = jpeg(16, 16)
    cases = {
        "JPEG, then PNG": whole + small_png,
        "JPEG, then WebP": whole + small_webp,
        "JPEG, then ZIP": _zip(whole),
        "JPEG in a JPEG's comment": jpeg(16, 16, before=segment(0xFE, jpeg(64, 64))),
        "PNG in a JPEG's comment": jpeg(16, 16, before=segment(0xFE, small_png)),
        "JPEG twice": whole * 2,
        "JPEG two thousand times": whole * 2_000,
        "PNG, then JPEG": small_png + whole,
        "PNG with a JPEG as a chunk": png(8, 8, extra=chunk(b"jpEg", whole)),
        "PNG twice": small_png * 2,
        "PNG, then ZIP": _zip(small_png),
        "WebP with a PNG": small_webp[:12] + small_png,
        "WebP, then HTML": small_webp + b"<script>alert(1)</script>",
        "GIF and JPEG": b"GIF89a" + whole,
        "JPEG whose frame is a PNG's": b"\xff\xd8\xff" + small_png,
        "PNG with two headers": png(8, 8, extra=png(7071, 7071, data=zeros(9))[8:33]),
    }
    for name, data in cases.items():
        yield Hostile(kind, name, partial(bytes, data), small=True)
