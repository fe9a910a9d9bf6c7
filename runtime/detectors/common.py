"""Parts that the detectors share: visible detections, one object per thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Generic, TypeVar

from runtime.detection import Detection, area, shared_area, within
from runtime.geometry import Pixels

T = TypeVar("T")


class PerThread(threading.local, Generic[T]):
    """An object of each thread, made when this is created or first used there."""

    def __init__(self, make: Callable[[], T]) -> None:
        """Makes this thread's own; OpenCV's detectors are not thread-safe."""
        self.own = make()


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
