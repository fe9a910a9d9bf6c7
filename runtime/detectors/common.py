"""Parts that the detectors share: reduced pictures, visible detections, one object per thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Generic, TypeVar

import numpy as np

from runtime.detection import Detection, area, moved_landmarks, shared_area, within
from runtime.geometry import Pixels
from runtime.opencv import import_opencv

T = TypeVar("T")

Scale = tuple[float, float]
"""Factors in x and y from a reduced picture to the original."""


class PerThread(threading.local, Generic[T]):
    """An object of each thread, made when this is created or first used there."""

    def __init__(self, make: Callable[[], T]) -> None:
        """Makes this thread's own; OpenCV's detectors are not thread-safe."""
        self.own = make()


def reduced(image: Pixels, longest_side: int) -> tuple[Pixels, Scale]:
    """Returns a picture of at most that size, and the factors back to the original.

    Both are uint8 RGB (H, W, 3); a smaller picture is returned as it is.
    """
    cv2 = import_opencv()
    height, width = image.shape[:2]
    ratio = max(height, width) / longest_side
    if ratio <= 1.0:
        return image, (1.0, 1.0)
    size = max(round(width / ratio), 1), max(round(height / ratio), 1)
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return small, (width / size[0], height / size[1])


def enlarged(found: Detection, scale: Scale) -> Detection:
    """Returns a detection in a reduced picture as one in the original."""
    (x, y, width, height), (across, down) = found.box, scale
    return replace(
        found,
        box=(x * across, y * down, width * across, height * down),
        landmarks=found.landmarks
        and moved_landmarks(found.landmarks, lambda px, py: (px * across, py * down)),
    )


def visible(found: Iterable[Detection], image: Pixels) -> list[Detection]:
    """Returns the detections at least half of which lies in the picture, clipped to it.

    Landmarks stay where they are, also outside the picture.
    """
    height, width = image.shape[:2]
    picture = (0.0, 0.0, float(width), float(height))
    return [
        replace(one, box=within(one.box, width, height))
        for one in found
        if shared_area(one.box, picture) >= 0.5 * area(one.box) > 0.0
    ]
