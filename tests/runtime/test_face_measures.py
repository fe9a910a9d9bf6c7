"""Measures of a face, against brute-force twins and a head turned in space."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from runtime import FaceQuality
from runtime.alignment import landmarks_from
from runtime.face_measures import (
    MOST_READ,
    NOSE_DEPTH,
    SAMPLE_SIDE,
    luminance_sample,
    measured,
    roll_degrees,
    sharpness_of,
    yaw_degrees,
)
from runtime.geometry import Pixels
from runtime.quality import QUANTITIES
from runtime.results import Box, Landmarks
from tests.runtime.photo_samples import astronaut
from tests.runtime.test_landmarks import BOX, POINTS

HEAD = np.array(
    [
        [-0.5, -0.42, 0.0],
        [0.5, -0.42, 0.0],
        [0.0, 0.1, NOSE_DEPTH],
        [-0.42, 0.55, 0.0],
        [0.42, 0.55, 0.0],
    ]
)
"""A mean face in distances between the eyes: x to the right, y down, z toward the camera."""


def seen(yaw: float, pitch: float, roll: float, head: NDArray[np.float64] = HEAD) -> Landmarks:
    """Turns a head about its own axis, nods it, tilts it in the picture, and projects it."""
    a, b, c = np.radians((yaw, pitch, roll))
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    points = head @ (about_z @ about_x @ about_y).T
    return landmarks_from(points[:, :2] * 80.0 + (200.0, 150.0))


@pytest.mark.parametrize("pitch", [-20.0, 0.0, 15.0])
@pytest.mark.parametrize("roll", [-170.0, -30.0, 0.0, 5.0, 90.0])
@pytest.mark.parametrize("yaw", [-60.0, -25.0, 0.0, 10.0, 45.0, 75.0])
def test_angles_of_a_turned_head(yaw: float, pitch: float, roll: float) -> None:
    tilted = roll_degrees(seen(yaw, 0.0, roll))
    assert tilted == pytest.approx(roll, abs=1e-6)
    found = yaw_degrees(seen(yaw, pitch, roll))
    assert found == pytest.approx(yaw, abs=0.1 if abs(yaw) <= 60.0 else 3.0)


def test_the_yaw_of_other_faces_is_off_by_a_few_degrees() -> None:
    random = np.random.default_rng(0)
    errors = []
    for _ in range(300):
        head = HEAD + random.normal(0.0, 0.02, HEAD.shape)
        head[2, 2] *= random.uniform(0.85, 1.15)
        yaw = random.uniform(-45.0, 45.0)
        found = yaw_degrees(seen(yaw, random.uniform(-10, 10), random.uniform(-20, 20), head))
        assert found is not None
        errors.append(found - yaw)
    assert np.sqrt(np.mean(np.square(errors))) < 6.0


def test_a_profile_without_two_eyes_has_no_angles() -> None:
    points: Landmarks = ((5, 5), (5, 5), (9, 8), (5, 12), (5, 12))
    assert yaw_degrees(points) is None
    assert roll_degrees(points) is None


def test_sharpness_is_the_variance_of_the_laplacian(noise: Pixels) -> None:
    gray = noise[..., 0].astype(np.int64)
    values = [
        gray[y - 1, x] + gray[y + 1, x] + gray[y, x - 1] + gray[y, x + 1] - 4 * gray[y, x]
        for y in range(1, gray.shape[0] - 1)
        for x in range(1, gray.shape[1] - 1)
    ]
    mean = sum(values) / len(values)
    wanted = sum((value - mean) ** 2 for value in values) / len(values)
    assert sharpness_of(noise[..., 0]) == pytest.approx(wanted)
    assert sharpness_of(np.full((5, 5), 90, np.uint8)) == 0.0


def test_a_face_is_measured_on_its_box() -> None:
    image = np.full((300, 400, 3), 255, np.uint8)
    image[40:140, 50:130] = np.random.default_rng(3).integers(0, 256, (100, 80, 3), np.uint8)
    image[40:90, 50:130] = 10
    found = measured(image, (50.0, 40.0, 80.0, 100.0), POINTS, score=0.75, face_found=True)
    crop = image[40:140, 50:130].astype(np.float64) @ (0.299, 0.587, 0.114)
    twin = Image.fromarray(np.round(crop).astype(np.uint8))
    sample = np.asarray(twin.resize((112, 112), Image.Resampling.BILINEAR), np.float64)
    assert SAMPLE_SIDE == 112
    assert found.face_pixels == 80.0
    assert found.inter_eye_pixels == pytest.approx(math.dist(*POINTS[:2]))
    assert found.luminance == pytest.approx(sample.mean(), abs=1.0)
    assert found.contrast == pytest.approx(sample.std(), abs=1.0)
    assert found.underexposed == pytest.approx((sample <= 25).mean(), abs=0.02)
    assert found.overexposed == pytest.approx((sample >= 247).mean(), abs=0.01)
    assert (found.cut_off, found.score, found.face_found) == (0.0, 0.75, True)


@pytest.mark.parametrize(
    ("box", "cut_off"),
    [
        (None, 0.0),
        ((0, 0, 64, 48), 0.0),
        ((-10, 0, 40, 20), 0.25),
        ((44, 28, 40, 40), 0.75),
        ((-32, -24, 128, 96), 0.75),
    ],
)
def test_the_share_outside_the_picture(noise: Pixels, box: Box | None, cut_off: float) -> None:
    assert measured(noise, box, None).cut_off == pytest.approx(cut_off)


def test_without_landmarks_the_rest_is_measured(noise: Pixels) -> None:
    found = measured(noise, None, None)
    unknown = {name for name, value in found.to_dict().items() if value is None}
    assert unknown == {
        "inter_eye_pixels",
        "yaw_degrees",
        "roll_degrees",
        "score",
        "face_found",
    }
    assert {*QUANTITIES, "face_found"} == {field.name for field in fields(FaceQuality)}


def test_blur_and_reduction_lower_the_sharpness() -> None:
    x, y, width, height = map(int, BOX)
    face = Image.fromarray(astronaut()[y : y + height, x : x + width])
    large = np.asarray(face.resize((720, 950), Image.Resampling.BICUBIC))
    small = np.asarray(face.resize((18, 24), Image.Resampling.BOX))
    sharp = [measured(image, None, None).sharpness for image in (large, np.asarray(face), small)]
    assert sharp[0] == pytest.approx(sharp[1], rel=0.5)  # the same detail, in more pixels
    assert sharp[2] < 0.2 * sharp[1]


def test_a_large_face_is_read_sparsely(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, ...]] = []
    original = Image.fromarray

    def counted(array: Any, *arguments: Any) -> Any:
        read.append(array.shape)
        return original(array, *arguments)

    monkeypatch.setattr("runtime.face_measures.Image.fromarray", counted)
    image = np.broadcast_to(np.zeros(3, np.uint8), (7000, 7000, 3))
    assert luminance_sample(image, None).shape == (112, 112)
    assert luminance_sample(image, (0, 0, 7000, 1)).shape == (112, 112)
    assert max(max(shape[:2]) for shape in read) <= MOST_READ
