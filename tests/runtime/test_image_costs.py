"""What a decoded picture costs is known from its header, and is true."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.errors import ImageError, ImageTooLargeError
from runtime.images import ImageLimits, load_rgb, picture_cost
from tests.runtime.large_pictures import MAKERS, encoded, oriented, png
from tests.runtime.picture_files import chunk

CASES = Path(__file__).parent / "cases"
LIMITS = ImageLimits()
SMALL, LARGE = (64, 128), (3200, 2560)
LARGE_WEBP, LARGE_CODES = (2400, 1800), (512, 512)
CODES_UNKNOWN = {"webp lossless", "webp lossless alpha", "webp lossy alpha"}
"""The header does not tell their number; "webp lossless, many codes" has as many as can be."""
TURNED = [*((name, 6) for name in MAKERS), *(("jpeg", number) for number in (1, 2, 3))]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[int]]]:
    """Returns peak, promise and pixels of a large picture, in a fresh process."""
    if sys.platform != "linux":
        pytest.skip("resident memory at its peak is read from Linux's /proc")
    command = [sys.executable, "-m", "tests.runtime.decoding_memory"]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def measure(name: str, orientation: int) -> list[int]:
            folder = tmp_path_factory.mktemp("pictures")
            paths = []
            large = LARGE_WEBP if name.startswith("webp") else LARGE
            for size in (SMALL, LARGE_CODES if "codes" in name else large):
                paths.append(folder / f"{size[0]}")
                paths[-1].write_bytes(oriented(MAKERS[name](*size), orientation))
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\t".join(map(str, paths)) + "\n")
            process.stdin.flush()
            return [int(word) for word in process.stdout.readline().split()]

        yield measure
        process.stdin.close()


@pytest.mark.parametrize(("name", "orientation"), TURNED)
def test_no_picture_takes_more_than_promised(
    measured: Callable[..., list[int]], name: str, orientation: int
) -> None:
    peak, promised, pixels = measured(name, orientation)
    sys.stdout.write(f"{name}: {peak / pixels:.2f} bytes per pixel, {promised / pixels:.2f}\n")
    assert peak <= promised
    if name not in CODES_UNKNOWN:
        assert promised <= 1.25 * peak  # else it tells nothing


@pytest.mark.parametrize("name", [name for name in MAKERS if "narrow" not in name])
def test_the_header_tells_format_and_size(name: str) -> None:
    data = MAKERS[name](40, 30)
    cost = picture_cost(data, LIMITS)
    assert (cost.format, cost.width, cost.height) == (name.split(maxsplit=1)[0].upper(), 40, 30)
    assert load_rgb(data, LIMITS).shape == (30, 40, 3)
    assert picture_cost(oriented(data, 6), LIMITS).width == 40


def test_coefficients_of_whole_blocks_are_counted() -> None:
    """A progressive picture one pixel wide: a block of 8×8 for every eight pixels."""
    image = Image.new("RGB", (1, 60_000))
    plain, progressive = (encoded(image, "JPEG", progressive=kind) for kind in (False, True))
    more = picture_cost(progressive, LIMITS).peak_bytes - picture_cost(plain, LIMITS).peak_bytes
    # 4:2:0: four blocks of the first color and one each of two others in 16×16.
    assert more >= 3750 * 6 * 128 - 3 * 60_000 - 3 * abs(len(plain) - len(progressive))


def webp(kind: bytes, content: bytes) -> bytes:
    body = b"WEBP" + kind + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", len(body)) + body


BOMBS = {
    "png": png(3, 3, 8, 2).replace(
        chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 3, 8, 2, 0, 0, 0)),
        chunk(b"IHDR", struct.pack(">IIBBBBB", 7_072, 7_072, 8, 2, 0, 0, 0)),
    ),
    "jpeg": encoded(Image.new("RGB", (8, 8)), "JPEG").replace(
        b"\xff\xc0\0\x11\x08\0\x08\0\x08", b"\xff\xc0\0\x11\x08" + struct.pack(">HH", 7_072, 7_072)
    ),
    "webp extended": webp(b"VP8X", bytes([0, 0, 0, 0]) + struct.pack("<I", 7_071)[:3] * 2),
    "webp lossy": webp(b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 7_072, 7_072)),
    "webp lossless": webp(b"VP8L", b"\x2f" + struct.pack("<I", 7_071 | 7_071 << 14)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_pillow_does_not_open_what_is_too_large(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", None)
    for look in (picture_cost, load_rgb):
        with pytest.raises(ImageTooLargeError, match="7072×7072 pixels, more than"):
            look(BOMBS[name], LIMITS)


def test_a_lazy_pil_image_that_is_too_large_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    with Image.open(CASES / "webp_40_bytes.webp") as image:
        monkeypatch.setattr(type(image), "load", None)
        with pytest.raises(ImageTooLargeError, match="7071×7071 pixels, more than 16,666,666"):
            load_rgb(image, LIMITS)


def test_the_same_limits_as_of_decoding() -> None:
    data = png(40, 30, 8, 2)
    for limits in (ImageLimits(max_bytes=len(data) - 1), ImageLimits(max_pixels=1_199)):
        for look in (picture_cost, load_rgb):
            with pytest.raises(ImageTooLargeError):
                look(data, limits)
    assert picture_cost(data, ImageLimits(max_bytes=len(data), max_pixels=1_200)).height == 30


@pytest.mark.parametrize("size", range(0, 44, 4))
@pytest.mark.parametrize("name", ["jpeg", "png RGB 8 bits", "webp lossy", "webp lossless"])
def test_a_header_cut_off(name: str, size: int) -> None:
    data = MAKERS[name](40, 30)[:size]
    try:
        assert picture_cost(data, LIMITS).width == 40
    except ImageError:
        with pytest.raises(ImageError):
            load_rgb(data, LIMITS)


def test_two_headers_are_refused() -> None:
    """Decoders would take the second one."""
    second = chunk(b"IHDR", struct.pack(">IIBBBBB", 9_000, 9_000, 8, 2, 0, 0, 0))
    data = png(40, 30, 8, 2)
    jpeg = MAKERS["jpeg"](40, 30)
    start = jpeg.index(b"\xff\xc0")
    frame = jpeg[start : jpeg.index(b"\xff\xc4")]
    for twice in (data[:33] + second + data[33:], jpeg[:start] + frame + jpeg[start:]):
        for look in (picture_cost, load_rgb):
            with pytest.raises(ImageError, match="two headers"):
                look(twice, LIMITS)


def test_a_picture_without_pixels_is_counted_whole_and_refused() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 7_000, 7_000, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000)))
    assert picture_cost(data, LIMITS).peak_bytes >= 7 * 49_000_000
    with pytest.raises(ImageError):
        load_rgb(data, LIMITS)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["jpeg", "png palette 8 bits tRNS", "png LA 16 bits"])
def test_strips_join_to_the_whole_picture(name: str, orientation: int) -> None:
    """Pillow turns and converts the whole picture at once, as a reference."""
    data = oriented(MAKERS[name](900, 701), orientation)
    exif = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Pillow's numbers of the turns
    turn = exif[orientation]
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        turned = image if turn is None else image.transpose(Image.Transpose(turn))
    layered = turned.convert("RGBA")
    white = Image.new("RGBA", layered.size, "white")
    wanted = np.asarray(Image.alpha_composite(white, layered).convert("RGB"))
    assert np.array_equal(load_rgb(data, LIMITS), wanted)
