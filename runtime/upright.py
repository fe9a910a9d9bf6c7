"""Converts decoded PIL images to upright RGB pixels, in strips that bound the memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator

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
_NATIVE_LITTLE = ("I;16N", "little")
"""Mode of 16 bits in the machine's own order, where the low one comes first."""


def orientation_of(image: Image.Image) -> int:
    """Returns the EXIF orientation of a PIL image; 1 where its metadata cannot be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - Pillow raises nearly anything; metadata decides nothing
        return 1
    return value if value in range(1, 9) else 1


def upright_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """Returns width and height of a stored image once it is upright."""
    return (height, width) if orientation in _ON_SIDE else (width, height)


def upright_strips(image: Image.Image, orientation: int) -> Iterator[bytes]:
    """Yields the pixels of the upright image in RGB, from the top, in strips of whole rows."""
    width, height = upright_size(*image.size, orientation)
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
        yield _rgb(strip).tobytes()


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        raise ImageError(
            f"A PIL image of mode {image.mode!r} has no defined range. Convert it to 'RGB' or 'L'."
        )
    if image.mode.startswith("I;16"):
        little = image.mode in ("I;16", "I;16L") or (image.mode, sys.byteorder) == _NATIVE_LITTLE
        high_bytes = image.tobytes()[1 if little else 0 :: 2]
        return Image.frombytes("L", image.size, high_bytes).convert("RGB")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
