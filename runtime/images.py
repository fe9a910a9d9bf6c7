"""From whatever the caller has to upright RGB pixels, with limits that hold before decoding."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from runtime.errors import ImageError, ImageTooLargeError, InputError

if TYPE_CHECKING:
    from runtime.results import ImageSource

FORMATS = ("JPEG", "PNG", "WEBP")
"""The only formats that are decoded: each further decoder is a further way in."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is refused before any pixel is decoded."""

    max_bytes: int = 32 << 20
    """Encoded size."""
    max_pixels: int = 50_000_000
    """Width times height."""


def load_rgb(source: ImageSource, limits: ImageLimits) -> NDArray[np.uint8]:
    """Reads a picture.

    EXIF orientation is applied. Grey and palette pictures become RGB, transparency is laid on
    white as viewers show it, CMYK and 16-bit PNG are reduced to 8-bit RGB, and of an animation
    the first frame is taken. Colour profiles are not applied, as in the experts' training.

    Args:
        source: a path, encoded bytes, a binary file, a PIL image, or uint8 RGB (H, W, 3).
        limits: what is refused.

    Returns:
        uint8 RGB (H, W, 3); the caller's own array if an array was given.

    Raises:
        ImageError: not a picture that can be read.
        ImageTooLargeError: over a limit.
    """
    if isinstance(source, np.ndarray):
        return _checked_array(source, limits)
    if isinstance(source, Image.Image):
        _check_pixels(source.width, source.height, limits)
        return _pixels(source)
    return _decoded(_encoded(source, limits), limits)


def _checked_array(array: NDArray[np.uint8], limits: ImageLimits) -> NDArray[np.uint8]:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ImageError(
            f"Expected an image of shape (H, W, 3) uint8 RGB, got {array.shape} {array.dtype}. "
            f"Convert it, or pass the encoded bytes."
        )
    _check_pixels(array.shape[1], array.shape[0], limits)
    return array


def _encoded(source: str | os.PathLike[str] | bytes | IO[bytes], limits: ImageLimits) -> bytes:
    if isinstance(source, str | os.PathLike):
        return _file_bytes(Path(source), limits)
    if isinstance(source, bytes | bytearray | memoryview):
        _check_bytes(len(source), limits)
        return bytes(source)
    if not hasattr(source, "read"):
        raise ImageError(
            f"Expected a path, bytes, a binary file, a PIL image or an array, "
            f"got {type(source).__name__}."
        )
    data = source.read(limits.max_bytes + 1)
    if not isinstance(data, bytes):
        raise ImageError("The file object gives text. Open it in binary mode.")
    _check_bytes(len(data), limits)
    return data


def _file_bytes(path: Path, limits: ImageLimits) -> bytes:
    if not path.is_file():
        raise ImageError(f"There is no picture at {path}.")
    try:
        # One byte more than allowed, whatever the file system says of its size.
        with path.open("rb") as file:
            data = file.read(limits.max_bytes + 1)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error}.") from error
    _check_bytes(len(data), limits)
    return data


def _check_bytes(size: int, limits: ImageLimits) -> None:
    if size > limits.max_bytes:
        raise ImageTooLargeError(
            f"The picture has more than {limits.max_bytes:,} bytes. Send a smaller one, or raise "
            f"ImageLimits.max_bytes."
        )


def _check_pixels(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        raise ImageTooLargeError(
            f"The picture has {width}×{height} pixels, more than {limits.max_pixels:,}. Send a "
            f"smaller one, or raise ImageLimits.max_pixels."
        )


def _decoded(data: bytes, limits: ImageLimits) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixels(image.width, image.height, limits)
            return _pixels(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(f"The picture is refused: {error}") from error
    except InputError:
        raise
    except Exception as error:  # decoders raise whatever broken data makes them raise
        formats = ", ".join(FORMATS)
        raise ImageError(
            f"The {len(data):,} bytes are not a {formats} picture that can be decoded "
            f"({type(error).__name__}: {error})."
        ) from error


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    image.load()
    upright = ImageOps.exif_transpose(image)
    return np.asarray(_rgb(upright))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        raise ImageError(
            f"A PIL image of mode {image.mode!r} has no defined white. Convert it to 'RGB' or 'L'."
        )
    if image.mode.startswith("I;16"):
        high_bytes = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return Image.fromarray(high_bytes).convert("RGB")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")
