"""JPEGs without metadata, with fill bytes, and cut off; and bounds on their cost."""

from __future__ import annotations

import io
import tracemalloc

import pytest
from PIL import Image

from runtime.errors import ImageError
from runtime.image_files import read_picture_file
from runtime.images import load_rgb
from tests.runtime.picture_files import (
    CASES,
    GARBAGE,
    LIMITS,
    differs,
    encoded,
    exif,
    in_jpeg,
    segment,
)


@pytest.mark.parametrize(
    "extra",
    [
        segment(0xEE, b"Adobe\0\0"),
        segment(0xEE, b"Ado"),
        segment(0xEE, b""),
        segment(0xE2, b"ICC_PROFILE\0\x05\x01" + GARBAGE),
        segment(0xE2, b"MPF\0" + GARBAGE),
        segment(0xE0, b"JFXX\0\x10" + GARBAGE),
        segment(0xED, b"Photoshop 3.0\0" + GARBAGE),
        segment(0xFE, GARBAGE),
        segment(0xE5, GARBAGE) * 9_000,
        segment(0xFE, b"") + b"\0garbage between segments",
    ],
)
def test_segments_of_metadata_are_skipped_unread(extra: bytes) -> None:
    data = in_jpeg(extra)
    file = read_picture_file(data)
    assert file is not None
    assert file.data == in_jpeg()
    assert (load_rgb(data, LIMITS) == load_rgb(in_jpeg(), LIMITS)).all()
    if b"garbage" not in extra:  # OpenCV does not read garbage
        assert differs(data) <= 1


def test_fill_bytes_are_left_out() -> None:
    data = encoded("JPEG", restart_marker_blocks=1)
    for filled in (
        data[:-2] + b"\xff" * 500_000 + data[-2:],
        data.replace(b"\xff\xd1", b"\xff\xff\xff\xd1"),
    ):
        file = read_picture_file(filled)
        assert file is not None
        assert len(file.data) <= len(data) + 1
        assert (load_rgb(filled, LIMITS) == load_rgb(data, LIMITS)).all()


def test_fill_bytes_between_zeros_take_little_memory() -> None:
    data = encoded("JPEG")[:-2] + b"\xff\xff\0" * 300_000 + b"\xff\xd9"
    tracemalloc.start()
    file = read_picture_file(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert file is not None
    assert b"\xff\xff" not in file.data
    assert peak < 4 * len(data)


def test_a_second_start_is_refused() -> None:
    for starts in (1, 500_000):
        with pytest.raises(ImageError, match="starts a second time"):
            load_rgb(in_jpeg(b"\xff\xd8" * starts), LIMITS)


def test_bytes_of_tables_are_bounded() -> None:
    table = segment(0xDB, bytes([0, *[1] * 64]) * 500)
    assert load_rgb(in_jpeg(table * 8), LIMITS).shape == (48, 64, 3)
    with pytest.raises(ImageError, match="more than 262,144 bytes of tables"):
        load_rgb(in_jpeg(table * 9), LIMITS)


def test_a_large_incomplete_jpeg_is_not_decoded_twice() -> None:
    data = (CASES / "scans100_7615_bytes.jpg").read_bytes()
    scans = [place for place in range(len(data)) if data[place : place + 2] == b"\xff\xda"]
    with pytest.raises(ImageError, match="too large to find out"):
        load_rgb(data[: scans[8]], LIMITS)


def test_thousands_of_exif_segments_never_reach_the_decoder() -> None:
    data = in_jpeg(segment(0xE1, b"Exif\0\0" + exif(1, before=200)) * 9_900)
    file = read_picture_file(data)
    assert file is not None
    assert file.data == in_jpeg()


def test_adobes_transform_is_kept() -> None:
    """Its segment tells RGB and CMYK from YCC."""
    ink = io.BytesIO()
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(ink, "JPEG", quality=95)
    file = read_picture_file(ink.getvalue())
    assert file is not None
    assert b"Adobe" in file.data


JPEGS = [
    {"quality": 90},
    {"quality": 90, "progressive": True},
    {"quality": 90, "restart_marker_blocks": 1},
    {"quality": 90, "restart_marker_rows": 1},
    {"quality": 90, "optimize": True, "subsampling": 0},
]


@pytest.mark.parametrize("options", JPEGS)
def test_a_jpeg_without_its_end_marker_is_read(options: dict[str, object]) -> None:
    data = encoded("JPEG", **options)
    whole = load_rgb(data, LIMITS)
    assert (load_rgb(data[:-2], LIMITS) == whole).all()
    assert (load_rgb(data[:-1], LIMITS) == whole).all()


@pytest.mark.parametrize("options", JPEGS)
def test_a_jpeg_that_lacks_pixels_is_refused(options: dict[str, object]) -> None:
    data = encoded("JPEG", **options)
    start = data.rindex(b"\xff\xda") + 20
    for cut in range(start, len(data) - 3, 7):
        with pytest.raises(ImageError, match="incomplete"):
            load_rgb(data[:cut], LIMITS)


def test_a_jpeg_that_lacks_a_color_is_refused() -> None:
    data = bytearray(encoded("JPEG"))
    scan = data.index(b"\xff\xda")
    one_color = (
        bytes(data[:scan]) + segment(0xDA, bytes([1, 1, 0, 0, 63, 0])) + bytes(data[scan + 14 :])
    )
    with pytest.raises(ImageError, match="scans of its colors are missing"):
        load_rgb(one_color[:-2], LIMITS)
