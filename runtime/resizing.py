"""Resizes pictures, fits them into a size, and cuts windows that may extend beyond a picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime.opencv import import_opencv

Pixels = NDArray[np.uint8]
"""A picture: RGB (H, W, 3)."""
Color = tuple[int, int, int]
"""RGB, within 0..255."""

PAD_SQUARE_LEAST = 14
"""Minimum of the shorter side in `pad_square`, in pixels, as in Janus's image processor."""

MAX_ASPECT_RATIO = 32
"""Limit on the aspect ratio: `center_crop` first cuts the ends off a longer picture."""


def resized(image: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    """Returns a picture in another size; the picture itself if it has that size.

    Args:
        image: uint8 RGB (H, W, 3).
        height: of the result, in pixels.
        width: of the result, in pixels.
        interpolation: one of `INTERPOLATIONS`.
    """
    if image.shape[:2] == (height, width):
        return image
    return _RESIZES[interpolation](image, height, width)


def window(
    image: Pixels, left: int, top: int, right: int, bottom: int, outside: Color | None
) -> Pixels:
    """Returns a window of a picture, which may extend beyond it.

    Args:
        image: uint8 RGB (H, W, 3).
        left: first column.
        top: first row.
        right: column after the last.
        bottom: row after the last.
        outside: color of the pixels outside the picture; None repeats those of its edge.

    Returns:
        uint8 RGB (bottom - top, right - left, 3); a view of the picture if it lies within it.
    """
    height, width = image.shape[:2]
    if left >= 0 and top >= 0 and right <= width and bottom <= height:
        return image[top:bottom, left:right]
    if outside is None:
        rows = np.arange(top, bottom).clip(0, height - 1)
        columns = np.arange(left, right).clip(0, width - 1)
        return np.asarray(image[rows[:, None], columns])
    cut = np.empty((bottom - top, right - left, 3), np.uint8)
    cut[:] = outside
    inside = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    y, x = max(-top, 0), max(-left, 0)
    cut[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return cut


def center_crop(image: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    """Scales a picture to cover a size, and cuts out its center."""
    image = _middle_of_strip(image)
    scale = max(height / image.shape[0], width / image.shape[1])
    scaled_height = max(round(image.shape[0] * scale), height)
    scaled_width = max(round(image.shape[1] * scale), width)
    scaled = resized(image, scaled_height, scaled_width, interpolation)
    top, left = (scaled_height - height) // 2, (scaled_width - width) // 2
    return scaled[top : top + height, left : left + width]


def letterbox(
    image: Pixels, height: int, width: int, interpolation: str, outside: Color | None
) -> Pixels:
    """Scales a picture to fit within a size and pads it evenly, with MiVOLO's rounding.

    Source: WildChlamydia/MiVOLO, mivolo/data/misc.py.
    """
    scale = min(height / image.shape[0], width / image.shape[1])
    inner_height = max(round(image.shape[0] * scale), 1)
    inner_width = max(round(image.shape[1] * scale), 1)
    scaled = resized(image, inner_height, inner_width, interpolation)
    top = round((height - inner_height) / 2 - 0.1)
    left = round((width - inner_width) / 2 - 0.1)
    return window(scaled, -left, -top, width - left, height - top, outside)


def pad_square(
    image: Pixels,
    height: int,
    width: int,
    interpolation: str,
    outside: Color | None,
    *,
    truncate: bool = False,
) -> Pixels:
    """Scales the longest side of a picture to a square's and pads the other one evenly.

    The shorter side is rounded to the nearest pixel or truncated. Sources: transformers'
    `JanusImageProcessor`, and `VLMImageProcessor` of deepseek-ai/Janus
    (janus/models/image_processing_vlm.py).
    """
    side, longest = max(height, width), max(image.shape[:2])
    if truncate:
        scaled_sides = [int(length / longest * side) for length in image.shape[:2]]
    else:
        scaled_sides = [round(length * (side / longest)) for length in image.shape[:2]]
    inner_height, inner_width = (max(scaled, PAD_SQUARE_LEAST) for scaled in scaled_sides)
    scaled = resized(image, inner_height, inner_width, interpolation)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    return window(scaled, -left, -top, width - left, height - top, outside)


def _middle_of_strip(image: Pixels) -> Pixels:
    """Returns the middle of a strip: one of 1×65,535 pixels, scaled, would exhaust the memory."""
    height, width = image.shape[:2]
    longest = MAX_ASPECT_RATIO * min(height, width)
    top, left = max(height - longest, 0) // 2, max(width - longest, 0) // 2
    return image[top : top + longest, left : left + longest]


def _opencv(flag: str) -> Callable[[Pixels, int, int], Pixels]:
    def resize(image: Pixels, height: int, width: int) -> Pixels:
        cv2 = import_opencv()
        found = cv2.resize(image, (width, height), interpolation=getattr(cv2, flag))
        return np.asarray(found, np.uint8)

    return resize


def _pillow(kernel: Image.Resampling) -> Callable[[Pixels, int, int], Pixels]:
    def resize(image: Pixels, height: int, width: int) -> Pixels:
        return np.asarray(Image.fromarray(image).resize((width, height), kernel))

    return resize


_RESIZES: dict[str, Callable[[Pixels, int, int], Pixels]] = {
    "opencv_bilinear": _opencv("INTER_LINEAR"),
    "opencv_area": _opencv("INTER_AREA"),
    "opencv_bicubic": _opencv("INTER_CUBIC"),
    "pillow_bilinear": _pillow(Image.Resampling.BILINEAR),
    "pillow_bicubic": _pillow(Image.Resampling.BICUBIC),
    "pillow_lanczos": _pillow(Image.Resampling.LANCZOS),
}
INTERPOLATIONS = tuple(_RESIZES)
