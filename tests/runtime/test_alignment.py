"""Alignment against scikit-image's similarity transform, OpenCV's warp and a brute-force twin."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.transform import SimilarityTransform

from runtime import alignment
from runtime.alignment import (
    MAX_WARP_SIDE,
    MEAN_LANDMARKS,
    SAMPLINGS,
    landmarks_from,
    mean_landmarks,
    similarity,
    transform_to,
)
from runtime.detection import turned_image, turned_landmarks
from runtime.errors import LandmarkError
from runtime.geometry import Geometry, Pixels, align, fit
from runtime.results import Landmarks
from tests.runtime.photo_samples import astronaut

TEMPLATE: Landmarks = (
    (18.28, 17.47),
    (44.61, 17.36),
    (31.05, 31.43),
    (20.10, 43.00),
    (41.79, 42.84),
)
"""On 64 pixels."""
FACE: Landmarks = ((207.0, 105.0), (247.0, 106.0), (229.0, 130.0), (212.0, 149.0), (243.0, 150.0))
"""Of Eileen Collins in `astronaut`."""
ALIGNED = Geometry(fit="align", interpolation="opencv_area", template=TEMPLATE)
COORDINATES = st.floats(-1000, 1000)
POINTS = st.lists(st.tuples(COORDINATES, COORDINATES), min_size=5, max_size=5)


def placed(scale: float, degrees: float, x: float, y: float) -> Landmarks:
    """Returns the template's points scaled and turned about a center at x, y."""
    turn = scale * np.exp(1j * np.radians(degrees))
    numbers = [turn * complex(a - 32.0, b - 32.0) + complex(x, y) for a, b in TEMPLATE]
    return landmarks_from([(number.real, number.imag) for number in numbers])


def noise(height: int, width: int) -> Pixels:
    rng = np.random.default_rng(height * 7919 + width)
    small = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(large, np.uint8)


def opencvs(
    image: Pixels, landmarks: Landmarks, border: int = cv2.BORDER_CONSTANT, side: int = 64
) -> Pixels:
    """The documented steps on scikit-image and OpenCV."""
    source, target = np.array(landmarks), np.array(TEMPLATE)
    shrinking = 1.0 / SimilarityTransform.from_estimate(source, target).scale
    times = max(math.ceil(shrinking - 1e-6), 1)
    blocks = target * times + (times - 1) / 2.0
    matrix = SimilarityTransform.from_estimate(source, blocks).params[:2]
    size = (side * times, side * times)
    large = cv2.warpAffine(
        image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border, borderValue=(9, 8, 7)
    )
    return np.asarray(cv2.resize(large, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


@given(POINTS, POINTS)
def test_the_transform_is_scikit_images(
    points: list[tuple[float, float]], template: list[tuple[float, float]]
) -> None:
    spread = np.std(points, axis=0).max()
    if spread < 1.0 or np.std(template, axis=0).max() < 1.0:
        return
    wanted = SimilarityTransform.from_estimate(np.array(points), np.array(template))
    found = similarity(points, template)
    moved = np.array(points) @ found[:, :2].T + found[:, 2]
    # Umeyama's decomposition has no unique answer for points without any likeness; the error has.
    error = ((moved - template) ** 2).sum()
    assert error == pytest.approx(((wanted(np.array(points)) - template) ** 2).sum(), rel=1e-6)
    p, t = (np.array(x) @ (1, 1j) for x in (points, template))
    if abs(np.vdot(p - p.mean(), t - t.mean())) > 1e-3 * spread:
        assert found == pytest.approx(wanted.params[:2], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("scale", [0.4, 1.0, 1.7, 7.3])
@pytest.mark.parametrize("degrees", [0, 30, 90, 179, -120])
def test_a_similar_face_is_brought_onto_the_template(scale: float, degrees: float) -> None:
    points = placed(scale, degrees, 300.0, 200.0)
    matrix = transform_to(TEMPLATE, points, (400, 600, 3))
    moved = np.array(points) @ matrix[:, :2].T + matrix[:, 2]
    assert moved == pytest.approx(np.array(TEMPLATE), abs=1e-9)
    assert math.sqrt(np.linalg.det(matrix[:, :2])) == pytest.approx(1.0 / scale)


@pytest.mark.parametrize("border", ["color", "replicate"])
@pytest.mark.parametrize(
    "face",
    [
        FACE,
        placed(0.5, 3, 100, 80),
        placed(1.0, 0, 32, 32),
        placed(3.0, -25, 200, 200),
        placed(5.3, 70, 300, 180),
        placed(2.0, 0, 20, 30),
        placed(9.0, 190, 250, 250),
    ],
)
def test_pixels_are_opencvs(face: Landmarks, border: str) -> None:
    mode = cv2.BORDER_CONSTANT if border == "color" else cv2.BORDER_REPLICATE
    geometry = replace(ALIGNED, border=border, pad_color=(9, 8, 7))
    for image in (astronaut(), noise(391, 402)):
        found = align(image, None, face, 64, 64, geometry)
        assert found.shape == (64, 64, 3)
        assert found.flags.c_contiguous
        assert np.array_equal(found, opencvs(image, face, mode))


@pytest.mark.parametrize(
    ("interpolation", "flag"),
    [("opencv_bilinear", cv2.INTER_LINEAR), ("opencv_bicubic", cv2.INTER_CUBIC)],
)
def test_other_interpolations_are_one_warp(interpolation: str, flag: int) -> None:
    matrix = SimilarityTransform.from_estimate(np.array(FACE), np.array(TEMPLATE))
    wanted = cv2.warpAffine(astronaut(), matrix.params[:2], (64, 64), flags=flag)
    geometry = replace(ALIGNED, interpolation=interpolation)
    assert np.array_equal(align(astronaut(), None, FACE, 64, 64, geometry), wanted)


@pytest.mark.parametrize("scale", [0.7, 1.0, 2.4, 3.0, 6.8])
@pytest.mark.parametrize("degrees", [0, 17, 90])
def test_pixels_are_means_of_samples_of_the_picture(scale: float, degrees: float) -> None:
    """Brute force, in floating point: bilinear samples at the centers of a q times finer grid."""
    image = noise(500, 480)
    face = placed(scale, degrees, 240.0, 250.0)
    back = np.linalg.inv(np.vstack([transform_to(TEMPLATE, face, image.shape), (0, 0, 1)]))
    times = max(math.ceil(scale - 1e-6), 1)
    centers = (np.arange(64 * times) + 0.5) / times - 0.5
    x, y = np.meshgrid(centers, centers)
    column, row, _ = np.tensordot(back, np.stack([x, y, np.ones_like(x)]), axes=1)
    samples = bilinear(image, row, column)
    wanted = samples.reshape(64, times, 64, times, 3).mean(axis=(1, 3))
    found = align(image, None, face, 64, 64, ALIGNED).astype(float)
    assert np.abs(found - wanted).max() < 4.0  # OpenCV rounds positions to 1/32 pixel
    assert np.abs(found - wanted).mean() < 0.6


def bilinear(image: Pixels, row: NDArray[np.float64], column: NDArray[np.float64]) -> Any:
    padded = np.pad(image.astype(float), ((1, 1), (1, 1), (0, 0)))
    row = np.clip(row + 1, 0, padded.shape[0] - 1.001)
    column = np.clip(column + 1, 0, padded.shape[1] - 1.001)
    y, x = np.floor(row).astype(int), np.floor(column).astype(int)
    down, across = (row - y)[..., None], (column - x)[..., None]
    upper = padded[y, x] * (1 - across) + padded[y, x + 1] * across
    lower = padded[y + 1, x] * (1 - across) + padded[y + 1, x + 1] * across
    return upper * (1 - down) + lower * down


def test_a_turned_picture_gives_the_same_face() -> None:
    image = noise(300, 280)
    upright = align(image, None, placed(2.0, 5, 140, 150), 64, 64, ALIGNED).astype(int)
    for turn in (1, 2, 3):
        points = turned_landmarks(placed(2.0, 5, 140, 150), turn, 280, 300)
        found = align(turned_image(image, turn), None, points, 64, 64, ALIGNED).astype(int)
        assert np.abs(found - upright).max() <= 4
        assert np.abs(found - upright).mean() < 0.5


def test_borders_are_a_color_or_replicated() -> None:
    image = np.full((100, 100, 3), 200, np.uint8)
    face = placed(2.0, 0, 0.0, 50.0)  # the left half of the input lies outside
    colored = align(image, None, face, 64, 64, replace(ALIGNED, pad_color=(1, 2, 3)))
    assert (colored[:, :31] == (1, 2, 3)).all()
    assert (colored[10:50, 33:] == 200).all()
    assert (align(image, None, face, 64, 64, replace(ALIGNED, border="replicate")) == 200).all()


def test_without_landmarks_the_average_ones_of_the_box_are_used() -> None:
    image, box = astronaut(), (190.0, 60.0, 80.0, 110.0)
    wanted = align(image, None, mean_landmarks(box), 64, 64, ALIGNED)
    assert np.array_equal(align(image, box, None, 64, 64, ALIGNED), wanted)
    clipped = align(image, (-20.0, 40.0, 120.0, 90.0), None, 64, 64, ALIGNED)
    inside = mean_landmarks((0.0, 40.0, 100.0, 90.0))
    assert np.array_equal(clipped, align(image, None, inside, 64, 64, ALIGNED))
    whole = align(image, None, mean_landmarks((0, 0, 512, 512)), 64, 64, ALIGNED)
    assert np.array_equal(align(image, None, None, 64, 64, ALIGNED), whole)
    assert np.array_equal(fit(image, 64, 64, ALIGNED), whole)


def test_average_landmarks_are_symmetric_and_in_their_box() -> None:
    x, y = np.array(MEAN_LANDMARKS).T
    assert x[[0, 3, 2]] == pytest.approx(1.0 - x[[1, 4, 2]])
    assert y[[0, 3]] == pytest.approx(y[[1, 4]])
    assert 0.0 < y[0] < y[2] < y[3] < 1.0
    found = np.array(mean_landmarks((10.0, 20.0, 100.0, 200.0)))
    assert found == pytest.approx(np.array(MEAN_LANDMARKS) * (100.0, 200.0) + (10.0, 20.0))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("points", "problem"),
    [
        (5, "five pairs"),
        ("eyes", "five pairs"),
        ([], "five pairs"),
        (FACE[:4], "five pairs"),
        ([*FACE, (0, 0)], "five pairs"),
        ([(1, 2, 3)] * 5, "five pairs"),
        ([*FACE[:4], (1, None)], "five pairs"),
        ([*FACE[:4], (1,)], "five pairs"),
        ([*FACE[:4], (1, NAN)], "five pairs"),
        ([*FACE[:4], (INF, 1)], "five pairs"),
        ([*FACE[:4], (1, 10**400)], "five pairs"),
        ([*FACE[:4], (1e300, 1)], "far outside the picture of 512×512"),
        ([*FACE[:4], (1, -513)], "far outside"),
        ([(x + 500, y) for x, y in FACE], "outside the picture"),
        ([(100, 100)] * 5, "within 0 pixels of one another"),
        ([(x / 512, y / 512) for x, y in FACE], "pixels of one another"),
        ([(FACE[i]) for i in (1, 0, 2, 4, 3)], "not arranged as in a face"),
        ([(FACE[i]) for i in (1, 0, 2, 3, 4)], "not arranged as in a face"),
        ([(10, 10), (200, 200), (10, 10), (200, 200), (10, 10)], "not arranged"),
        ([(100, 100), (100, 200), (100, 100), (100, 200), (100, 150)], "not arranged"),
    ],
)
def test_impossible_landmarks(points: Any, problem: str) -> None:
    with pytest.raises(LandmarkError, match=problem) as caught:
        align(astronaut(), None, points, 64, 64, ALIGNED)
    assert "left eye, right eye" in str(caught.value)
    assert len(str(caught.value)) < 500


@given(st.lists(st.tuples(*[st.floats(width=64)] * 2), min_size=5, max_size=5))
def test_any_landmarks_give_an_input_or_a_landmark_error(points: Any) -> None:
    try:
        found = align(noise(40, 50), None, points, 32, 32, ALIGNED)
    except LandmarkError:
        return
    assert found.shape == (32, 32, 3)


def test_a_profile_and_a_lying_face_are_accepted() -> None:
    profile = [(200 + 0.1 * (x - 200), y) for x, y in FACE]
    for face in (profile, placed(1.0, 90, 200, 200), placed(1.0, 180, 200, 200)):
        assert align(astronaut(), None, landmarks_from(face), 64, 64, ALIGNED).any()


def test_landmarks_of_another_face_are_refused() -> None:
    near = [(187.0, 83.0, 80.0, 90.0), (160.0, 83.0, 80.0, 90.0), (215.0, 120.0, 80.0, 90.0)]
    for box in near:
        assert align(astronaut(), box, FACE, 64, 64, ALIGNED).any()
    for box in [(97.0, 83.0, 80.0, 90.0), (187.0, 183.0, 80.0, 90.0), (300.0, 300.0, 80.0, 90.0)]:
        with pytest.raises(LandmarkError, match="lie beside their box"):
            align(astronaut(), box, FACE, 64, 64, ALIGNED)


def test_a_face_cut_off_by_the_edge_keeps_its_landmarks() -> None:
    left, right = np.array(FACE).T[0][:2]
    cut = astronaut()[:, int(right) - 5 :]
    points = [(x - int(right) + 5, y) for x, y in FACE]
    box = (0.0, min(y for _, y in FACE) - 20.0, 0.6 * (right - left), 110.0)
    assert align(cut, box, landmarks_from(points), 64, 64, ALIGNED).any()


def test_landmarks_may_be_lists_or_arrays() -> None:
    wanted = align(astronaut(), None, FACE, 64, 64, ALIGNED)
    for points in ([list(point) for point in FACE], np.array(FACE), np.array(FACE, np.float32)):
        assert np.array_equal(align(astronaut(), None, points, 64, 64, ALIGNED), wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(3, 65_535), (65_535, 3), (40_000, 30), (6000, 6000)])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_cost_of_strange_landmarks_is_bounded(
    shape: tuple[int, int], sampling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []
    warp = cv2.warpAffine

    def watched(image: Pixels, matrix: object, size: tuple[int, int], **named: Any) -> Any:
        sizes.append(size)
        assert max(size) <= MAX_WARP_SIDE
        return warp(image, matrix, size, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(cv2, "warpAffine", watched)
    image = np.full((*shape, 3), 200, np.uint8)
    height, width = shape
    geometry = replace(ALIGNED, interpolation=sampling)
    for scale in (2.0, height / 64.0, width / 64.0, max(shape) / 30.0):
        for degrees in (0.0, 45.0):
            face = placed(scale, degrees, width / 2.0, height / 2.0)
            with contextlib.suppress(LandmarkError):
                assert align(image, None, face, 64, 64, geometry).shape == (64, 64, 3)
    assert sizes


def test_a_face_in_a_picture_too_large_for_opencv() -> None:
    image = np.zeros((100, 40_000, 3), np.uint8)
    image[:, 35_000:35_200] = noise(100, 200)
    near = align(image[:, 34_990:35_300], None, placed(1.3, 10, 110, 50), 64, 64, ALIGNED)
    far = align(image, None, placed(1.3, 10, 35_100, 50), 64, 64, ALIGNED)
    assert np.abs(near.astype(int) - far).max() <= 1
    edge = placed(1.3, 10, 39_995, 50)
    replicated = align(image, None, edge, 64, 64, replace(ALIGNED, border="replicate"))
    assert not replicated.any()


def test_least_likeness_is_far_from_faces() -> None:
    mirrored = landmarks_from([(-x, y) for x, y in TEMPLATE])
    assert alignment._unlike(landmarks_from(TEMPLATE), TEMPLATE) is None
    assert alignment._unlike(mirrored, TEMPLATE)
