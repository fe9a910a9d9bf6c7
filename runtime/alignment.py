"""Alignment of a face by five landmarks: the similarity transform to a template, and the warp.

Points are x, y in pixels, and 0, 0 is the center of a picture's first pixel, as for OpenCV's warps
and in published templates.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from runtime.errors import LandmarkError
from runtime.opencv import import_opencv
from runtime.resizing import Color, Pixels
from runtime.results import Box, Landmarks, Point

SAMPLINGS = ("opencv_area", "opencv_bilinear", "opencv_bicubic")
"""Interpolations of a warp. `opencv_area` averages over the pixels of the picture when it shrinks a
face: it warps, bilinearly, to a whole multiple of the size and takes the mean of each block. The
others are one call of OpenCV's `warpAffine`, as many networks were trained with."""

MAX_WARP_SIDE = 1024
"""Limit on the sides of the picture that `opencv_area` warps to, because it is held in memory; a
face more than this wide is sampled more coarsely."""

MAX_PICTURE_SIDE = 32_766
"""Longest side that OpenCV warps, in pixels; more of a picture is never part of one face."""

LEAST_SPREAD = 1.0
"""Minimum root mean square distance of landmarks to their centroid, in pixels."""

LEAST_LIKENESS = 0.6
"""Minimum correlation of landmarks with their template after the best rotation. The least of 10,600
faces that CenterFace found was 0.75; landmarks with left and right exchanged have 0.1 to 0.2."""

MEAN_LANDMARKS: Landmarks = (
    (0.276, 0.399),
    (0.724, 0.399),
    (0.500, 0.606),
    (0.314, 0.753),
    (0.686, 0.753),
)
"""Average landmarks of a face in shares of its box. Measured with CenterFace on 493 photographs of
FG-NET and 4,989 of All-Age-Faces (the mean of the two sources and of their mirror images); standard
deviation 0.06 to 0.11 across and 0.02 to 0.04 down."""


def mean_landmarks(box: Box) -> Landmarks:
    """Returns where the landmarks of an upright face lie in its box on average."""
    x, y, width, height = box
    points = [(x + across * width, y + down * height) for across, down in MEAN_LANDMARKS]
    return cast(Landmarks, tuple(points))


def landmarks_from(points: object) -> Landmarks:
    """Returns five points as landmarks.

    Args:
        points: five pairs of finite numbers, as lists, tuples or an array (5, 2).

    Raises:
        LandmarkError: they are something else.
    """
    try:
        array = np.asarray(points, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.empty(0)
    if array.shape != (5, 2) or not np.isfinite(array).all():
        raise LandmarkError(
            f"Landmarks are five pairs x, y of finite numbers in pixels (left eye, right eye, "
            f"nose, left and right mouth corner), got {reprlib.repr(points)}."
        )
    return cast(Landmarks, tuple((x, y) for x, y in array.tolist()))


def similarity(points: Sequence[Point], template: Sequence[Point]) -> NDArray[np.float64]:
    """Returns the similarity transform that brings points closest to a template.

    It minimizes the sum of squared distances in the template over all scales, rotations and shifts,
    without reflections (Umeyama, IEEE PAMI 13, 1991). In the plane, with the points about their
    centroids as complex numbers p and t, the scaled rotation is Σ conj(p) t / Σ |p|².

    Args:
        points: N points, not all the same.
        template: where they should lie.

    Returns:
        float64 (2, 3), from the points to the template.
    """
    p, p_center = _centered(points)
    t, t_center = _centered(template)
    turn = np.vdot(p, t) / np.vdot(p, p).real
    shift = t_center - turn * p_center
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def transform_to(
    template: Sequence[Point], landmarks: Landmarks, shape: tuple[int, ...], box: Box | None = None
) -> NDArray[np.float64]:
    """Returns the similarity transform from a picture to a template of landmarks.

    Args:
        template: of the landmarks, in pixels of the input.
        landmarks: in pixels of the picture.
        shape: of the picture, (H, W, …).
        box: of the face; None means that it may be anywhere.

    Returns:
        float64 (2, 3).

    Raises:
        LandmarkError: the landmarks cannot be those of a face in this picture.
    """
    points = landmarks_from(landmarks)
    problem = _misplaced(points, shape) or _beside(points, shape, box) or _unlike(points, template)
    if problem:
        raise LandmarkError(
            f"The landmarks {_shown(points)} {problem}. Give left eye, right eye, nose, left and "
            f"right mouth corner, left and right as seen in the picture, in its pixels."
        )
    return similarity(points, template)


def template_problem(template: Sequence[Point]) -> str | None:
    """Returns what is wrong with a template; None if nothing is."""
    if len(template) != 5 or any(len(point) != 2 for point in template):
        return f"must hold five points [x, y], got {reprlib.repr(template)}"
    if _spread(template) < LEAST_SPREAD:
        return f"must hold points in pixels of the input, got {_shown(template)}"
    return None


def warped(
    image: Pixels,
    matrix: NDArray[np.float64],
    height: int,
    width: int,
    interpolation: str,
    outside: Color | None,
) -> Pixels:
    """Returns a picture after an affine transform.

    Args:
        image: uint8 RGB (H, W, 3).
        matrix: float64 (2, 3), from the picture to the result.
        height: of the result, in pixels.
        width: of the result, in pixels.
        interpolation: one of `SAMPLINGS`.
        outside: color of the pixels outside the picture; None repeats those of its edge.

    Returns:
        uint8 RGB (height, width, 3), contiguous.

    Raises:
        LandmarkError: the result would show too much of a picture too large for OpenCV.
    """
    cv2 = import_opencv()
    times = 1
    if interpolation == "opencv_area":
        shrinking = 1.0 / math.sqrt(abs(np.linalg.det(matrix[:, :2])))
        whole = math.ceil(shrinking - 1e-6)  # not one more for a rounding error
        times = max(min(whole, MAX_WARP_SIDE // max(height, width)), 1)
    flag = cv2.INTER_CUBIC if interpolation == "opencv_bicubic" else cv2.INTER_LINEAR
    image, matrix = _warpable(image, matrix, height, width)
    large = cv2.warpAffine(
        image,
        _enlarged(matrix, times),
        (width * times, height * times),
        flags=flag,
        borderMode=cv2.BORDER_REPLICATE if outside is None else cv2.BORDER_CONSTANT,
        borderValue=outside or (0, 0, 0),
    )
    if times > 1:
        large = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(large, np.uint8)


def _enlarged(matrix: NDArray[np.float64], times: int) -> NDArray[np.float64]:
    """Returns a transform to a result in which each pixel is a block of times × times pixels."""
    enlarged = matrix * times
    enlarged[:, 2] += (times - 1) / 2.0  # the center of the first block
    return enlarged


def _warpable(
    image: Pixels, matrix: NDArray[np.float64], height: int, width: int
) -> tuple[Pixels, NDArray[np.float64]]:
    """Cuts what a warp shows out of a picture that is too large for OpenCV."""
    if max(image.shape[:2]) <= MAX_PICTURE_SIDE:
        return image, matrix
    corners = np.array([[0, 0, width, width], [0, height, 0, height]], np.float64)
    shown = np.linalg.solve(matrix[:, :2], corners - matrix[:, 2:])
    limits = np.array(image.shape[1::-1])
    first = np.clip(np.floor(shown.min(axis=1)) - 2, 0, limits - 1).astype(int)
    last = np.clip(np.ceil(shown.max(axis=1)) + 2, first + 1, limits).astype(int)
    if (last - first).max() > MAX_PICTURE_SIDE:
        raise LandmarkError(
            f"The landmarks span {(last - first).max():,} pixels, more than {MAX_PICTURE_SIDE:,}. "
            f"Give the landmarks of one face, or a smaller picture."
        )
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ first
    return image[first[1] : last[1], first[0] : last[0]], moved


def _misplaced(points: Landmarks, shape: tuple[int, ...]) -> str | None:
    """Returns how points lie where no face in a picture can have them."""
    sides = np.array((shape[1], shape[0]))
    array = np.array(points)
    picture = f"the picture of {sides[0]}×{sides[1]} pixels"
    if (np.abs(array - sides / 2.0) > sides / 2.0 + sides.max()).any():
        return f"lie far outside {picture}"
    if not ((array >= 0.0) & (array <= sides)).all(axis=1).any():
        return f"lie outside {picture}"
    if (spread := _spread(points)) < LEAST_SPREAD:
        return f"lie within {spread:.2g} pixels of one another"
    return None


def _beside(points: Landmarks, shape: tuple[int, ...], box: Box | None) -> str | None:
    """Returns that points lie beside their box, as those of another face do.

    Half of the box on each side is tolerated. A face may be cut off by the edge of the picture, and
    its box with it, so their center counts at the edge if it is outside.
    """
    if box is None:
        return None
    x, y, width, height = box
    center = np.clip(np.mean(points, axis=0), 0.0, (shape[1], shape[0]))
    if (np.abs(center - (x + width / 2.0, y + height / 2.0)) > (width, height)).any():
        return f"lie beside their box ({x:g}, {y:g}, {width:g}, {height:g})"
    return None


def _unlike(points: Landmarks, template: Sequence[Point]) -> str | None:
    """Returns that points are not arranged as in a face, if they are not."""
    p, t = _centered(points)[0], _centered(template)[0]
    likeness = abs(np.vdot(p, t)) / (np.linalg.norm(p) * np.linalg.norm(t))
    return None if likeness >= LEAST_LIKENESS else "are not arranged as in a face"


def _spread(points: Sequence[Point]) -> float:
    """Returns the root mean square distance of points to their centroid."""
    return float(np.sqrt(np.mean(np.abs(_centered(points)[0]) ** 2)))


def _centered(points: Sequence[Point]) -> tuple[NDArray[np.complex128], np.complex128]:
    """Returns points about their centroid as complex numbers, and their centroid."""
    array = np.asarray(points, np.float64)
    numbers = array[:, 0] + 1j * array[:, 1]
    center = numbers.mean()
    return numbers - center, center


def _shown(points: Sequence[Point]) -> str:
    return ", ".join(f"({x:.6g}, {y:.6g})" for x, y in points)
