"""Converts decoded PIL images to upright RGB pixels, in strips that bound the memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from runtime.errors import ImageError
from runtime.image_costs import STRIP_PIXELS

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a stored image upright, by EXIF orientation."""
_ON_SIDE = (5, 6, 7, 8)
"""Orientations whose upright rows are stored as columns."""
_LAST = (3, 4, 7, 8)
"""Orientations whose first upright row is stored last."""


def orientation_of(image: Image.Image) -> int:
    """Returns the EXIF orientation of a PIL image; 1 where its metadata cannot be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - Pillow raises nearly anything; metadata decides nothing
        return 1
    return value if value in range(1, 9) else 1


def upright_rgb(image: Image.Image, orientation: int) -> NDArray[np.uint8]:
    """Converts an image to upright RGB."""
    width, height = _upright_size(image, orientation)
    pixels = np.empty((height, width, 3), np.uint8)
    for top, rgb in upright_strips(image, orientation):
        pixels[top : top + len(rgb)] = rgb
    return pixels


def upright_strips(image: Image.Image, orientation: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yields the first row and the pixels of strips of the upright image in RGB."""
    width, height = _upright_size(image, orientation)
    rows = max(STRIP_PIXELS // width, 1)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first, last = (height - bottom, height - top) if orientation in _LAST else (top, bottom)
        if orientation in _ON_SIDE:
            strip = image.crop((first, 0, last, image.height))
        else:
            strip = image.crop((0, first, image.width, last))
        if orientation in _TURNS:
            strip = strip.transpose(_TURNS[orientation])
        yield top, np.asarray(_rgb(strip))


def _upright_size(image: Image.Image, orientation: int) -> tuple[int, int]:
    return image.size[::-1] if orientation in _ON_SIDE else image.size


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        raise ImageError(
            f"A PIL image of mode {image.mode!r} has no defined range. Convert it to 'RGB' or 'L'."
        )
    if image.mode.startswith("I;16"):
        high_bytes = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return Image.fromarray(high_bytes).convert("RGB")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
