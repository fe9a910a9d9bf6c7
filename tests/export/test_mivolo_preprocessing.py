"""MiVOLO's crops against the authors' steps, written with OpenCV.

The steps: WildChlamydia/MiVOLO, `class_letterbox` in mivolo/data/misc.py and `crop_object` in
mivolo/structures.py. There a person narrower than 50 pixels, or with fewer than 0.4 of all values
nonzero, counts as missing; a face within the person is black; a face is cropped unchanged. Boxes
are truncated to whole pixels, and clamped to the picture's sides minus 1 (`get_bbox_by_ind`).
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.experts.mivolo.expert import mivolo_signature
from export.experts.mivolo.module import random_mivolo
from export.experts.mivolo.settings import LETTERBOX
from runtime.geometry import fit
from runtime.manifest import InputSpec
from runtime.preparation import input_view
from tests.export.mivolo_fixtures import spec

Image = NDArray[np.uint8]
Corners = tuple[float, float, float, float]
"""Left, top, right, bottom."""

SIZES = [
    (1, 1),
    (1, 300),
    (300, 1),
    (2, 3),
    (31, 97),
    (63, 64),
    (64, 63),
    (64, 64),
    (64, 200),
    (65, 64),
    (128, 128),
    (201, 133),
    (333, 500),
    (480, 640),
]
FACE, PERSON = mivolo_signature(random_mivolo(spec()), LETTERBOX).inputs


def noise(height: int, width: int) -> Image:
    rng = np.random.default_rng([height, width])
    return rng.integers(1, 256, (height, width, 3), np.uint8)


def letterboxed(image: Image, side: int) -> Image:
    height, width = image.shape[:2]
    if (height, width) == (side, side):
        return image
    ratio = min(side / height, side / width)
    # The authors' code fails where a side rounds to 0; here one pixel is kept.
    inner = max(round(width * ratio), 1), max(round(height * ratio), 1)
    if (width, height) != inner:
        image = np.asarray(cv2.resize(image, inner, interpolation=cv2.INTER_LINEAR), np.uint8)
    across, down = (side - inner[0]) / 2, (side - inner[1]) / 2
    top, bottom = round(down - 0.1), round(down + 0.1)
    left, right = round(across - 0.1), round(across + 0.1)
    bordered = cv2.copyMakeBorder(
        image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(0, 0, 0)
    )
    return np.asarray(bordered, np.uint8)


def clamped(corners: Corners, image: Image) -> tuple[slice, slice]:
    """Returns the rows and columns of a box in the authors' code."""
    last = np.array([image.shape[1] - 1, image.shape[0] - 1] * 2)
    left, top, right, bottom = np.clip(np.trunc(corners), 0, last).astype(int).tolist()
    return slice(top, bottom), slice(left, right)


def person_crop(image: Image, person: Corners, face: Corners | None) -> Image | None:
    cut = image[clamped(person, image)].copy()
    if min(cut.shape[:2]) < 50:
        return None
    if face is not None:
        left, top, right, bottom = (int(edge) for edge in face)
        mask = cv2.rectangle(np.zeros(image.shape[:2], np.uint8), (left, top),
                             (right - 1, bottom - 1), 1, cv2.FILLED)  # fmt: skip
        cut[mask[clamped(person, image)] == 1] = 0
    return None if np.count_nonzero(cut) / cut.size < 0.4 else cut


def boxed(corners: Corners) -> tuple[float, float, float, float]:
    left, top, right, bottom = corners
    return left, top, right - left, bottom - top


def view(image: Image, spec: InputSpec, **boxes: Corners) -> Image | None:
    return input_view(image, {name: boxed(box) for name, box in boxes.items()}, spec)


@pytest.mark.parametrize("side", [64, 224])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_letterbox(height: int, width: int, side: int) -> None:
    image = noise(height, width)
    found = fit(image, side, side, LETTERBOX)
    np.testing.assert_array_equal(found, letterboxed(image, side))


@settings(max_examples=60)
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([16, 64, 96]))
def test_letterbox_of_any_size(height: int, width: int, side: int) -> None:
    image = noise(height, width)
    found = fit(image, side, side, LETTERBOX)
    np.testing.assert_array_equal(found, letterboxed(image, side))


@pytest.mark.parametrize(
    "corners",
    [
        (10, 20, 40, 60),
        (0, 0, 1, 1),
        (10, 20, 199, 149),
        pytest.param((10, 20, 200, 150), id="to-the-edge"),
        pytest.param((10, 20, 230, 170), id="beyond-the-edge"),
        pytest.param((-20, -10, 40, 60), id="before-the-edge"),
        pytest.param((10.9, 20.1, 40.9, 60.5), id="fractions"),
        pytest.param((-0.5, 20.5, 199.5, 150.5), id="fractions-at-the-edge"),
    ],
)
def test_a_face_is_cropped_unchanged(corners: Corners) -> None:
    image = noise(150, 200)
    found = view(image, FACE, face=corners, person=(0, 0, 200, 150))
    assert found is not None
    np.testing.assert_array_equal(found, letterboxed(image[clamped(corners, image)], 64))


@settings(max_examples=60)
@given(st.tuples(*[st.floats(-60, 260, width=16)] * 4))
def test_any_box_gives_the_crop_of_the_authors(edges: Corners) -> None:
    image = noise(150, 200)
    corners = (min(edges[::2]), min(edges[1::2]), max(edges[::2]), max(edges[1::2]))
    rows, columns = clamped(corners, image)
    assume(rows.stop > rows.start and columns.stop > columns.start)
    face = view(image, FACE, face=corners)
    assert face is not None
    np.testing.assert_array_equal(face, letterboxed(image[rows, columns], 64))
    person, expected = view(image, PERSON, person=corners), person_crop(image, corners, None)
    assert (person is None) == (expected is None)
    if person is not None and expected is not None:
        np.testing.assert_array_equal(person, letterboxed(expected, 64))


def test_a_box_that_the_authors_reject_keeps_a_pixel() -> None:
    image = noise(150, 200)
    found = view(image, FACE, face=(199, 0, 200, 150))
    assert found is not None
    np.testing.assert_array_equal(found, letterboxed(image[:149, 199:], 64))


@pytest.mark.parametrize(
    ("person", "face"),
    [
        pytest.param((20, 10, 180, 150), (80, 20, 120, 60), id="face-within"),
        pytest.param((20, 40, 180, 150), (80, 20, 120, 60), id="face-above-the-top"),
        pytest.param((20, 40, 180, 150), (0, 0, 40, 60), id="face-at-the-corner"),
        pytest.param((20, 40, 180, 150), (160, 130, 200, 150), id="face-at-the-far-corner"),
        pytest.param((100, 40, 180, 150), (0, 0, 90, 30), id="face-elsewhere"),
        pytest.param((20, 10, 180, 150), (180, 10, 190, 30), id="face-beside"),
        pytest.param((20, 10, 180, 150), None, id="no-face"),
        pytest.param((20, 10, 70, 150), None, id="50-pixels"),
        pytest.param((20, 40, 200, 150), (160, 130, 200, 150), id="both-to-the-edge"),
        pytest.param((20.6, 40.6, 180.6, 149.9), (80.9, 20.2, 120.9, 60.7), id="fractions"),
    ],
)
def test_the_face_is_black_in_the_person(person: Corners, face: Corners | None) -> None:
    image = noise(150, 200)
    cut = person_crop(image, person, face)
    assert cut is not None
    found = view(image, PERSON, person=person, **({} if face is None else {"face": face}))
    assert found is not None
    np.testing.assert_array_equal(found, letterboxed(cut, 64))


@pytest.mark.parametrize(
    ("person", "face", "brightness"),
    [
        pytest.param((0, 0, 49, 150), None, 1, id="49-pixels-broad"),
        pytest.param((0, 0, 200, 49), None, 1, id="49-pixels-high"),
        pytest.param((0, 100, 200, 150), None, 1, id="50-pixels-to-the-edge"),
        pytest.param((0, 0, 100, 100), (0, 0, 100, 61), 1, id="face-over-more-than-0.6"),
        pytest.param((0, 0, 100, 100), None, 0, id="black"),
    ],
)
def test_too_little_of_a_person_counts_as_missing(
    person: Corners, face: Corners | None, brightness: int
) -> None:
    image = noise(150, 200) * np.uint8(brightness)
    assert person_crop(image, person, face) is None
    assert view(image, PERSON, person=person, **({} if face is None else {"face": face})) is None


def test_the_smallest_share_is_accepted() -> None:
    image = noise(101, 101)
    boxes = {"person": (0, 0, 100, 100), "face": (0, 0, 100, 60)}
    assert person_crop(image, *boxes.values()) is not None
    assert view(image, PERSON, **boxes) is not None


def test_the_image_is_not_modified() -> None:
    image = noise(150, 200)
    before = image.copy()
    view(image, PERSON, person=(0, 0, 200, 150), face=(50, 50, 90, 90))
    np.testing.assert_array_equal(image, before)


def test_without_a_box_there_is_no_view() -> None:
    image = noise(150, 200)
    assert view(image, PERSON, face=(0, 0, 50, 50)) is None
    assert view(image, FACE, person=(0, 0, 200, 150)) is None
