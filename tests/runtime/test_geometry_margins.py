"""Margins per side, offsets and replicated borders against OpenCV; problems of a geometry."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runtime.alignment import template_problem
from runtime.geometry import Geometry, black, crop, fit
from runtime.results import Landmarks
from tests.runtime.test_geometry import picture

TEMPLATE: Landmarks = (
    (18.28, 17.47),
    (44.61, 17.36),
    (31.05, 31.43),
    (20.10, 43.00),
    (41.79, 42.84),
)
ALIGNED = Geometry(fit="align", interpolation="opencv_area", template=TEMPLATE)


@given(
    st.tuples(*[st.integers(0, 25)] * 2),
    st.tuples(*[st.integers(1, 30)] * 2),
    st.tuples(*[st.floats(-0.45, 1.5)] * 4),
    st.tuples(*[st.floats(-2, 2)] * 2),
    st.booleans(),
)
@example((0, 0), (1, 22), (0.0, 0.0, 0.0, -0.359375), (0.0, 0.0), False)  # 1.5 pixels to round
def test_margins_per_side_and_offsets_are_padded_by_opencv(
    corner: tuple[int, int],
    size: tuple[int, int],
    margins: tuple[float, float, float, float],
    offset: tuple[float, float],
    replicate: bool,
) -> None:
    image = picture(40, 50)
    x, y = corner
    width, height = min(size[0], 50 - x), min(size[1], 40 - y)
    geometry = Geometry(
        0.1,
        pad_color=(255, 0, 1),
        margins=margins,
        offset=offset,
        border="replicate" if replicate else "color",
    )
    cut = [min(margin, 0.0) for margin in margins]
    around = [0.1 + max(margin, 0.0) for margin in margins]
    x0, y0 = math.floor(x - cut[0] * width), math.floor(y - cut[1] * height)
    x1 = math.ceil(x - cut[0] * width + width * (1.0 + cut[0] + cut[2]))
    y1 = math.ceil(y - cut[1] * height + height * (1.0 + cut[1] + cut[3]))
    x1, y1 = min(x1, 50), min(y1, 40)
    w, h = x1 - x0, y1 - y0
    left = x0 - round(w * (around[0] - offset[0]))
    top = y0 - round(h * (around[1] - offset[1]))
    right = max(x1 + round(w * (around[2] + offset[0])), left + 1)
    bottom = max(y1 + round(h * (around[3] + offset[1])), top + 1)
    border, far = cv2.BORDER_REPLICATE if replicate else cv2.BORDER_CONSTANT, 150
    large = np.asarray(
        cv2.copyMakeBorder(image, far, far, far, far, border, value=(255, 0, 1)), np.uint8
    )
    wanted = large[far + top : far + bottom, far + left : far + right]
    assert np.array_equal(crop(image, (x, y, width, height), geometry), wanted)


@pytest.mark.parametrize("fitting", ["letterbox", "pad_square"])
@pytest.mark.parametrize("size", [(60, 80), (80, 60), (31, 64), (200, 131)])
def test_a_replicated_border_continues_the_edge_of_the_fitted_crop(
    size: tuple[int, int], fitting: str
) -> None:
    image = picture(*size)
    colored = fit(image, 48, 48, Geometry(0.0, fitting, "opencv_area", (1, 2, 3)))
    found = fit(image, 48, 48, Geometry(0.0, fitting, "opencv_area", border="replicate"))
    outside = (colored == (1, 2, 3)).all(axis=2)
    rows, columns = np.flatnonzero(~outside.all(axis=1)), np.flatnonzero(~outside.all(axis=0))
    y, x = np.indices((48, 48))
    y, x = y.clip(rows[0], rows[-1]), x.clip(columns[0], columns[-1])
    assert outside.any()
    assert np.array_equal(found, colored[y, x])


@pytest.mark.parametrize("box", [(10, 12, 60, 81), (-20.4, -9.7, 90.2, 120.3), (100, 60, 99, 99)])
def test_the_geometry_of_face_api(box: tuple[float, float, float, float]) -> None:
    """Top 5 % cut off, rounded outward and clipped, padded to a square as by face-api's tensors.

    Source: `padToSquare` of vladmandic/face-api (src/ops/padToSquare.ts) pads the crop, half of it
    before and the rest after; here it is padded after it was scaled, at most a pixel off.
    """
    image = picture(140, 150)
    geometry = Geometry(
        fit="pad_square", interpolation="opencv_area", margins=(0.0, -0.05, 0.0, 0.0)
    )
    left, top = max(math.floor(box[0]), 0), max(math.floor(box[1] + 0.05 * box[3]), 0)
    right = min(int(np.ceil(box[0] + box[2])), 150)
    bottom = min(int(np.ceil(box[1] + box[3])), 140)
    cut = image[top:bottom, left:right]
    height, width = cut.shape[:2]
    scaled = [round(side * 112 / max(height, width)) for side in (height, width)]
    inner = cv2.resize(cut, (scaled[1], scaled[0]), interpolation=cv2.INTER_AREA)
    wanted = np.zeros((112, 112, 3), np.uint8)
    y, x = (112 - scaled[0]) // 2, (112 - scaled[1]) // 2
    wanted[y : y + scaled[0], x : x + scaled[1]] = inner
    found = fit(crop(image, box, geometry), 112, 112, geometry)
    assert np.array_equal(found, wanted)
    padding = abs(height - width)
    before = (padding - round(padding / 2 + 1e-9)) * 112 / max(height, width)
    assert abs(before - max(y, x)) <= 1.0


def test_problems_of_templates() -> None:
    assert template_problem(TEMPLATE) is None
    assert "five points" in str(template_problem(TEMPLATE[:4]))
    assert "pixels of the input" in str(template_problem([(0.3, 0.3)] * 5))
    shares = [(x / 64, y / 64) for x, y in TEMPLATE]
    assert "pixels of the input" in str(template_problem(shares))


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        ({}, []),
        ({"template": None}, ["template"]),
        ({"template": TEMPLATE[:3]}, ["template"]),
        ({"interpolation": "pillow_bilinear"}, ["interpolation"]),
        ({"crop_margin": 0.1}, ["margins"]),
        ({"offset": (0.1, 0.0)}, ["margins"]),
        ({"fit": "stretch"}, ["template"]),
    ],
)
def test_problems_of_geometries(change: dict[str, Any], problems: list[str]) -> None:
    assert [path for path, _ in replace(ALIGNED, **change).problems()] == problems


def test_boxes_may_be_arrays_or_lists() -> None:
    image = picture(20, 30)
    for box in ([1, 2, 3, 4], np.array([1, 2, 3, 4]), np.array([1, 2, 3, 4], np.float32)):
        assert (crop(image, box, Geometry()) == image[2:6, 1:4]).all()  # type: ignore[arg-type]


def test_black_is_black() -> None:
    assert black(3, 5).shape == (3, 5, 3)
    assert not black(3, 5).any()
