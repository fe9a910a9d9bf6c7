"""One bounded pass over an encoded picture: its orientation, and its bytes without metadata.

Decoders run code for every segment and chunk, inflate some, and refuse pictures for metadata that
viewers ignore. They therefore get only what pixels depend on. Sources: ITU-T T.81 with the markers
of JFIF, Exif and Adobe; the PNG specification (W3C, third edition); WebP's container specification.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from runtime.errors import ImageError

JPEG, PNG, WEBP = "JPEG", "PNG", "WEBP"

MAX_SCANS = 100
"""In a JPEG. Encoders write about ten; each takes a pass over all pixels, for a few bytes."""
MAX_SCANNED_PIXELS = 600_000_000
"""Pixels times scans of a JPEG: twelve scans of 50 megapixels."""
MAX_SEGMENTS = 10_000
"""In a JPEG. 32 MiB of metadata take 500."""
MAX_TABLE_BYTES = 1 << 18
"""Of a JPEG's segments other than metadata and scans. Tables of a hundred scans take 64 KiB, and
Pillow takes seconds for 32 MiB."""
MAX_CHUNKS = 50_000
"""In a PNG or WebP. libpng's chunks of 8 KiB are 4,000 in 32 MiB."""

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_ANCILLARY = 0x20
"""Bit of the first letter of a PNG chunk: decoders may skip it."""
_JPEG_MARK = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
"""Markers followed by a segment, and the end; the others may stand within a scan."""
JPEG_SCAN = 0xDA
_SOI, _EOI, _COM, _APP0, _APP1, _APP14 = 0xD8, 0xD9, 0xFE, 0xE0, 0xE1, 0xEE
_APPS = range(0xE0, 0xF0)
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Start of a frame, by coding."""
_ARITHMETIC = frozenset({0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_FILLER = bytes((254 - i) % 255 for i in range(254))
"""Data without markers, that begin with codes of large values."""
_ADOBE_BYTES = 12
"""Of an Adobe segment's content; libjpeg ignores shorter ones."""
_ORIENTATION_TAG = 0x0112
_MOST_TAGS = 1_000
"""Looked at in EXIF data; cameras write some dozens."""
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
"""struct's codes of EXIF's types of whole numbers."""


@dataclass(frozen=True, slots=True)
class PictureFile:
    """An encoded picture without metadata."""

    format: str
    """`JPEG`, `PNG` or `WEBP`."""
    data: bytes
    """The file without metadata and without what follows the picture."""
    orientation: int
    """EXIF's, 1 to 8; 1 where there is none or it cannot be read."""
    extended: bytes | None = None
    """A JPEG that lacks its end marker, with other data in the place of what may be missing: both
    decode to the same pixels unless pixels are missing. None for other files."""


def format_of(data: bytes) -> str | None:
    """Returns the format of a file by its first twelve bytes: `JPEG`, `PNG`, `WEBP` or None."""
    if data.startswith(b"\xff\xd8\xff"):
        return JPEG
    if data.startswith(_PNG_START):
        return PNG
    return WEBP if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def read_picture_file(data: bytes) -> PictureFile | None:
    """Reads the structure of a JPEG, PNG or WebP file; None for other files.

    What is damaged otherwise is left to the decoder.

    Raises:
        ImageError: the file takes too long to decode, or a JPEG is coded arithmetically.
    """
    format_ = format_of(data)
    if format_ == JPEG:
        return _Jpeg(data).read()
    if format_ == PNG:
        return _png(data)
    return _webp(data) if format_ == WEBP else None


def exif_orientation(exif: bytes | memoryview) -> int:
    """Returns the orientation in EXIF data, 1 to 8; 1 where there is none or it cannot be read.

    Args:
        exif: a TIFF header and its directories, with or without "Exif" and two zero bytes before.
    """
    exif = bytes(exif).removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 10:
        return 1
    first = int(struct.unpack_from(f"{order}I", exif, 4)[0])
    if first + 2 > len(exif):
        return 1
    count = min(int(struct.unpack_from(f"{order}H", exif, first)[0]), _MOST_TAGS)
    for place in range(first + 2, min(first + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, _ = struct.unpack_from(f"{order}HHI", exif, place)
        if tag == _ORIENTATION_TAG and kind in _INTEGERS:
            value = int(struct.unpack_from(f"{order}{_INTEGERS[kind]}", exif, place + 8)[0])
            return value if 1 <= value <= 8 else 1
    return 1


class _Jpeg:
    """One pass over a JPEG's segments."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._view = memoryview(data)
        self._kept: list[bytes | memoryview] = [self._view[:2]]
        self._orientation: int | None = None
        self._pixels = 0
        self._scans = 0
        self._table_bytes = 0
        self._ended = False
        self._components: set[int] = set()
        self._scanned: set[int] = set()

    def read(self) -> PictureFile:
        """Returns the JPEG without metadata."""
        for marker, start, end in self._segments():
            content = self._view[start + 4 : end]
            if marker == _APP1 and self._orientation is None and bytes(content[:5]) == b"Exif\0":
                self._orientation = exif_orientation(content[6:])
            elif marker in JPEG_FRAMES:
                self._read_frame(marker, content)
            elif marker == JPEG_SCAN:
                self._read_scan(content)
            elif marker == _SOI:
                raise ImageError("The JPEG is damaged: it starts a second time. Save it again.")
            if _needed(marker, content):
                self._keep(start, end)
        return self._finish()

    def _segments(self) -> Iterator[tuple[int, int, int]]:
        """Yields marker, start and end of every segment, and keeps the scans' data in between.

        Segments are skipped by their length, as decoders do: what is within, and what follows the
        picture (such as the video of a motion photo), may hold anything.
        """
        position, segments, in_scan = 2, 0, False
        while mark := _JPEG_MARK.search(self._data, position):
            if in_scan:
                self._keep_scan(position, mark.start())
            marker = mark[0][1]
            if marker == _EOI:
                self._kept.append(b"\xff\xd9")
                self._ended = True
                return
            segments += 1
            if segments > MAX_SEGMENTS:
                raise ImageError(_slow(f"{MAX_SEGMENTS:,} segments"))
            size = int.from_bytes(self._view[mark.end() : mark.end() + 2], "big")
            position, in_scan = mark.end() + size, marker == JPEG_SCAN
            yield marker, mark.start(), position
        if in_scan:
            self._keep_scan(position, len(self._data))

    def _keep(self, start: int, end: int) -> None:
        self._table_bytes += end - start
        if self._table_bytes > MAX_TABLE_BYTES:
            raise ImageError(_slow(f"{MAX_TABLE_BYTES:,} bytes of tables"))
        self._kept.append(self._view[start:end])

    def _keep_scan(self, start: int, end: int) -> None:
        """Keeps the data of a scan, without fill bytes: Pillow reads them in quadratic time."""
        if self._data.find(b"\xff\xff", start, end) < 0:
            self._kept.append(self._view[start:end])
            return
        scan = self._data[start:end]
        while b"\xff\xff" in scan:  # each pass halves the runs
            scan = scan.replace(b"\xff\xff", b"\xff")
        self._kept.append(scan)

    def _read_frame(self, marker: int, content: memoryview) -> None:
        if marker in _ARITHMETIC:
            raise ImageError(
                "The JPEG is coded arithmetically, which browsers and most programs do not read. "
                "Save it again."
            )
        if self._pixels:
            raise ImageError("The JPEG has two headers of a picture. Save it again.")
        if len(content) > 6:
            height, width = struct.unpack_from(">HH", content, 1)
            self._pixels = max(height * width, 1)
            self._components = set(content[6::3])

    def _read_scan(self, content: memoryview) -> None:
        self._scans += 1
        if self._scans > MAX_SCANS:
            raise ImageError(_slow(f"{MAX_SCANS} scans"))
        if self._scans * self._pixels > MAX_SCANNED_PIXELS:
            raise ImageError(_slow(f"{MAX_SCANNED_PIXELS:,} pixels in all its scans"))
        if len(content):
            self._scanned |= set(content[1 : 1 + 2 * content[0] : 2])

    def _finish(self) -> PictureFile:
        data, orientation = b"".join(self._kept), self._orientation or 1
        if self._ended or not self._scans:
            return PictureFile(JPEG, data, orientation)
        if not self._components <= self._scanned:
            raise ImageError("The JPEG is incomplete: scans of its colors are missing.")
        # Data up to the next restart, and data after it, for a file cut off at either.
        data = data.rstrip(b"\xff")  # half of a marker
        if 4 * self._scans * self._pixels > MAX_SCANNED_PIXELS:  # it is decoded twice
            raise ImageError("The JPEG is incomplete, and too large to find out what is missing.")
        last = max(range(8), key=lambda number: data.rfind(bytes([0xFF, 0xD0 + number])))
        after = (last + 1) % 8
        extended = data + _FILLER + bytes([0xFF, 0xD0 + after]) + _FILLER + b"\xff\xd9"
        return PictureFile(JPEG, data + b"\xff\xd9", orientation, extended)


def _needed(marker: int, content: memoryview) -> bool:
    """Returns whether a segment affects the pixels; unknown ones are left to the decoder."""
    if marker == _APP0:
        return bytes(content[:5]) == b"JFIF\0"
    if marker == _APP14:
        return bytes(content[:5]) == b"Adobe" and len(content) >= _ADOBE_BYTES
    return marker not in _APPS and marker != _COM


def _png(data: bytes) -> PictureFile:
    kept: list[bytes | memoryview] = [_PNG_START]
    view, position, chunks = memoryview(data), len(_PNG_START), 0
    orientation: int | None = None
    while position + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + size
        chunks += 1
        if chunks > MAX_CHUNKS:
            raise ImageError(_slow(f"{MAX_CHUNKS:,} chunks", PNG))
        if kind == b"eXIf" and orientation is None:
            orientation = exif_orientation(view[position + 8 : end - 4])
        if kind == b"IHDR" and len(kept) > 1:
            raise ImageError("The PNG has two headers of a picture. Save it again.")
        if kind == b"IEND":
            break
        if kind == b"tRNS" or not kind[0] & _ANCILLARY:
            kept.append(view[position:end])
        position = end
    if position <= len(data):  # else the last chunk is incomplete
        kept.append(_PNG_END)
    return PictureFile(PNG, b"".join(kept), orientation or 1)


_WEBP_KEPT = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_WEBP_FLAGS = ~0x2C & 0xFF
"""Of VP8X, without those for a color profile, EXIF and XMP."""


def _webp(data: bytes) -> PictureFile:
    """Keeps the first picture of an animation."""
    view, position = memoryview(data), 12
    end_of_file = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    kept: dict[bytes, bytes | memoryview] = {}
    orientation: int | None = None
    missing = chunks = 0
    while position + 8 <= end_of_file:
        kind, size = struct.unpack_from("<4sI", data, position)
        end = position + 8 + size + size % 2
        chunks += 1
        if chunks > MAX_CHUNKS:
            raise ImageError(_slow(f"{MAX_CHUNKS:,} chunks", WEBP))
        if kind == b"EXIF" and orientation is None:
            orientation = exif_orientation(view[position + 8 : position + 8 + size])
        elif kind in _WEBP_KEPT and kind not in kept:
            kept[kind] = view[position:end]
            missing += max(0, end - len(data))
        position = end
    if len(header := kept.get(b"VP8X", b"")) > 8:
        kept[b"VP8X"] = bytes([*header[:8], header[8] & _WEBP_FLAGS, *header[9:]])
    size = 4 + sum(map(len, kept.values())) + missing
    start = b"RIFF" + min(size, sys.maxsize, 0xFFFFFFFF).to_bytes(4, "little") + b"WEBP"
    return PictureFile(WEBP, b"".join([start, *kept.values()]), orientation or 1)


def _slow(found: str, format_: str = JPEG) -> str:
    return f"The {format_} has more than {found}, which take too long to decode. Save it again."
