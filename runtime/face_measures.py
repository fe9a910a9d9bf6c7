"""Measures the quality of a face in a picture."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime.box_edges import box_edges, finite_box
from runtime.quality import FaceQuality
from runtime.resizing import Pixels, sampled
from runtime.results import Box, Landmarks

SAMPLE_SIDE = 112
"""Pixels. Luminance is measured on the face's box, resampled to a square of this side, so that
faces of all sizes are comparable: a small face, enlarged, is as blurred as a large one out of
focus."""

MOST_READ = 3 * SAMPLE_SIDE
"""Pixels that are read of each side of a box, evenly spaced: bounds the cost of a large one."""

UNDEREXPOSED, OVEREXPOSED = 25, 247
"""Luminance up to which, and from which, a pixel counts. Source: BSI-OFIQ/OFIQ-Project, the
reference implementation of ISO/IEC 29794-5, measures/UnderExposurePrevention.cpp and
OverExposurePrevention.cpp; it measures a mask of the skin, this the whole box."""

NOSE_DEPTH = 0.40
"""Distance of the nose tip from the plane of eyes and mouth corners, over that of the eyes.

Measured on CenterFace's landmarks of 1,866 faces of UTKFace, FG-NET and All-Age-Faces, where the
distance of the eyes over the height of the face shrinks with the cosine of the yaw while the nose
moves with its sine: 0.39; by source 0.38, 0.43, 0.45."""


def measured(
    image: Pixels,
    box: Box | None,
    landmarks: Landmarks | None,
    *,
    score: float | None = None,
    face_found: bool | None = None,
) -> FaceQuality:
    """Measures a face, in bounded time.

    Args:
        image: uint8 RGB (H, W, 3), upright.
        box: of the face; None means the whole picture.
        landmarks: of the face; None if unknown.
        score: as in `FaceQuality`.
        face_found: as in `FaceQuality`.

    Raises:
        BoxError: the box is invalid.
    """
    height, width = image.shape[:2]
    x, y, box_width, box_height = finite_box((0, 0, width, height) if box is None else box)
    sample = luminance_sample(image, box)
    across = min(x + box_width, width) - max(x, 0.0)
    down = min(y + box_height, height) - max(y, 0.0)
    return FaceQuality(
        face_pixels=min(box_width, box_height),
        inter_eye_pixels=None if landmarks is None else _eyes(landmarks)[2],
        sharpness=sharpness_of(sample),
        luminance=float(sample.mean()),
        contrast=float(sample.std()),
        underexposed=float((sample <= UNDEREXPOSED).mean()),
        overexposed=float((sample >= OVEREXPOSED).mean()),
        yaw_degrees=None if landmarks is None else yaw_degrees(landmarks),
        roll_degrees=None if landmarks is None else roll_degrees(landmarks),
        cut_off=min(max(1.0 - across * down / (box_width * box_height), 0.0), 1.0),
        score=score,
        face_found=face_found,
    )


def luminance_sample(image: Pixels, box: Box | None) -> NDArray[np.uint8]:
    """Returns the luminance of a face as uint8 (SAMPLE_SIDE, SAMPLE_SIDE).

    Luminance is that of ITU-R BT.601. What of the box is in the picture is resampled with Pillow's
    bilinear filter, which averages when it shrinks.

    Args:
        image: uint8 RGB (H, W, 3).
        box: of the face; None means the whole picture.

    Raises:
        BoxError: the box is invalid.
    """
    if box is not None:
        left, top, right, bottom = box_edges(box, image)
        image = image[top:bottom, left:right]
    down, across = (max(math.ceil(side / MOST_READ), 1) for side in image.shape[:2])
    gray = Image.fromarray(sampled(image, down, across)).convert("L")
    return np.asarray(gray.resize((SAMPLE_SIDE, SAMPLE_SIDE), Image.Resampling.BILINEAR))


def sharpness_of(luminance: NDArray[np.uint8]) -> float:
    """Returns the variance of the Laplacian of a picture, uint8 (H, W) with sides of at least 3.

    Source: Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, 2000 (LAP4's kernel
    of four neighbors).
    """
    p = luminance.astype(np.int32)
    inner = p[1:-1, 1:-1]
    laplacian = p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:] - 4 * inner
    return float(laplacian.var())


def roll_degrees(landmarks: Landmarks) -> float | None:
    """Returns the angle of the line through the eyes, clockwise; None if the eyes coincide."""
    across, down, distance = _eyes(landmarks)
    return math.degrees(math.atan2(down, across)) if distance > 0.0 else None


def yaw_degrees(landmarks: Landmarks) -> float | None:
    """Returns how far a head is turned to the picture's right; None if the eyes coincide.

    Under weak perspective (a scaled orthographic projection), a yaw shrinks the distance of the
    eyes by its cosine, and moves the nose tip, along the line through the eyes, off the middle of
    the face by `NOSE_DEPTH` times the sine; the pitch changes neither. The middle is the line from
    between the eyes to between the mouth corners, at the height of the nose.
    """
    across, down, distance = _eyes(landmarks)
    if distance <= 0.0:
        return None
    points = np.array(landmarks, np.float64)
    axes = np.array([[across, down], [-down, across]]) / distance
    eyes, nose, mouth = points[:2].mean(0), points[2], points[3:].mean(0)
    (long, high), (offset, height) = axes @ (mouth - eyes), axes @ (nose - eyes)
    share = min(max(height / high, 0.0), 1.0) if high > 0.0 else 0.5
    offset -= share * long
    return math.degrees(math.atan2(offset, NOSE_DEPTH * distance))


def _eyes(landmarks: Landmarks) -> tuple[float, float, float]:
    """Returns the right eye's place relative to the left one, and their distance, in pixels."""
    (x, y), (right_x, right_y) = landmarks[:2]
    across, down = float(right_x - x), float(right_y - y)
    return across, down, math.hypot(across, down)
