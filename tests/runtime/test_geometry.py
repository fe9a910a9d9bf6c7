"""Crop, resize and pad against independent implementations of their sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from runtime.errors import BoxError
from runtime.geometry import (
    FITS,
    ROUNDINGS,
    Geometry,
    Resize,
    crop,
    fit,
)
from runtime.resizing import INTERPOLATIONS

Pixels = NDArray[np.uint8]
BOX_FITS = [fitting for fitting in FITS if fitting != "align"]
SIZES = [(1, 1), (1, 9), (9, 1), (7, 300), (300, 7), (96, 96), (95, 97), (60, 80), (333, 250)]
# H×W; 41×64 and 43×64 pad an odd number of rows, which the two roundings split differently
ODD = [(41, 64), (43, 64), (64, 41), (64, 43), (63, 64), (200, 131)]
KERNELS = [
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
]


def picture(height: int, width: int) -> Pixels:
    return np.random.default_rng(height * 1009 + width).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )


def mivolo_letterbox(image: Pixels, height: int, width: int) -> Pixels:
    """The documented steps of MiVOLO's `class_letterbox`, on OpenCV itself."""
    ratio = min(height / image.shape[0], width / image.shape[1])
    new_width, new_height = round(image.shape[1] * ratio), round(image.shape[0] * ratio)
    across, down = (width - new_width) / 2, (height - new_height) / 2
    if image.shape[:2] != (new_height, new_width):
        resized = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
        image = np.asarray(resized, np.uint8)
    top, bottom = round(down - 0.1), round(down + 0.1)
    left, right = round(across - 0.1), round(across + 0.1)
    padded = cv2.copyMakeBorder(
        image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(9, 8, 7)
    )
    return np.asarray(padded, np.uint8)


@pytest.mark.parametrize("size", [*SIZES[3:], *ODD])
@pytest.mark.parametrize("target", [(64, 64), (224, 224), (65, 65)])
def test_letterbox_is_mivolos(size: tuple[int, int], target: tuple[int, int]) -> None:
    image = picture(*size)
    wanted = mivolo_letterbox(image, *target)
    assert wanted.shape == (*target, 3)
    found = fit(image, *target, Geometry(0.0, "letterbox", "opencv_bilinear", (9, 8, 7)))
    assert (found == wanted).all()


@given(st.integers(2, 120), st.integers(2, 120))
def test_letterbox_is_mivolos_at_any_aspect(height: int, width: int) -> None:
    image = picture(height, width)
    found = fit(image, 48, 48, Geometry(0.0, "letterbox", "opencv_bilinear", (9, 8, 7)))
    assert (found == mivolo_letterbox(image, 48, 48)).all()


@pytest.mark.parametrize("size", [*SIZES, *ODD])
@pytest.mark.parametrize("kernel", KERNELS)
def test_stretch_is_pillows_resize(size: tuple[int, int], kernel: Image.Resampling) -> None:
    image = picture(*size)
    wanted = np.asarray(Image.fromarray(image).resize((40, 32), kernel))
    name = f"pillow_{kernel.name.lower()}"
    assert (fit(image, 32, 40, Geometry(interpolation=name)) == wanted).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("opencv_bilinear", cv2.INTER_LINEAR),
        ("opencv_area", cv2.INTER_AREA),
        ("opencv_bicubic", cv2.INTER_CUBIC),
    ],
)
def test_stretch_is_opencvs_resize(size: tuple[int, int], name: str, flag: int) -> None:
    image = picture(*size)
    wanted = np.asarray(cv2.resize(image, (40, 32), interpolation=flag))
    assert (fit(image, 32, 40, Geometry(interpolation=name)) == wanted).all()


@pytest.mark.parametrize("size", [(60, 80), (80, 60), (333, 250), (20, 20), (31, 64)])
def test_center_crop_is_resize_then_middle(size: tuple[int, int]) -> None:
    image = picture(*size)
    scale = max(48 / size[0], 32 / size[1])
    height, width = max(round(size[0] * scale), 48), max(round(size[1] * scale), 32)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - 32) // 2, (height - 48) // 2
    wanted = np.asarray(resized.crop((left, top, left + 32, top + 48)))
    assert (fit(image, 48, 32, Geometry(fit="center_crop")) == wanted).all()


@pytest.mark.parametrize("size", [(60, 80), (80, 60), (10, 400), (48, 48), (1, 3)])
def test_pad_square_keeps_the_longest_side_and_the_middle(size: tuple[int, int]) -> None:
    white = np.full((*size, 3), 255, np.uint8)
    found = fit(white, 48, 48, Geometry(0.0, "pad_square", "pillow_bicubic", (1, 2, 3)))
    seen = (found == 255).all(axis=2)
    assert (found[~seen] == (1, 2, 3)).all()
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    assert seen.sum() == len(rows) * len(columns)
    assert max(len(rows), len(columns)) == 48
    for span in (rows, columns):
        assert abs(span[0] - (47 - span[-1])) <= 1


@given(st.integers(1, 120), st.integers(1, 120), st.sampled_from(ROUNDINGS))
def test_truncated_sides_are_the_integer_part(height: int, width: int, rounding: str) -> None:
    image = picture(height, width)
    sides = [side / max(height, width) * 48 for side in (height, width)]
    whole = [max(int(side if rounding == "truncate" else np.rint(side)), 14) for side in sides]
    resized = Image.fromarray(image).resize((whole[1], whole[0]), Image.Resampling.BICUBIC)
    wanted = Image.new("RGB", (48, 48), (1, 2, 3))
    wanted.paste(resized, ((48 - whole[1]) // 2, (48 - whole[0]) // 2))
    geometry = Geometry(0.0, "pad_square", "pillow_bicubic", (1, 2, 3), rounding=rounding)
    # `rint` of the quotient and `round` of the product may disagree at a half
    if rounding == "truncate" or all(abs(side % 1 - 0.5) > 1e-9 for side in sides):
        assert (fit(image, 48, 48, geometry) == np.asarray(wanted)).all()


@pytest.mark.parametrize("size", [*SIZES, *ODD, (256, 256), (256, 255), (720, 1280)])
@pytest.mark.parametrize("fitting", BOX_FITS)
def test_resizes_before_the_fit_are_pillows(size: tuple[int, int], fitting: str) -> None:
    image = picture(*size)
    then = Geometry(0.0, fitting, "pillow_bicubic", (9, 8, 7))
    lanczos = Image.fromarray(image).resize((256, 256), Image.Resampling.LANCZOS)
    chain = (Resize(256, 256, "pillow_lanczos"),)
    found = fit(image, 64, 64, replace(then, before=chain))
    assert (found == fit(np.asarray(lanczos), 64, 64, then)).all()
    area = np.asarray(cv2.resize(np.asarray(lanczos), (30, 70), interpolation=cv2.INTER_AREA))
    longer = (*chain, Resize(70, 30, "opencv_area"))
    found = fit(image, 64, 64, replace(then, before=longer))
    assert (found == fit(area.astype(np.uint8), 64, 64, then)).all()


@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from(BOX_FITS),
    st.sampled_from(INTERPOLATIONS),
    st.booleans(),
)
def test_the_result_always_has_the_inputs_shape(
    height: int, width: int, fitting: str, interpolation: str, mirrored: bool
) -> None:
    image = picture(height, width)
    if mirrored:
        image = image[:, ::-1, ::-1]  # BGR views of callers have negative strides
    side = 24
    found = fit(image, side, side, Geometry(0.0, fitting, interpolation))
    assert found.shape == (side, side, 3)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    again = fit(np.ascontiguousarray(image), side, side, Geometry(0.0, fitting, interpolation))
    assert (found == again).all()


@pytest.mark.parametrize("shape", [(1, 65_535), (65_535, 1), (3, 65_535)])
@pytest.mark.parametrize("fitting", BOX_FITS)
@pytest.mark.parametrize("interpolation", ["pillow_bilinear", "opencv_bilinear"])
def test_a_strip_does_not_exhaust_the_memory(
    shape: tuple[int, int],
    fitting: str,
    interpolation: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    areas: list[int] = []
    pillow, opencv = Image.Image.resize, cv2.resize

    def watched(original: Callable[..., Any]) -> Callable[..., Any]:
        def resize(image: object, size: tuple[int, int], *rest: object, **named: object) -> object:
            areas.append(size[0] * size[1])
            assert areas[-1] < 20_000_000
            return original(image, size, *rest, **named)

        return resize

    monkeypatch.setattr(Image.Image, "resize", watched(pillow))
    monkeypatch.setattr(cv2, "resize", watched(opencv))
    image = np.full((*shape, 3), 200, np.uint8)
    found = fit(image, 224, 224, Geometry(0.0, fitting, interpolation))
    assert found.max() == 200
    assert areas


def test_center_crop_of_a_strip_shows_its_middle() -> None:
    strip = np.zeros((2, 1000, 3), np.uint8)
    strip[:, 490:510] = 255
    assert (fit(strip, 16, 16, Geometry(fit="center_crop")) == 255).all()


def test_without_a_box_the_whole_picture_is_the_crop() -> None:
    image = picture(20, 30)
    assert crop(image, None, Geometry(crop_margin=0.4)) is image


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((5, 4, 10, 8), (4, 12), (5, 15)),
        ((5.2, 4.9, 9.1, 7.05), (4, 12), (5, 15)),
        ((-3, -2, 8, 9), (0, 7), (0, 5)),
        ((25, 15, 100, 100), (15, 20), (25, 30)),
        ((-50, -50, 500, 500), (0, 20), (0, 30)),
        ((7, 7, 0.01, 0.01), (7, 8), (7, 8)),
    ],
)
def test_boxes_are_clipped_and_rounded_outwards(
    box: tuple[float, float, float, float], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    image = picture(20, 30)
    found = crop(image, box, Geometry())
    assert (found == image[slice(*rows), slice(*columns)]).all()
    assert found.shape[:2] == (rows[1] - rows[0], columns[1] - columns[0])


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((5, 4, 10, 8), (4, 12), (5, 15)),
        ((5.2, 4.9, 9.1, 7.05), (4, 11), (5, 14)),
        ((-3.5, -2, 8, 9), (0, 7), (0, 4)),
        ((5, 4, 24, 15), (4, 19), (5, 29)),
        ((5, 4, 24.9, 15.9), (4, 19), (5, 29)),
        ((0, 0, 30, 20), (0, 19), (0, 29)),
        ((25, 15, 100, 100), (15, 19), (25, 29)),
        ((7, 7, 0.01, 0.01), (7, 8), (7, 8)),
        ((29, 19, 1, 1), (19, 20), (29, 30)),
        ((-0.9, -0.9, 0.95, 0.95), (0, 1), (0, 1)),
    ],
)
def test_boxes_can_be_truncated(
    box: tuple[float, float, float, float], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    image = picture(20, 30)
    found = crop(image, box, Geometry(edges="truncate"))
    assert found.shape[:2] == (rows[1] - rows[0], columns[1] - columns[0])
    assert (found == image[slice(*rows), slice(*columns)]).all()


@given(
    st.integers(0, 29), st.integers(0, 19), st.integers(1, 40), st.integers(1, 40), st.floats(0, 2)
)
def test_margins_beyond_the_border_are_padded(
    x: int, y: int, width: int, height: int, margin: float
) -> None:
    image = picture(20, 30)
    width, height = min(width, 30 - x), min(height, 20 - y)
    across, down = round(width * margin), round(height * margin)
    found = crop(image, (x, y, width, height), Geometry(margin, pad_color=(255, 0, 1)))
    assert found.shape == (height + 2 * down, width + 2 * across, 3)
    for row in range(found.shape[0]):
        for column in range(found.shape[1]):
            source_y, source_x = y - down + row, x - across + column
            inside = 0 <= source_y < 20 and 0 <= source_x < 30
            wanted = image[source_y, source_x].tolist() if inside else [255, 0, 1]
            assert found[row, column].tolist() == wanted


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 0, 5),
        (0, 0, 5, -1),
        (NAN, 0, 5, 5),
        (0, 0, INF, 5),
        (-INF, 0, 5, 5),
        (1e308, 0, 1e308, 5),
        (10**400, 0, 5, 5),
        (30, 0, 5, 5),
        (0, 20, 5, 5),
        (-5, 0, 5, 5),
        (0, 0, 5),
        (0, 0, 5, 5, 5),
        (),
        5,
        "0,0,5,5",
        (0, 0, "wide", 5),
        (0, 0, None, 5),
        ((0, 0), (5, 5), 1, 1),
    ],
)
def test_bad_boxes(box: object) -> None:
    with pytest.raises(BoxError) as caught:
        crop(picture(20, 30), box, Geometry())  # type: ignore[arg-type]
    assert len(str(caught.value)) < 300
