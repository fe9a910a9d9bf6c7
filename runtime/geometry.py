"""Geometry of an expert's input: crops or aligns a face in a picture, resizes and pads it.

This is the only part of an expert's preprocessing outside its graph, because TensorRT has neither
antialiased nor cubic Resize. The parameters are data (`Geometry`, from the manifest). Pictures are
uint8 RGB (H, W, 3) throughout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from runtime.alignment import (
    SAMPLINGS,
    mean_landmarks,
    similarity,
    template_problem,
    transform_to,
    warped,
)
from runtime.box_edges import EDGES, box_edges, without_margins
from runtime.json_reader import at_least, one_of, within
from runtime.resizing import (
    INTERPOLATIONS,
    Color,
    Pixels,
    center_crop,
    letterbox,
    pad_square,
    reduced_window,
    resized,
    window,
    window_factor,
)
from runtime.results import Box, Landmarks, Point

__all__ = [
    "Geometry",
    "Pixels",
    "Resize",
    "align",
    "black",
    "crop",
    "crop_edges",
    "fit",
    "shows_enough",
]

ALIGN = "align"
FITS = ("stretch", "center_crop", "letterbox", "pad_square", ALIGN)
BORDERS = ("color", "replicate")
ROUNDINGS = ("round", "truncate")

MAX_CROP_MARGIN = 10.0
"""Limit on margins and offsets, because a padded window costs time."""

LEAST_REST = 0.05
"""Minimum share of a box that negative margins leave, in each direction."""

MAX_SIDE = 4096
"""Limit on the sides of an input, and of a resize before the fit, which are held in memory."""

_StepSide = Annotated[int, within(1, MAX_SIDE)]
_Byte = Annotated[int, within(0, 255)]
_Margin = Annotated[float, within(-1.0, MAX_CROP_MARGIN)]
_Shift = Annotated[float, within(-MAX_CROP_MARGIN, MAX_CROP_MARGIN)]


@dataclass(frozen=True, slots=True)
class Resize:
    """A resize to a fixed size, stretched, before a crop is fitted into an input."""

    height: _StepSide
    """In pixels."""
    width: _StepSide
    """In pixels."""
    interpolation: Annotated[str, one_of(INTERPOLATIONS)]
    """As in `Geometry`."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Parameters that turn a box of a picture into an expert's input."""

    crop_margin: Annotated[float, within(0.0, MAX_CROP_MARGIN)] = 0.0
    """Margin on each side of the box, as a share of its width or height."""
    fit: Annotated[str, one_of(FITS)] = "stretch"
    """`stretch` to the input's size; `center_crop`: scale to cover it, keep the center;
    `letterbox`: scale to fit within it, pad evenly; `pad_square`: scale the longest side to a
    square input, pad evenly; `align`: not the box, but the face's landmarks are brought onto
    `template`."""
    interpolation: Annotated[str, one_of(INTERPOLATIONS)] = "pillow_bilinear"
    """OpenCV's resize (only `area` antialiases) or Pillow's (antialiased); with `align`, OpenCV's
    warp, supersampled for `area`."""
    pad_color: tuple[_Byte, _Byte, _Byte] = (0, 0, 0)
    """Color outside the picture and around the fitted crop, RGB."""
    edges: Annotated[str, one_of(EDGES)] = "outward"
    """Of a box, in whole pixels: `outward` rounds outwards and clips to the picture; `truncate`
    drops fractions and ends before the last row and column, as MiVOLO's code does."""
    erase_face: bool = False
    """Whether the face within the crop is blackened, for experts with the face as another input."""
    min_side: Annotated[int, at_least(1)] = 1
    """In pixels; a crop with a shorter side counts as not visible."""
    min_visible_share: float = 0.0
    """A crop with a smaller share of nonzero values counts as not visible."""
    before: tuple[Resize, ...] = ()
    """Resizes of the crop, in this order, before it is fitted."""
    rounding: Annotated[str, one_of(ROUNDINGS)] = "round"
    """Of the shorter side in `pad_square`: `round` to the nearest pixel, as transformers' Janus
    processor does, or `truncate`, as its authors' does."""
    margins: tuple[_Margin, _Margin, _Margin, _Margin] = (0.0, 0.0, 0.0, 0.0)
    """Added to `crop_margin` on the left, top, right and bottom; negative ones cut off
    a part of the box, before it is rounded to whole pixels."""
    offset: tuple[_Shift, _Shift] = (0.0, 0.0)
    """Shift of the crop to the right and down, as a share of the box's width and height."""
    border: Annotated[str, one_of(BORDERS)] = "color"
    """Outside the picture and around the fitted crop: `color` is `pad_color`, `replicate` repeats
    the pixels of the edge."""
    template: tuple[Point, ...] | None = None
    """For `align`: where the five landmarks (in the order of `Landmarks`) lie in the input, in
    pixels; 0, 0 is the center of its first pixel."""

    @property
    def outside(self) -> Color | None:
        """The color outside the picture; None if its edge is replicated."""
        return None if self.border == "replicate" else self.pad_color

    @property
    def around(self) -> tuple[float, float, float, float]:
        """Margins left, above, right and below what negative ones leave, in shares of its size."""
        left, top, right, bottom = (self.crop_margin + max(side, 0.0) for side in self.margins)
        across, down = self.offset
        return left - across, top - down, right + across, bottom + down

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the path and text of each inconsistency."""
        if (len(self.margins), len(self.offset)) != (4, 2):
            return  # noted where they were read
        left, top, right, bottom = self.margins
        rest = 1.0 + 2.0 * self.crop_margin + min(left + right, top + bottom)
        if rest < LEAST_REST:
            left_over = f"{max(rest, 0.0):.0%}"
            yield "margins", f"must leave {LEAST_REST:.0%} of the box, these leave {left_over}"
        if self.fit != ALIGN:
            if self.template is not None:
                yield "template", f"belongs to fit = {ALIGN!r}, this is {self.fit!r}"
            return
        problem = None if self.template is None else template_problem(self.template)
        if problem or self.template is None:
            yield "template", problem or f"is needed by fit = {ALIGN!r}: five points [x, y]"
        if self.interpolation not in SAMPLINGS:
            known = ", ".join(SAMPLINGS)
            yield "interpolation", f"must be one of {known} with fit = {ALIGN!r}"
        if any((self.crop_margin, *self.margins, *self.offset)) or self.before:
            unused = "before" if self.before else "margins"
            yield unused, f"has no effect with fit = {ALIGN!r}, which looks at landmarks only"


def crop(image: Pixels, box: Box | None, geometry: Geometry, face_box: Box | None = None) -> Pixels:
    """Crops a box with its margin out of a picture.

    Without a box, the whole picture is the crop and there is no margin. The box is clipped to the
    picture, in whole pixels as `geometry.edges` says; its margin is padded outside the picture. A
    padded crop of more than `MAX_HELD_PIXELS` is reduced by a whole factor.

    Args:
        image: uint8 RGB (H, W, 3).
        box: x, y, width, height in pixels.
        geometry: for the margin, the pad color, and whether the face is erased.
        face_box: the face to erase; None means unknown.

    Returns:
        uint8 RGB (h, w, 3), at least 1×1; a view of the picture if nothing is padded.

    Raises:
        BoxError: the box is not finite, has no area or lies outside the picture.
    """
    if box is None:
        return image
    left, top, right, bottom = crop_edges(image, box, geometry)
    factor = window_factor(image, left, top, right, bottom)
    if factor == 1:
        cut = window(image, left, top, right, bottom, geometry.outside)
    else:
        cut = reduced_window(image, left, top, right, bottom, geometry.outside, factor)
    if not geometry.erase_face or face_box is None:
        return cut
    x0, y0, x1, y1 = box_edges(face_box, image, geometry.edges)
    cut = cut.copy()
    y0, x0 = max(y0 - top, 0) // factor, max(x0 - left, 0) // factor
    y1, x1 = -(-max(y1 - top, 0) // factor), -(-max(x1 - left, 0) // factor)
    cut[y0:y1, x0:x1] = 0
    return cut


def crop_edges(image: Pixels, box: Box, geometry: Geometry) -> tuple[int, int, int, int]:
    """Returns left, top, right and bottom of a crop, at least one pixel apart; raises BoxError."""
    edges = box_edges(without_margins(box, geometry.margins), image, geometry.edges)
    left, top, right, bottom = edges
    width, height = right - left, bottom - top
    around = geometry.around
    left, top = left - round(width * around[0]), top - round(height * around[1])
    right, bottom = right + round(width * around[2]), bottom + round(height * around[3])
    return left, top, max(right, left + 1), max(bottom, top + 1)


def align(
    image: Pixels,
    box: Box | None,
    landmarks: Landmarks | None,
    height: int,
    width: int,
    geometry: Geometry,
) -> Pixels:
    """Brings the landmarks of a face onto the template of an expert's input.

    Args:
        image: uint8 RGB (H, W, 3).
        box: of the face; None means the whole picture. Landmarks have to lie in it or near it.
        landmarks: of the face, in pixels of the picture; None takes the average ones of the box.
        height: of the input, in pixels.
        width: of the input, in pixels.
        geometry: for the template, the interpolation and the border.

    Returns:
        uint8 RGB (height, width, 3), contiguous.

    Raises:
        BoxError: the box is invalid.
        LandmarkError: the landmarks cannot be those of a face in this picture.
    """
    template = geometry.template or ()
    left, top, right, bottom = (
        (0, 0, image.shape[1], image.shape[0])
        if box is None
        else box_edges(box, image, geometry.edges)
    )
    visible = (left, top, right - left, bottom - top)
    if landmarks is None:
        matrix = similarity(mean_landmarks(visible), template)
    else:
        near = None if box is None else visible
        matrix = transform_to(template, landmarks, image.shape, near)
    return warped(image, matrix, height, width, geometry.interpolation, geometry.outside)


def shows_enough(image: Pixels, geometry: Geometry) -> bool:
    """Returns whether a crop, uint8 RGB (h, w, 3), is large and bright enough to be visible."""
    if min(image.shape[:2]) < geometry.min_side:
        return False
    least = geometry.min_visible_share
    return least == 0.0 or bool(np.count_nonzero(image) / image.size >= least)


def fit(image: Pixels, height: int, width: int, geometry: Geometry) -> Pixels:
    """Fits a crop into the size of an expert's input, after the resizes that come before.

    Args:
        image: uint8 RGB (h, w, 3).
        height: of the input, in pixels.
        width: of the input, in pixels.
        geometry: for the resizes, the fit, the interpolation and the pad color.

    Returns:
        uint8 RGB (height, width, 3), contiguous.
    """
    for step in geometry.before:
        image = resized(image, step.height, step.width, step.interpolation)
    return np.ascontiguousarray(_fitted(image, height, width, geometry))


def black(height: int, width: int) -> Pixels:
    """Returns the input for something not visible: zeros, uint8 (height, width, 3)."""
    return np.zeros((height, width, 3), np.uint8)


def _fitted(image: Pixels, height: int, width: int, geometry: Geometry) -> Pixels:
    how, outside = geometry.interpolation, geometry.outside
    match geometry.fit:
        case "center_crop":
            return center_crop(image, height, width, how)
        case "letterbox":
            return letterbox(image, height, width, how, outside)
        case "pad_square":
            truncate = geometry.rounding == "truncate"
            return pad_square(image, height, width, how, outside, truncate=truncate)
        case "align":
            return align(image, None, None, height, width, geometry)
        case _:
            return resized(image, height, width, how)
