"""What decoding a picture holds in memory, told from its header alone.

Sources: ITU-T T.81 (JPEG); the PNG specification (W3C, third edition); WebP's container
specification. What the decoders hold is measured (tests/runtime/test_image_costs.py).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from runtime.errors import ImageError
from runtime.image_files import JPEG, JPEG_FRAMES, JPEG_SCAN, PNG, WEBP, PictureFile

STRIP_PIXELS = 1 << 18
"""Converted to RGB at a time, so that no second picture is in memory."""
_STRIP_BYTES = 26
"""Per pixel of a strip: as stored, turned, with alpha, on white, as RGB, in arrays."""
_ROW_BYTES = 256
"""Per column: rows that decoders hold; most in a JPEG: 40 of four colors, and upsampled ones."""
_LINE_BYTES = 64
"""Per row: Pillow's pointers to the rows of an image and of its strips."""
_FIXED_BYTES = 1 << 20
"""Tables, reading in blocks, and what the allocator rounds up."""
_RGB_BYTES = 3
_BLOCK_BYTES = 128
"""64 coefficients of a JPEG."""
_CANVAS_BYTES = 8
"""Per pixel: two canvases of the decoder of animations, with which Pillow decodes every WebP."""
_FRAME_BYTES = 4
"""Per pixel: the copy of the canvas that Pillow reads."""
_ENCODED_COPIES = {JPEG: 3, PNG: 1, WEBP: 3}
"""Copies of the encoded bytes: without metadata; completed (JPEG); Pillow's own (WebP)."""
_PROGRESSIVE = frozenset({0xC2, 0xC6})


@dataclass(frozen=True, slots=True)
class PictureCost:
    """What decoding a picture takes."""

    format: str
    """`JPEG`, `PNG` or `WEBP`."""
    width: int
    """As stored, in pixels; the upright picture's height if its orientation turns it."""
    height: int
    """As stored, in pixels."""
    peak_bytes: int
    """At most this much memory is held at once: the result and copies of the encoded bytes
    included, the encoded bytes that were given not included."""


@dataclass(frozen=True, slots=True)
class _Header:
    width: int
    height: int
    image_bytes: int
    """Pillow's decoded image, with what it keeps beside it."""
    decoding_bytes: int = 0
    """Held besides while the image is decoded."""


def cost_of(file: PictureFile) -> PictureCost:
    """Returns what decoding a picture takes, from its header.

    Raises:
        ImageError: the header is missing or damaged.
    """
    try:
        header = _HEADERS[file.format](file.data)
    except (struct.error, IndexError):
        header = None
    if header is None:
        raise ImageError(f"The {file.format} does not begin with a picture's width and height.")
    pixels = header.width * header.height
    if file.extended is not None:  # decoded again and compared with the first result
        beside = header.decoding_bytes + _RGB_BYTES * pixels
    else:
        beside = max(header.decoding_bytes, _RGB_BYTES * pixels)
    strips = _STRIP_BYTES * min(pixels, STRIP_PIXELS)
    rows = _ROW_BYTES * header.width + _LINE_BYTES * header.height + _FIXED_BYTES
    encoded = _ENCODED_COPIES[file.format] * len(file.data)
    peak = header.image_bytes + beside + strips + rows + encoded
    return PictureCost(file.format, header.width, header.height, peak)


def _jpeg(data: bytes) -> _Header | None:
    """Reads the frame and the first scan of a JPEG without metadata."""
    position, frame, marker = 2, None, 0
    while position + 4 <= len(data):
        marker, size = struct.unpack_from(">xBH", data, position)
        content = data[position + 4 : position + 2 + size]
        if marker in JPEG_FRAMES:
            frame = content
            progressive = marker in _PROGRESSIVE
        if marker == JPEG_SCAN:
            break
        position += 2 + size
    else:
        return None
    if frame is None:
        return None
    _, height, width, colors = struct.unpack_from(">BHHB", frame)
    pixels = width * height
    # Decoders keep the coefficients of the whole picture if it comes in several scans.
    whole = progressive or content[0] < colors
    return _Header(
        width,
        height,
        pixels if colors == 1 else 4 * pixels,
        _coefficient_bytes(width, height, frame[7::3]) if whole else 0,
    )


def _coefficient_bytes(width: int, height: int, sampling: bytes) -> int:
    """Returns the bytes of all colors' coefficients.

    Args:
        width: in pixels.
        height: in pixels.
        sampling: of each color, its samples across and down, in four bits each.
    """
    factors = [(max(both >> 4, 1), max(both & 15, 1)) for both in sampling]
    across, down = (max(steps, default=1) for steps in zip(*factors, strict=True))
    units = -(-width // (8 * across)) * -(-height // (8 * down))
    return _BLOCK_BYTES * units * sum(x * y for x, y in factors)


def _png(data: bytes) -> _Header | None:
    size, kind, width, height, depth, color = struct.unpack_from(">I4sIIBB", data, 8)
    if kind != b"IHDR" or size != _IHDR_BYTES:
        return None
    stored = (depth + 7) // 8 if color in _ONE_CHANNEL else 4
    return _Header(width, height, stored * width * height)


def _webp(data: bytes) -> _Header | None:
    kind, start = data[12:16], data[20:30]
    if kind == b"VP8X":
        size = int.from_bytes(start[4:7], "little") + 1, int.from_bytes(start[7:10], "little") + 1
        complete = len(start) == _VP8X_BYTES
    elif kind == b"VP8 ":
        across, down = struct.unpack_from("<HH", start, 6)
        size, complete = (across & _SIDE, down & _SIDE), start[3:6] == b"\x9d\x01\x2a"
    else:
        bits = int.from_bytes(start[1:5], "little")
        size = (bits & _SIDE) + 1, (bits >> 14 & _SIDE) + 1
        complete = kind == b"VP8L" and start[0] == _VP8L_START and len(start) > 4
    if not complete:
        return None
    pixels = size[0] * size[1]
    tables = _table_bytes(*size, _lossless_bytes(data, 12))
    return _Header(*size, (_CANVAS_BYTES + 4) * pixels, _FRAME_BYTES * pixels + tables)


def _lossless_bytes(data: bytes, position: int) -> int:
    """Returns the bytes of a WebP's lossless parts: the picture, or its transparency."""
    found = 0
    while position + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, position)
        if kind in (b"VP8L", b"ALPH"):
            found += min(size, len(data) - position)
        position += 8 + _ANMF_BYTES if kind == b"ANMF" else 8 + size + size % 2
    return found


def _table_bytes(width: int, height: int, encoded: int) -> int:
    """Returns what the tables of a lossless WebP's codes take at most.

    Each block of 4×4 pixels may use five codes of its own, which need 20 bits of the file or more.
    """
    groups = min(_MOST_GROUPS, -(-width // 4) * -(-height // 4), encoded * 8 // 20)
    long_codes = min(encoded * _LONG_CODE_BYTES, groups * _MOST_LONG_CODE_BYTES)
    return groups * _GROUP_BYTES + long_codes


_HEADERS = {JPEG: _jpeg, PNG: _png, WEBP: _webp}
_IHDR_BYTES = 13
_ONE_CHANNEL = (0, 3)
"""Gray and palette, of PNG's color types."""
_VP8X_BYTES = 10
_VP8L_START = 0x2F
_SIDE = 0x3FFF
"""Bits of a side; the rest is scaling."""
_ANMF_BYTES = 16
"""Of a frame of an animation, before its chunks."""
_MOST_GROUPS = 1 << 16
_GROUP_BYTES = 5_760
"""Of libwebp 1.6: five tables of 256 entries of four bytes, and a record of 568 bytes."""
_LONG_CODE_BYTES = 64
"""Of tables for codes of more than 8 bits, for each encoded byte, which describes the codes."""
_MOST_LONG_CODE_BYTES = 4 * (5_004 - 5 * 256)
"""Of a group: libwebp's largest tables (`kTableSize`), without 256 entries of each."""
