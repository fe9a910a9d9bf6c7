"""Pictures that viewers and OpenCV read, whatever their metadata hold; and bounds on their cost."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile, WebPImagePlugin

from runtime.errors import ImageError, ImageTooLargeError
from runtime.image_files import exif_orientation, read_picture_file
from runtime.images import load_rgb
from tests.runtime.picture_files import (
    CASES,
    GARBAGE,
    LIMITS,
    PICTURE,
    chunk,
    differs,
    encoded,
    exif,
    in_jpeg,
    in_png,
    in_webp,
    riff,
    segment,
)

READ = {
    "exif_garbage.png": (48, 64),
    "icc_2mb.png": (48, 64),
    "no_eoi.jpg": (48, 64),
    "o6_rational_neg_zero.jpg": (60, 40),
    "o6_res_unit_long.jpg": (60, 40),
}


@pytest.mark.parametrize("name", READ)
def test_cases_are_read_as_by_opencv(name: str) -> None:
    data = (CASES / name).read_bytes()
    assert load_rgb(data, LIMITS).shape[:2] == READ[name]
    assert differs(data) <= 1


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("webp_40_bytes.webp", ImageTooLargeError, "7071×7071 pixels, more than 16,666,666"),
        ("arith_1392_bytes.jpg", ImageError, "coded arithmetically"),
        ("scans100_7615_bytes.jpg", ImageError, "more than 600,000,000 pixels in all its scans"),
    ],
)
def test_cases_that_cost_too_much_are_refused_before_decoding(
    monkeypatch: pytest.MonkeyPatch, name: str, error: type[Exception], words: str
) -> None:
    for kind in (ImageFile.ImageFile, WebPImagePlugin.WebPImageFile):
        monkeypatch.setattr(kind, "load", None)
    with pytest.raises(error, match=words):
        load_rgb(CASES / name, LIMITS)


@pytest.mark.parametrize("kind", [1, 3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_orientation_is_read_in_every_spelling(kind: int, order: str) -> None:
    data = exif(6, kind, order, before=3)
    assert exif_orientation(data) == exif_orientation(b"Exif\0\0" + data) == 6
    pixels = load_rgb(encoded("PNG"), LIMITS)
    turned = np.rot90(pixels, -1)
    for file in (in_png(chunk(b"eXIf", data)), in_webp(riff(b"EXIF", data))):
        assert (load_rgb(file, LIMITS) == turned).all()
    jpeg = in_jpeg(segment(0xE1, b"Exif\0\0" + data))
    assert (load_rgb(jpeg, LIMITS) == np.rot90(load_rgb(in_jpeg(), LIMITS), -1)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_opencvs(orientation: int) -> None:
    data = in_jpeg(segment(0xE1, b"Exif\0\0" + exif(orientation)))
    assert differs(data) <= 1


@given(st.binary(max_size=80), st.sampled_from([b"", b"II*\0", b"MM\0*", exif(6)[:20]]))
def test_any_exif_data_gives_an_orientation(junk: bytes, start: bytes) -> None:
    assert exif_orientation(start + junk) in range(1, 9)


@pytest.mark.parametrize(
    "metadata",
    [GARBAGE, b"", b"II*\0", b"MM\0*\xff\xff\xff\xff\xff\xff", exif(0), exif(9), exif(60_000)],
)
def test_garbage_in_exif_is_no_exif(metadata: bytes) -> None:
    plain = load_rgb(encoded("PNG"), LIMITS)
    assert (load_rgb(in_png(chunk(b"eXIf", metadata)), LIMITS) == plain).all()
    assert (load_rgb(in_webp(riff(b"EXIF", metadata)), LIMITS) == plain).all()
    jpeg = load_rgb(in_jpeg(), LIMITS)
    assert (load_rgb(in_jpeg(segment(0xE1, b"Exif\0\0" + metadata)), LIMITS) == jpeg).all()


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(4 << 20))),
        chunk(b"zTXt", b"t\0\0" + zlib.compress(bytes(100 << 20))),
        chunk(b"iTXt", GARBAGE),
        chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 4\nzzzz"),
        chunk(b"gAMA", b"\0" * 4, checksum=7),
        chunk(b"pHYs", b"\0"),
        chunk(b"acTL", b"\0" * 8),
    ],
)
def test_ancillary_chunks_of_a_png_are_skipped_unread(extra: bytes) -> None:
    data = in_png(extra)
    file = read_picture_file(data)
    assert file is not None
    assert file.data == encoded("PNG")
    assert (load_rgb(data, LIMITS) == np.asarray(PICTURE)).all()


def test_a_wrong_checksum_of_pixels_is_damage() -> None:
    data = bytearray(encoded("PNG"))
    data[data.index(b"IDAT") + 20] ^= 1
    with pytest.raises(ImageError):
        load_rgb(bytes(data), LIMITS)


def test_a_png_without_its_end_is_read_and_one_cut_off_is_not() -> None:
    data = encoded("PNG")
    assert (load_rgb(data[:-12], LIMITS) == np.asarray(PICTURE)).all()
    for cut in (40, 200):
        with pytest.raises(ImageError):
            load_rgb(data[:-cut], LIMITS)


@pytest.mark.parametrize(
    "extra", [riff(b"ICCP", GARBAGE), riff(b"XMP ", GARBAGE), riff(b"abcd", b"x")]
)
def test_metadata_of_a_webp_are_skipped_unread(extra: bytes) -> None:
    data = in_webp(extra)
    file = read_picture_file(data)
    assert file is not None
    assert GARBAGE not in file.data
    assert (load_rgb(data, LIMITS) == np.asarray(PICTURE)).all()


def test_only_the_first_picture_of_an_animation_is_decoded() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    file = read_picture_file(buffer.getvalue())
    assert file is not None
    assert file.data.count(b"ANMF") == 1
    assert (load_rgb(buffer.getvalue(), LIMITS) == (255, 0, 0)).all()


def test_too_many_chunks_are_refused() -> None:
    for data in (in_png(chunk(b"IDAT", b"") * 50_000), in_webp(riff(b"abcd", b"") * 50_000)):
        with pytest.raises(ImageError, match="more than 50,000 chunks"):
            load_rgb(data, LIMITS)


def test_a_side_is_bounded() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 70_000, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(280_000)))
    with pytest.raises(ImageTooLargeError, match="a side has at most 65,535"):
        load_rgb(data, LIMITS)


def test_a_pil_image_with_odd_exif_is_turned() -> None:
    for name in ("o6_rational_neg_zero.jpg", "o6_res_unit_long.jpg"):
        with Image.open(CASES / name) as image:
            assert (load_rgb(image, LIMITS) == load_rgb(CASES / name, LIMITS)).all()
    with Image.open(CASES / "exif_garbage.png") as image:
        assert load_rgb(image, LIMITS).shape == (48, 64, 3)
