"""Decoding of every kind of picture, and rejection of everything else."""

from __future__ import annotations

import io
import struct
import threading
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from runtime.errors import ImageError, ImageTooLargeError
from runtime.images import SUFFIXES, ImageLimits, is_photograph, load_rgb
from tests.runtime.picture_files import chunk

Pixels = NDArray[np.uint8]
LIMITS = ImageLimits()


def encoded(image: Image.Image, format_: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def load(source: object, limits: ImageLimits = LIMITS) -> Pixels:
    pixels = load_rgb(source, limits)  # type: ignore[arg-type]
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    return pixels


@pytest.fixture
def picture(noise: Pixels) -> Image.Image:
    return Image.fromarray(noise)


def test_every_kind_of_source_gives_the_same_pixels(
    tmp_path: Path, noise: Pixels, picture: Image.Image
) -> None:
    data = encoded(picture)
    path = tmp_path / "ünï côde.png"
    path.write_bytes(data)
    with path.open("rb") as file:
        sources = [str(path), path, data, bytearray(data), memoryview(data), picture, noise, file]
        sources.append(io.BytesIO(data))
        for source in sources:
            assert (load(source) == noise).all()


def test_an_array_is_not_copied(noise: Pixels) -> None:
    assert load(noise) is noise


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation(orientation: int, format_: str) -> None:
    """The file stores a turned picture: upright, red is on top, green below left, blue right."""
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8] = 255, 0, 0
    upright[8:, :16] = 0, 255, 0
    upright[8:, 16:] = 0, 0, 255
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if format_ == "JPEG" else {"lossless": True}
    stored = Image.fromarray(np.ascontiguousarray(turned[orientation]))
    data = encoded(stored, format_, exif=exif, **(options if format_ != "PNG" else {}))
    for source in (data, Image.open(io.BytesIO(data))):
        found = load(source)
        assert found.shape == upright.shape
        assert np.abs(found.astype(int) - upright).max() < 16


def test_gray_and_one_bit() -> None:
    gray = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    assert (load(encoded(gray)) == np.asarray(gray)[..., None]).all()
    bits = Image.fromarray(np.eye(16, dtype=bool))
    assert (load(encoded(bits))[..., 1] == np.eye(16) * 255).all()


def test_transparency_is_composited_over_white() -> None:
    alpha = Image.new("L", (4, 4), 0)
    alpha.paste(255, (0, 0, 2, 4))
    color = Image.new("RGB", (4, 4), (200, 10, 10))
    rgba, la = color.copy(), Image.new("L", (4, 4), 60)
    rgba.putalpha(alpha)
    la.putalpha(alpha)
    for image, seen in ((rgba, (200, 10, 10)), (la, (60, 60, 60))):
        for source in (encoded(image), image):
            found = load(source)
            assert (found[:, :2] == seen).all()
            assert (found[:, 2:] == 255).all()


def test_palette_with_a_transparent_color() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 90, 80, 70])
    image.putdata([0, 1])
    found = load(encoded(image, transparency=1))
    assert found.tolist() == [[[10, 20, 30], [255, 255, 255]]]
    assert load(encoded(image))[0, 1].tolist() == [90, 80, 70]


def test_cmyk_jpeg() -> None:
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    red, green, blue = load(encoded(ink, "JPEG", quality=95))[8, 8]
    assert red > 240
    assert max(green, blue) < 20


def test_sixteen_bit_png_keeps_its_high_bytes() -> None:
    deep = np.array([[0, 255, 256, 0x1234, 0xFFFF]], np.uint16)
    image = Image.fromarray(deep)
    assert load(encoded(image))[..., 0].tolist() == [[0, 0, 1, 0x12, 0xFF]]
    assert load(image)[..., 2].tolist() == [[0, 0, 1, 0x12, 0xFF]]


@pytest.mark.parametrize(("mode", "kind"), [("I;16", "<u2"), ("I;16B", ">u2"), ("I;16N", "=u2")])
def test_sixteen_bits_in_any_order(mode: str, kind: str) -> None:
    deep = np.array([[1, 0x12FE]], kind)
    image = Image.frombuffer(mode, (2, 1), deep.tobytes(), "raw", mode, 0, 1)
    assert load(image)[..., 1].tolist() == [[0, 0x12]]


def test_animated_webp_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert (load(data) == (255, 0, 0)).all()


@pytest.mark.parametrize("format_", ["GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_other_formats_are_rejected(picture: Image.Image, format_: str) -> None:
    with pytest.raises(ImageError, match="not JPEG, PNG or WEBP"):
        load(encoded(picture, format_))


@pytest.mark.parametrize("data", [b"", b"<svg xmlns='x'/>", b"not a picture", b"\0" * 1000])
def test_invalid_bytes(data: bytes) -> None:
    with pytest.raises(ImageError, match=f"{len(data):,} bytes is not JPEG, PNG or WEBP"):
        load(data)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_files(picture: Image.Image, format_: str, share: float) -> None:
    data = encoded(picture, format_)
    with pytest.raises(ImageError):
        load(data[: int(len(data) * share)])


def test_a_truncated_file_behind_a_lazy_pil_image(picture: Image.Image) -> None:
    data = encoded(picture)
    with pytest.raises(ImageError, match="PIL image"):
        load(Image.open(io.BytesIO(data[: len(data) // 2])))


@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
def test_threads_may_share_a_pil_image_that_is_not_decoded_yet(format_: str) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), format_)
    wanted, shared = load(data), Image.open(io.BytesIO(data))
    start = threading.Barrier(4)

    def caller(_: int) -> bool:
        start.wait()
        return bool((load(shared) == wanted).all())

    with ThreadPoolExecutor(4) as callers:
        assert all(callers.map(caller, range(4)))


@pytest.mark.parametrize("mode", ["I", "F", "La"])
def test_pil_modes_without_a_meaning_are_rejected(mode: str) -> None:
    with pytest.raises(ImageError):
        load(Image.new(mode, (4, 4)))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((), np.uint8),
    ],
)
def test_arrays_of_another_form_are_rejected(array: NDArray[np.generic]) -> None:
    with pytest.raises(ImageError, match=r"shape \(H, W, 3\) uint8 RGB, got"):
        load(array)


def test_an_empty_pil_image_is_rejected() -> None:
    with pytest.raises(ImageError, match="not empty"):
        load(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("path", ["", "no/such.jpg", ".", "a\0b", "x/" * 3000])
def test_paths_without_a_picture(path: str) -> None:
    with pytest.raises(ImageError):
        load(path)


def test_a_folder_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"is a folder\. .* label` takes folders"):
        load(tmp_path)


def test_the_message_does_not_repeat_a_picture_given_as_text() -> None:
    with pytest.raises(ImageError, match="decode base64") as caught:
        load("/9j/4AAQSkZJRg" * 1000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("thing", [None, 3, ["a.jpg"], {"image": 1}, object()])
def test_invalid_sources_are_rejected(thing: object) -> None:
    with pytest.raises(ImageError, match=type(thing).__name__):
        load(thing)


def test_file_objects_that_misbehave(tmp_path: Path) -> None:
    closed = io.BytesIO(b"x")
    closed.close()
    (tmp_path / "p.png").write_bytes(b"\x89PNG\xff\xff")
    with (tmp_path / "p.png").open(encoding="utf-8") as undecodable:
        for file in (closed, undecodable, io.StringIO("text")):
            with pytest.raises(ImageError):
                load(file)


def test_the_limit_on_bytes(tmp_path: Path, picture: Image.Image) -> None:
    data = encoded(picture)
    (tmp_path / "p.png").write_bytes(data)
    exact, short = ImageLimits(max_bytes=len(data)), ImageLimits(max_bytes=len(data) - 1)
    for source in (data, tmp_path / "p.png"):
        load(source, exact)
        with pytest.raises(ImageTooLargeError, match="max_bytes"):
            load(source, short)
    with pytest.raises(ImageTooLargeError, match="max_bytes"):
        load(io.BytesIO(data), short)


def test_a_file_object_is_read_only_up_to_the_limit() -> None:
    endless = io.BytesIO(bytes(10_000))
    with pytest.raises(ImageTooLargeError):
        load(endless, ImageLimits(max_bytes=100))
    assert endless.tell() <= 101


def test_the_limit_on_pixels(noise: Pixels, picture: Image.Image) -> None:
    pixels = noise.shape[0] * noise.shape[1]
    for source in (noise, picture, encoded(picture)):
        load(source, ImageLimits(max_pixels=pixels))
        with pytest.raises(ImageTooLargeError, match="max_pixels"):
            load(source, ImageLimits(max_pixels=pixels - 1))


def jpeg(picture: Image.Image, *, progressive: bool = False) -> bytes:
    buffer = io.BytesIO()
    picture.convert("L").save(buffer, "JPEG", progressive=progressive)
    return buffer.getvalue()


def test_a_jpeg_of_very_many_scans_is_rejected(picture: Image.Image) -> None:
    data = jpeg(picture, progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert load_rgb(data[:-2] + 50 * last + data[-2:], ImageLimits()).size
    with pytest.raises(ImageError, match="JPEG has more than 100 scans"):
        load_rgb(data[:-2] + 100 * last + data[-2:], ImageLimits())
    hidden = b"\xff\x01\xff\xd7" + last  # marks without a segment of their own
    with pytest.raises(ImageError, match="JPEG has more than 100 scans"):
        load_rgb(data[:-2] + 100 * hidden + data[-2:], ImageLimits())


def test_a_jpeg_of_very_many_segments_is_rejected(picture: Image.Image) -> None:
    data, empty_comment = jpeg(picture), b"\xff\xfe\x00\x02"
    assert load_rgb(data[:2] + 9_000 * empty_comment + data[2:], ImageLimits()).size
    with pytest.raises(ImageError, match="10,000 segments"):
        load_rgb(data[:2] + 10_000 * empty_comment + data[2:], ImageLimits())


def test_metadata_and_trailing_data_of_a_jpeg_may_hold_anything(picture: Image.Image) -> None:
    data, scan_marks = jpeg(picture), 2_000 * b"\xff\xda"
    note = b"\xff\xfe" + (len(scan_marks) + 2).to_bytes(2, "big") + scan_marks
    motion_photo = data[:2] + note + data[2:] + 5_000 * scan_marks
    assert (load_rgb(motion_photo, ImageLimits()) == load_rgb(data, ImageLimits())).all()


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 28)  # sparse: nothing is written
    tracemalloc.start()
    with pytest.raises(ImageTooLargeError):
        load(tmp_path / "huge.png", ImageLimits(max_bytes=1000))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1 << 20


@pytest.mark.parametrize("side", [8_000, 12_000, 60_000])
def test_a_decompression_bomb_is_rejected_before_decoding(side: int) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000)))
    tracemalloc.start()
    with pytest.raises(ImageTooLargeError):
        load(bomb)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 2 << 20


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
