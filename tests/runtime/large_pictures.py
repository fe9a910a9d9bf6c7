"""Encoded pictures of every format and mode, of any size, quickly made."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.runtime.picture_files import chunk

ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))
"""First column, first row, step across, step down; the seventh pass is every other row."""
Maker = Callable[[int, int], bytes]
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Of a PNG, by color type."""


def png(
    width: int,
    height: int,
    depth: int,
    color: int,
    *,
    interlaced: bool = False,
    clear: bool = False,
) -> bytes:
    """Returns a PNG of equal rows, whose bytes are random and repeated.

    Args:
        color: PNG's color type.
        clear: with a tRNS chunk.
    """
    rng = np.random.default_rng(depth + color)
    passes = (*ADAM7, (0, 1, 1, 2)) if interlaced else ((0, 0, 1, 1),)
    rows = []
    for left, top, across, down in passes:
        columns, count = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and count > 0:
            size = (columns * CHANNELS[color] * depth + 7) // 8
            rows.append((b"\0" + (rng.bytes(509) * (size // 509 + 1))[:size], count))
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    chunks = [chunk(b"IHDR", header)]
    if color == 3:
        chunks.append(chunk(b"PLTE", rng.bytes(3 << depth)))
    if clear:
        chunks.append(
            chunk(b"tRNS", rng.bytes(1 << depth) if color == 3 else b"\0\1" * CHANNELS[color])
        )
    chunks += [chunk(b"IDAT", _deflated(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _deflated(rows: list[tuple[bytes, int]]) -> bytes:
    """Compresses rows that occur several times, each row once."""
    stream, checksum = [b"\x78\x01"], 1
    for row, count in rows:
        packer = zlib.compressobj(1, wbits=-15)
        stream.append((packer.compress(row) + packer.flush(zlib.Z_FULL_FLUSH)) * count)
        for _ in range(count):
            checksum = zlib.adler32(row, checksum)
    stream.append(zlib.compressobj(1, wbits=-15).flush())
    return b"".join(stream) + struct.pack(">I", checksum)


def pixels(width: int, height: int, channels: int) -> NDArray[np.uint8]:
    """Random rows and columns, uint8 (height, width, channels): smooth enough to encode fast."""
    rng = np.random.default_rng(channels)
    across = rng.integers(0, 128, (1, -(-width // 16), channels), np.uint8).repeat(16, 1)[:, :width]
    down = rng.integers(0, 128, (-(-height // 16), 1, channels), np.uint8).repeat(16, 0)[:height]
    joined: NDArray[np.uint8] = np.add(across, down, dtype=np.uint8)
    return joined


def encoded(image: Image.Image, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def pillow(channels: int, format_: str, mode: str | None = None, **options: Any) -> Maker:
    """Returns a maker of pictures of a width and a height that Pillow encodes."""

    def make(width: int, height: int) -> bytes:
        array = pixels(width, height, channels)
        image = Image.fromarray(array[..., 0] if channels == 1 else array, mode)
        return encoded(image, format_, **options)

    return make


def jpeg(channels: int, mode: str | None = None, **options: Any) -> Maker:
    """Returns a maker of JPEGs: a band of 128 rows, repeated in every scan."""

    def make(width: int, height: int) -> bytes:
        band = min(128, height)
        data = pillow(channels, "JPEG", mode, restart_marker_rows=1, **options)(width, band)
        return _repeated(data, height)

    return make


def _repeated(data: bytes, height: int) -> bytes:
    frame = re.search(rb"\xff[\xc0\xc2]\0.\x08", data)
    assert frame is not None
    start = frame.start() + 5
    times = height // int.from_bytes(data[start : start + 2], "big")
    data = data[:start] + struct.pack(">H", height) + data[start + 2 :]
    first, *scans = re.split(rb"(?=\xff\xda)", data[:-2])
    parts = [first]
    for scan in scans:
        begin = 2 + int.from_bytes(scan[2:4], "big")
        after = re.search(rb"\xff[^\0\xd0-\xd7]", scan[begin:])  # tables of the next scan
        end = len(scan) if after is None else begin + after.start()
        coded = b"\xff\xd7".join([scan[begin:end]] * times)
        parts += [scan[:begin], coded, scan[end:]]
    return b"".join(parts) + b"\xff\xd9"


def separate_scans(width: int, height: int) -> bytes:
    """Returns a sequential JPEG with one scan for each color, as few encoders write it."""
    gray = jpeg(1)(width, height)
    frame, scan = gray.index(b"\xff\xc0"), gray.index(b"\xff\xda")
    planes = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    start = b"\xff\xc0\0\x11" + gray[frame + 4 : frame + 9] + b"\3" + planes
    scans = b"".join(
        b"\xff\xda\0\x08\1" + bytes([number]) + gray[scan + 6 : -2] for number in (1, 2, 3)
    )
    return gray[:frame] + start + gray[frame + 13 : scan] + scans + b"\xff\xd9"


def ycck(width: int, height: int) -> bytes:
    """Returns a JPEG of four inks as Photoshop writes it: YCC and black."""
    data = jpeg(4, "CMYK")(width, height)
    place = data.index(b"Adobe") + 11
    return data[:place] + b"\2" + data[place + 1 :]


def oriented(data: bytes, orientation: int) -> bytes:
    """Adds EXIF data with an orientation."""
    exif = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    if data[:2] == b"\xff\xd8":
        return (
            data[:2]
            + b"\xff\xe1"
            + struct.pack(">H", len(exif) + 8)
            + b"Exif\0\0"
            + exif
            + data[2:]
        )
    if data[:4] == b"\x89PNG":
        return data[:33] + chunk(b"eXIf", exif) + data[33:]
    body = data[8:] + b"EXIF" + struct.pack("<I", len(exif)) + exif
    return b"RIFF" + struct.pack("<I", len(body)) + body


def many_codes(width: int, height: int) -> bytes:
    """Returns a black lossless WebP with codes of its own for each block of 4×4 pixels."""
    bits: list[tuple[int, int]] = [(0x2F, 8), (width - 1, 14), (height - 1, 14), (0, 4)]
    one_symbol, order = [(1, 1), (0, 3)], (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8)
    bits += [(0, 2), (1, 1), (0, 3), (0, 1)]  # no transforms or cache; blocks of 4×4
    for symbols in (280, 256):  # green and red: 256 codes of 8 bits
        bits += [(0, 1), (len(order) - 4, 4)]
        bits += [(int(length in (0, 8)), 3) for length in order] + [(0, 1)]
        bits += [(int(symbol < 256), 1) for symbol in range(symbols)]
    bits += one_symbol * 3
    groups = -(-width // 4) * -(-height // 4)
    for group in range(groups):
        bits += [(int(f"{byte:08b}"[::-1], 2), 8) for byte in (group & 255, group >> 8)]
    bits += one_symbol * 5 * groups
    text = "".join(f"{value:0{count}b}"[::-1] for value, count in bits)
    content = int(text[::-1], 2).to_bytes(len(text) // 16 * 2 + 2, "little")
    body = b"WEBPVP8L" + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", len(body)) + body


def animation(width: int, height: int) -> bytes:
    frames = [Image.fromarray(pixels(width, height, 3)), Image.new("RGB", (width, height))]
    return encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], method=0)


def _png(depth: int, color: int, **options: bool) -> Maker:
    return lambda width, height: png(width, height, depth, color, **options)


def _endless(maker: Maker) -> Maker:
    return lambda width, height: maker(width, height)[:-2]


_WEBP: dict[str, Any] = {"quality": 50, "method": 0}
MAKERS: dict[str, Maker] = {
    "jpeg gray": jpeg(1),
    "jpeg": jpeg(3),
    "jpeg 4:4:4": jpeg(3, subsampling=0),
    "jpeg CMYK": jpeg(4, "CMYK"),
    "jpeg YCCK": ycck,
    "jpeg progressive gray": jpeg(1, progressive=True),
    "jpeg progressive": jpeg(3, progressive=True),
    "jpeg progressive 4:4:4": jpeg(3, progressive=True, subsampling=0),
    "jpeg progressive CMYK": jpeg(4, "CMYK", progressive=True),
    "jpeg separate scans": separate_scans,
    "jpeg without end": _endless(jpeg(3)),
    "jpeg progressive without end": _endless(jpeg(3, progressive=True, subsampling=0)),
    **{f"png gray {depth} bits": _png(depth, 0) for depth in (1, 8, 16)},
    **{f"png gray {depth} bits tRNS": _png(depth, 0, clear=True) for depth in (1, 8, 16)},
    **{f"png palette {depth} bits": _png(depth, 3) for depth in (1, 8)},
    "png palette 8 bits tRNS": _png(8, 3, clear=True),
    "png RGB 8 bits": _png(8, 2),
    "png RGB 8 bits tRNS": _png(8, 2, clear=True),
    "png RGB 16 bits": _png(16, 2),
    **{f"png LA {depth} bits": _png(depth, 4) for depth in (8, 16)},
    **{f"png RGBA {depth} bits": _png(depth, 6) for depth in (8, 16)},
    "png RGBA 16 bits, narrow": lambda width, height: png(min(width, 30), 20 * height, 16, 6),
    "png interlaced gray 1 bits": _png(1, 0, interlaced=True),
    "png interlaced gray 16 bits": _png(16, 0, interlaced=True),
    "png interlaced palette": _png(8, 3, interlaced=True, clear=True),
    "png interlaced RGB": _png(8, 2, interlaced=True),
    "png interlaced RGBA 16 bits": _png(16, 6, interlaced=True),
    "webp lossy": pillow(3, "WEBP", **_WEBP),
    "webp lossy alpha": pillow(4, "WEBP", "RGBA", **_WEBP),
    "webp lossless": pillow(3, "WEBP", lossless=True, quality=0, method=0),
    "webp lossless alpha": pillow(4, "WEBP", "RGBA", lossless=True, quality=0, method=0),
    "webp lossless, many codes": many_codes,
    "webp animation": animation,
}
"""What makes an encoded picture of a width and a height, by format and mode."""
