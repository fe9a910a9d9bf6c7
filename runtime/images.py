"""Decodes pictures from any source to upright RGB pixels, with limits checked before decoding."""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from runtime.errors import ImageError, ImageTooLargeError, InputError

if TYPE_CHECKING:
    from runtime.results import ImageSource

SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
"""Formats by file name suffix, in lower case."""
FORMATS = tuple(dict.fromkeys(SUFFIXES.values()))
"""The only formats that are decoded: every further decoder adds attack surface."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Limits on a picture, checked before any pixel is decoded."""

    max_bytes: int = 32 << 20
    """Encoded size."""
    max_pixels: int = 50_000_000
    """Width times height."""


_MAX_SCANS = 100
"""In a JPEG. Encoders write about ten; each takes a pass over all pixels, for a few bytes."""
_MAX_SEGMENTS = 10_000
"""In a JPEG. 32 MiB of metadata take 500; each runs Python code in Pillow, for four bytes."""
_JPEG_MARK = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
"""Markers followed by a segment, and the end; the others may stand within a scan."""
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
_MAX_PATH = 4096
_SHARED_IMAGES = threading.Lock()
"""Pillow decodes an image on first use; two threads that do so at once get wrong pixels."""


def load_rgb(source: ImageSource, limits: ImageLimits) -> NDArray[np.uint8]:
    """Decodes a picture.

    EXIF orientation is applied. Gray and palette pictures become RGB, transparency is composited
    over white, CMYK and 16-bit PNG are reduced to 8-bit RGB, and an animation yields its first
    frame. Color profiles are not applied, as in the experts' training.

    Args:
        source: a path, encoded bytes, a binary file, a PIL image, or uint8 RGB (H, W, 3).
        limits: on its bytes and pixels.

    Returns:
        uint8 RGB (H, W, 3); the caller's own array if an array was given.

    Raises:
        ImageError: the source is not a readable picture.
        ImageTooLargeError: a limit is exceeded.
    """
    if isinstance(source, np.ndarray):
        return _checked_array(source, limits)
    if isinstance(source, Image.Image):
        with _as_input_errors("The PIL image"), _SHARED_IMAGES:
            return _pixels(source, limits)
    with _as_input_errors("The source"):
        data = _encoded(source, limits)
        _check_segments(data)
    with (
        _as_input_errors(f"The picture of {len(data):,} bytes"),
        Image.open(io.BytesIO(data), formats=FORMATS) as image,
    ):
        return _pixels(image, limits)


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
        return _file_bytes(Path(os.fsdecode(source)), limits)
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
        raise ImageError("The file object yields text. Open it in binary mode.")
    _check_bytes(len(data), limits)
    return data


def _file_bytes(path: Path, limits: ImageLimits) -> bytes:
    if len(str(path)) > _MAX_PATH:
        raise ImageError(
            f"A path of {len(str(path)):,} characters was given. Pass an encoded picture as bytes; "
            f"decode base64 first."
        )
    if not path.is_file():
        if path.is_dir():
            raise ImageError(
                f"{path} is a folder. Give a picture; `python -m runtime label` takes folders."
            )
        raise ImageError(f"There is no picture at {path}.")
    # One byte more than allowed: the size that the file system reports may be wrong.
    with path.open("rb") as file:
        data = file.read(limits.max_bytes + 1)
    _check_bytes(len(data), limits)
    return data


def _check_bytes(size: int, limits: ImageLimits) -> None:
    if size > limits.max_bytes:
        raise ImageTooLargeError(
            f"The picture has more than {limits.max_bytes:,} bytes. Send a smaller one, or raise "
            f"ImageLimits.max_bytes."
        )


def _check_segments(data: bytes) -> None:
    """Rejects a JPEG that takes long to decode for its size.

    Segments are skipped by their length, as decoders do, and data after the picture (such as the
    video of a motion photo) is ignored: either may hold anything.
    """
    if not data.startswith(b"\xff\xd8"):
        return
    segments, scans, position = 0, 0, 2
    while (mark := _JPEG_MARK.search(data, position)) and mark[0][1] != _END_OF_IMAGE:
        segments += 1
        scans += mark[0][1] == _START_OF_SCAN
        if scans > _MAX_SCANS or segments > _MAX_SEGMENTS:
            raise ImageError(
                f"The JPEG has more than {_MAX_SCANS} scans or {_MAX_SEGMENTS:,} segments, which "
                f"take too long to decode. Save it again."
            )
        position = mark.end() + int.from_bytes(data[mark.end() : mark.end() + 2], "big")


def _check_pixels(width: int, height: int, limits: ImageLimits) -> None:
    if width * height == 0:
        raise ImageError(f"The picture has {width}×{height} pixels. Send one that is not empty.")
    if width * height > limits.max_pixels:
        raise ImageTooLargeError(
            f"The picture has {width}×{height} pixels, more than {limits.max_pixels:,}. Send a "
            f"smaller one, or raise ImageLimits.max_pixels."
        )


@contextlib.contextmanager
def _as_input_errors(subject: str) -> Iterator[None]:
    """Turns any error of a file or decoder into an `InputError`."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(f"{subject} is rejected: {error}") from error
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{subject} is not {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ImageError(f"{subject} cannot be read as a picture ({reason}).") from error


def _pixels(image: Image.Image, limits: ImageLimits) -> NDArray[np.uint8]:
    _check_pixels(image.width, image.height, limits)
    image.load()
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    upright = ImageOps.exif_transpose(image) if turned else image  # it always copies
    return np.asarray(_rgb(upright))


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
