"""Boxes in whole pixels of a picture."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.errors import BoxError
from runtime.results import Box

EDGES = ("outward", "truncate")
"""Ways to round a box to whole pixels, see `runtime.geometry.Geometry.edges`."""


def without_margins(box: Box, margins: Sequence[float]) -> Box:
    """Returns a box without what negative margins cut off on its left, top, right and bottom.

    Margins are shares of its width and height; positive ones do not count.

    Raises:
        BoxError: the box is not finite or has no area.
    """
    x, y, width, height = finite_box(box)
    left, top, right, bottom = (min(margin, 0.0) for margin in margins)
    rest = width * (1.0 + left + right), height * (1.0 + top + bottom)
    return x - left * width, y - top * height, *rest


def box_edges(
    box: Box, image: NDArray[np.uint8], edges: str = EDGES[0]
) -> tuple[int, int, int, int]:
    """Returns left, top, right and bottom of a box in whole pixels, clipped to a picture.

    Truncating, as `Geometry.edges` describes, keeps one pixel, where MiVOLO's code fails. Source:
    WildChlamydia/MiVOLO, mivolo/structures.py, `get_bbox_by_ind`.

    Args:
        box: x, y, width, height in pixels.
        image: uint8 RGB (H, W, 3).
        edges: one of `EDGES`.

    Raises:
        BoxError: the box is not finite, has no area or lies outside the picture.
    """
    image_height, image_width = image.shape[:2]
    x, y, width, height = finite_box(box)
    left, top = max(math.floor(x), 0), max(math.floor(y), 0)
    right = min(math.ceil(x + width), image_width)
    bottom = min(math.ceil(y + height), image_height)
    if left >= right or top >= bottom:
        raise BoxError(
            f"The box {box} lies outside the picture of {image_width}×{image_height} pixels. "
            f"Give x, y, width, height in pixels of the upright picture."
        )
    if edges == "truncate":
        right = max(min(int(x + width), image_width - 1), left + 1)
        bottom = max(min(int(y + height), image_height - 1), top + 1)
    return left, top, right, bottom


def finite_box(box: Box) -> Box:
    """Returns a box as numbers; raises `BoxError` if it is not finite or has no area."""
    try:
        x, y, width, height = map(float, box)
    except (TypeError, ValueError, OverflowError):
        x = y = width = height = float("nan")
    finite = all(map(math.isfinite, (x, y, x + width, y + height)))
    if not finite or width <= 0 or height <= 0:
        raise BoxError(
            f"A box is x, y, width, height in pixels with a positive width and height, got "
            f"{reprlib.repr(box)}."
        )
    return x, y, width, height
