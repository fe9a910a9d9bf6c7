"""One small picture in every format, with any segments and chunks; OpenCV's reading of it."""

from __future__ import annotations

import io
import struct
import tempfile
import zlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime.images import ImageLimits, load_rgb

CASES = Path(__file__).parent / "cases"
LIMITS = ImageLimits()
RNG = np.random.default_rng(5)
PICTURE = Image.fromarray(RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8))
GARBAGE = b"\xff\xd8 not a TIFF header \0\xff\xda\xff\xd9"


def encoded(format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    PICTURE.save(buffer, format_, **options)
    return buffer.getvalue()


def segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + (len(content) + 2).to_bytes(2, "big") + content


def chunk(kind: bytes, content: bytes, checksum: int | None = None) -> bytes:
    found = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", found)


def in_jpeg(*segments: bytes, data: bytes | None = None) -> bytes:
    data = data or encoded("JPEG", quality=90)
    return data[:2] + b"".join(segments) + data[2:]


def in_png(*chunks: bytes) -> bytes:
    data = encoded("PNG")
    return data[:33] + b"".join(chunks) + data[33:]


def riff(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def in_webp(*chunks: bytes) -> bytes:
    body = encoded("WEBP", lossless=True)[12:]
    size = struct.pack("<I", PICTURE.width - 1)[:3] + struct.pack("<I", PICTURE.height - 1)[:3]
    body = riff(b"VP8X", bytes([0x2C, 0, 0, 0]) + size) + body + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def exif(orientation: int, kind: int = 3, order: str = "<", before: int = 0) -> bytes:
    """A TIFF header and a directory with `before` other entries, then an orientation."""
    codes = {1: "B3x", 3: "H2x", 4: "I"}
    entries = [struct.pack(f"{order}HHI4s", 0x9000 + i % 99, 2, 1, b"abcd") for i in range(before)]
    entries.append(struct.pack(f"{order}HHI{codes[kind]}", 0x0112, kind, 1, orientation))
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}IH", 8, len(entries)) + b"".join(entries)


def opencv(data: bytes) -> NDArray[np.uint8]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        found = cv2.imread(file.name, cv2.IMREAD_COLOR_RGB)
    assert found is not None
    return np.asarray(found, np.uint8)


def differs(data: bytes) -> int:
    """Largest difference to OpenCV, of 255; both must have the same size."""
    ours, theirs = load_rgb(data, LIMITS), opencv(data)
    assert ours.shape == theirs.shape
    return int(np.abs(ours.astype(int) - theirs).max())
