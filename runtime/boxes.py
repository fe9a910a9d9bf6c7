"""Checks of the boxes that callers give: units, size, place in the picture, total area."""

from __future__ import annotations

from collections.abc import Iterable

from runtime.box_edges import finite_box
from runtime.detection import area, within
from runtime.errors import BoxError, BoxesTooLargeError
from runtime.results import Box

MIN_BOX_SIDE = 4.0
"""In pixels; a smaller box shows nothing of a face and is usually a mistake of units."""
MIN_SHARE_INSIDE = 0.5
"""Share of a box's area that has to lie within the picture."""
MAX_COVER = 4
"""Times a picture's limit on pixels that its boxes together may cover. Faces do not overlap, but
persons do: in a crowd of 64 in four rows, each seen in full, their boxes cover the picture 3.6
times."""
MAX_FACE_COVER = 1.5
"""Times this limit that an input's crops of faces, margins included, together may cover. Only those
of close portraits with a margin overlap: two faces that are a quarter of a picture each, with 40 %
on each side, cover it at most 1.5 times."""


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


def check_cover(
    boxes: Iterable[Box | None],
    height: int,
    width: int,
    max_pixels: int,
    copies: int = 0,
    most: float = MAX_COVER,
) -> None:
    """Rejects boxes of one picture that are together too large to be cropped and resized.

    Args:
        boxes: x, y, width, height in pixels; None is the whole picture. Invalid ones count nothing.
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        max_pixels: the limit on a picture's pixels.
        copies: further copies of the whole picture, which count like boxes.
        most: times `max_pixels` that is accepted.

    Raises:
        BoxesTooLargeError: they cover more.
    """
    total = cover(boxes, height, width) + copies * height * width
    check_total(total, most * max_pixels, f"a picture of {width}×{height} pixels")


def cover(boxes: Iterable[Box | None], height: int, width: int) -> float:
    """Returns how many pixels of a picture its boxes together cover; as for `check_cover`."""
    return sum(_covered(box, height, width) for box in boxes)


def check_total(total: float, most: float, where: str) -> None:
    """Raises `BoxesTooLargeError` if boxes somewhere cover more than most pixels together."""
    if total > most:
        raise BoxesTooLargeError(
            f"The boxes in {where}, margins included, together cover {total:,.0f} pixels, more "
            f"than {most:,.0f}. Give each face and person once, or a smaller picture; as the "
            f"owner, raise the limit on pixels."
        )


def _covered(box: Box | None, height: int, width: int) -> float:
    if box is None:
        return float(height * width)
    try:
        return area(within(finite_box(box), width, height))
    except BoxError:
        return 0.0
