"""Pictures that viewers and OpenCV read, whatever their metadata hold; and bounds on their cost."""

from __future__ import annotations

import io
import struct
import tempfile
import tracemalloc
import zlib
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile, WebPImagePlugin

from runtime.errors import ImageError, ImageTooLargeError
from runtime.image_files import exif_orientation, read_picture_file
from runtime.images import SUFFIXES, ImageLimits, is_photograph, load_rgb

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


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        *((f"a{suffix}", True) for suffix in SUFFIXES),
        ("A.JPG", True),
        ("a.b.JFIF", True),
        ("a.jpg.chip.jpg", True),
        ("._a.jpg", False),
        ("sub/._a.jpg", False),
        ("__MACOSX/a.jpg", False),
        ("x/__MACOSX/y/a.jpg", False),
        ("a.gif", False),
        ("jpg", False),
    ],
)
def test_photographs_by_name(name: str, wanted: bool) -> None:
    assert is_photograph(PurePosixPath(name)) is wanted
