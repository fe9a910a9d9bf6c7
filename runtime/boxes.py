"""Checks of the boxes that callers give: units, size and place in the picture."""

from __future__ import annotations

from runtime.detection import area, within
from runtime.errors import BoxError
from runtime.results import Box

MIN_BOX_SIDE = 4.0
"""In pixels; a smaller box shows nothing of a face and is usually a mistake of units."""
MIN_SHARE_INSIDE = 0.5
"""Share of a box's area that has to lie within the picture."""


def check_box(box: Box, height: int, width: int) -> None:
    """Rejects a box that its caller cannot have meant.

    What is not four finite numbers with a positive width and height is left to `geometry.crop`,
    which rejects it.

    Args:
        box: x, y, width, height in pixels.
        height: of the picture, in pixels.
        width: of the picture, in pixels.

    Raises:
        BoxError: it looks like shares of the picture, or it is smaller than `MIN_BOX_SIDE`, or less
            than `MIN_SHARE_INSIDE` of it lies within the picture.
    """
    try:
        x, y, w, h = map(float, box)
    except (TypeError, ValueError, OverflowError):
        return
    shown = f"({x:g}, {y:g}, {w:g}, {h:g})"
    if 0 <= x <= 1 and 0 <= y <= 1 and 0 < w <= 1 and 0 < h <= 1 < max(height, width):
        raise BoxError(
            f"The numbers of the box {shown} look like shares of the picture. Give pixels: the "
            f"picture has {width}×{height}."
        )
    if 0 < w < MIN_BOX_SIDE or 0 < h < MIN_BOX_SIDE:
        raise BoxError(
            f"The box {shown} has a side of less than {MIN_BOX_SIDE:g} pixels, too little for a "
            f"face. Give x, y, width, height in pixels of the upright picture."
        )
    whole = (x, y, w, h)
    inside = area(within(whole, width, height))
    if 0 < inside < MIN_SHARE_INSIDE * area(whole):
        raise BoxError(
            f"Only {inside / area(whole):.0%} of the box {shown} lies within the picture of "
            f"{width}×{height} pixels, less than {MIN_SHARE_INSIDE:.0%}. Give x, y, width, height "
            f"in pixels of the upright picture, clipped to it."
        )
