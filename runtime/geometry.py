"""Geometry of an expert's input: crops, resizes and pads a box of a picture.

This is the only part of an expert's preprocessing outside its graph, because TensorRT has neither
antialiased nor cubic Resize. The parameters are data (`Geometry`, from the manifest). Pictures are
uint8 RGB (H, W, 3) throughout.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime.errors import BoxError
from runtime.json_reader import at_least, one_of, within
from runtime.results import Box

Pixels = NDArray[np.uint8]
_Byte = Annotated[int, within(0, 255)]
Color = tuple[_Byte, _Byte, _Byte]
"""RGB."""

FITS = ("stretch", "center_crop", "letterbox", "pad_square")
INTERPOLATIONS = (
    "opencv_bilinear",
    "opencv_area",
    "opencv_bicubic",
    "pillow_bilinear",
    "pillow_bicubic",
    "pillow_lanczos",
)
ROUNDINGS = ("round", "truncate")

EDGES = ("outward", "truncate")

MAX_CROP_MARGIN = 10.0
"""Limit on the margin, because the padded window is held in memory."""

PAD_SQUARE_LEAST = 14
"""Minimum of the shorter side in `pad_square`, in pixels, as in Janus's image processor."""

MAX_STEP_SIDE = 4096
"""Limit on the sides of a resize before the fit, because its result is held in memory."""

MAX_ASPECT_RATIO = 32
"""Limit on the aspect ratio: `center_crop` first cuts the ends off a longer picture."""


_StepSide = Annotated[int, within(1, MAX_STEP_SIDE)]


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
    square input, pad evenly."""
    interpolation: Annotated[str, one_of(INTERPOLATIONS)] = "pillow_bilinear"
    """OpenCV's resize (only `area` antialiases) or Pillow's (antialiased)."""
    pad_color: Color = (0, 0, 0)
    """Color outside the picture and around the fitted crop."""
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


def crop(image: Pixels, box: Box | None, geometry: Geometry, face_box: Box | None = None) -> Pixels:
    """Crops a box with its margin out of a picture.

    Without a box, the whole picture is the crop and there is no margin. The box is clipped to the
    picture, in whole pixels as `geometry.edges` says; its margin is padded outside the picture.

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
    left, top, right, bottom = _box_edges(box, image, geometry.edges)
    across = round((right - left) * geometry.crop_margin)
    down = round((bottom - top) * geometry.crop_margin)
    left, top, right, bottom = left - across, top - down, right + across, bottom + down
    window = _window(image, left, top, right, bottom, geometry.pad_color)
    if not geometry.erase_face or face_box is None:
        return window
    x0, y0, x1, y1 = _box_edges(face_box, image, geometry.edges)
    window = window.copy()
    window[max(y0 - top, 0) : max(y1 - top, 0), max(x0 - left, 0) : max(x1 - left, 0)] = 0
    return window


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
        image = _resize(image, step.height, step.width, step.interpolation)
    fitted = _FITS[geometry.fit](image, height, width, geometry)
    return np.ascontiguousarray(fitted)


def black(height: int, width: int) -> Pixels:
    """Returns the input for something not visible: zeros, uint8 (height, width, 3)."""
    return np.zeros((height, width, 3), np.uint8)


def _box_edges(box: Box, image: Pixels, edges: str) -> tuple[int, int, int, int]:
    """Returns left, top, right and bottom; truncating keeps one pixel, where MiVOLO's code fails.

    Source: WildChlamydia/MiVOLO, mivolo/structures.py, `get_bbox_by_ind`.
    """
    image_height, image_width = image.shape[:2]
    x, y, width, height = _finite(box)
    left, top = max(int(np.floor(x)), 0), max(int(np.floor(y)), 0)
    right = min(int(np.ceil(x + width)), image_width)
    bottom = min(int(np.ceil(y + height)), image_height)
    if left >= right or top >= bottom:
        raise BoxError(
            f"The box {box} lies outside the picture of {image_width}×{image_height} pixels. "
            f"Give x, y, width, height in pixels of the upright picture."
        )
    if edges == "truncate":
        right = max(min(int(x + width), image_width - 1), left + 1)
        bottom = max(min(int(y + height), image_height - 1), top + 1)
    return left, top, right, bottom


def _finite(box: Box) -> Box:
    try:
        x, y, width, height = map(float, box)
    except (TypeError, ValueError, OverflowError):
        x = y = width = height = float("nan")
    if not np.isfinite((x, y, x + width, y + height)).all() or width <= 0 or height <= 0:
        raise BoxError(
            f"A box is x, y, width, height in pixels with a positive width and height, got "
            f"{reprlib.repr(box)}."
        )
    return x, y, width, height


def _window(image: Pixels, left: int, top: int, right: int, bottom: int, color: Color) -> Pixels:
    height, width = image.shape[:2]
    inside = image[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
    if left >= 0 and top >= 0 and right <= width and bottom <= height:
        return inside
    window = np.empty((bottom - top, right - left, 3), np.uint8)
    window[:] = color
    y, x = max(-top, 0), max(-left, 0)
    window[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return window


def _stretch(image: Pixels, height: int, width: int, geometry: Geometry) -> Pixels:
    return _resize(image, height, width, geometry.interpolation)


def _center_crop(image: Pixels, height: int, width: int, geometry: Geometry) -> Pixels:
    image = _middle_of_strip(image)
    scale = max(height / image.shape[0], width / image.shape[1])
    scaled_height = max(round(image.shape[0] * scale), height)
    scaled_width = max(round(image.shape[1] * scale), width)
    scaled = _resize(image, scaled_height, scaled_width, geometry.interpolation)
    top, left = (scaled_height - height) // 2, (scaled_width - width) // 2
    return scaled[top : top + height, left : left + width]


def _middle_of_strip(image: Pixels) -> Pixels:
    """Returns the middle of a strip: one of 1×65,535 pixels, scaled, would exhaust the memory."""
    height, width = image.shape[:2]
    longest = MAX_ASPECT_RATIO * min(height, width)
    top, left = max(height - longest, 0) // 2, max(width - longest, 0) // 2
    return image[top : top + longest, left : left + longest]


def _letterbox(image: Pixels, height: int, width: int, geometry: Geometry) -> Pixels:
    """Letterbox with MiVOLO's rounding (WildChlamydia/MiVOLO, mivolo/data/misc.py)."""
    scale = min(height / image.shape[0], width / image.shape[1])
    inner_height = max(round(image.shape[0] * scale), 1)
    inner_width = max(round(image.shape[1] * scale), 1)
    scaled = _resize(image, inner_height, inner_width, geometry.interpolation)
    top = round((height - inner_height) / 2 - 0.1)
    left = round((width - inner_width) / 2 - 0.1)
    return _window(scaled, -left, -top, width - left, height - top, geometry.pad_color)


def _pad_square(image: Pixels, height: int, width: int, geometry: Geometry) -> Pixels:
    """Square padding as in Janus's image processors, whose rounding differs.

    Sources: transformers' `JanusImageProcessor`, and `VLMImageProcessor` of deepseek-ai/Janus
    (janus/models/image_processing_vlm.py).
    """
    side, longest = max(height, width), max(image.shape[:2])
    if geometry.rounding == "truncate":
        scaled_sides = [int(length / longest * side) for length in image.shape[:2]]
    else:
        scaled_sides = [round(length * (side / longest)) for length in image.shape[:2]]
    inner_height, inner_width = (max(scaled, PAD_SQUARE_LEAST) for scaled in scaled_sides)
    scaled = _resize(image, inner_height, inner_width, geometry.interpolation)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    return _window(scaled, -left, -top, width - left, height - top, geometry.pad_color)


def _resize(image: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    if image.shape[:2] == (height, width):
        return image
    return _RESIZES[interpolation](image, height, width)


def _opencv(flag: str) -> Callable[[Pixels, int, int], Pixels]:
    def resize(image: Pixels, height: int, width: int) -> Pixels:
        import cv2  # slow to import

        resized = cv2.resize(image, (width, height), interpolation=getattr(cv2, flag))
        return np.asarray(resized, np.uint8)

    return resize


def _pillow(kernel: Image.Resampling) -> Callable[[Pixels, int, int], Pixels]:
    def resize(image: Pixels, height: int, width: int) -> Pixels:
        return np.asarray(Image.fromarray(image).resize((width, height), kernel))

    return resize


_FITS: dict[str, Callable[[Pixels, int, int, Geometry], Pixels]] = {
    "stretch": _stretch,
    "center_crop": _center_crop,
    "letterbox": _letterbox,
    "pad_square": _pad_square,
}
_RESIZES: dict[str, Callable[[Pixels, int, int], Pixels]] = {
    "opencv_bilinear": _opencv("INTER_LINEAR"),
    "opencv_area": _opencv("INTER_AREA"),
    "opencv_bicubic": _opencv("INTER_CUBIC"),
    "pillow_bilinear": _pillow(Image.Resampling.BILINEAR),
    "pillow_bicubic": _pillow(Image.Resampling.BICUBIC),
    "pillow_lanczos": _pillow(Image.Resampling.LANCZOS),
}
