"""What a picture says about itself reaches neither warnings nor logs, however much it is."""

from __future__ import annotations

import io
import logging
import struct
import warnings

import pytest
from PIL import Image

from runtime.images import ImageLimits, load_rgb

ENTRIES = 5_000


def malformed_exif() -> bytes:
    """Directory of a TIFF whose entries all lie beyond its end, about which Pillow warns."""
    entries = b"".join(
        struct.pack("<HHII", 0x9000 + number, 2, 100, 1_000_000 + number)
        for number in range(ENTRIES)
    )
    return b"Exif\0\0" + struct.pack("<4sIH", b"II*\0", 8, ENTRIES) + entries + bytes(4)


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16), (90, 120, 150)).save(buffer, kind, exif=malformed_exif())
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_thousands_of_malformed_entries_say_nothing(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = picture(kind)
    with warnings.catch_warnings(record=True) as of_pillow:
        warnings.simplefilter("always")
        Image.open(io.BytesIO(data)).getexif()
    assert of_pillow
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as ours:
        warnings.simplefilter("always")
        assert load_rgb(data, ImageLimits()).shape == (16, 24, 3)
    assert not ours
    assert sum(len(record.getMessage()) for record in caplog.records) < 2_000
