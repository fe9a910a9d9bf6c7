"""What the detectors share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from runtime.detection import Detection, area, shared_area, within
from runtime.geometry import Pixels


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
