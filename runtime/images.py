"""Decodes pictures from any source to upright RGB pixels, with limits checked before decoding."""

from __future__ import annotations

import contextlib
import io
import itertools
import operator
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING

from PIL import Image, UnidentifiedImageError

from runtime.errors import ImageError, ImageTooLargeError, InputError
from runtime.image_costs import PictureCost, cost_of
from runtime.image_files import JPEG, PNG, WEBP, PictureFile, read_picture_file
from runtime.program import command_line
from runtime.upright import orientation_of, upright_size, upright_strips

# What Pillow's modules say about a picture's data is up to who sent it: megabytes for one picture.
# Set once, because filters are shared by all threads: `catch_warnings` in one would undo another's.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

if TYPE_CHECKING:
    import numpy as np  # imported where it is needed: a decoder's process does without
    from numpy.typing import NDArray

    from runtime.deadline import Deadline
    from runtime.results import ImageSource

SUFFIXES = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp"), JPEG),
    ".png": PNG,
    ".webp": WEBP,
}
"""Formats by file name suffix, in lower case."""
FORMATS = tuple(dict.fromkeys(SUFFIXES.values()))
"""The only formats that are decoded: every further decoder adds attack surface."""


def is_photograph(path: PurePath) -> bool:
    """Returns whether the name of a file in a folder is that of a photograph.

    Files that macOS adds to archives are none: `._x.jpg` and everything below `__MACOSX`.

    Args:
        path: within the folder.
    """
    return path.suffix.lower() in SUFFIXES and not is_of_macos(path)


def is_of_macos(path: PurePath) -> bool:
    """Returns whether macOS added a file to an archive beside the user's own."""
    return path.name.startswith("._") or "__MACOSX" in path.parts


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Limits on a picture, checked before any pixel is decoded."""

    max_bytes: int = 32 << 20
    """Encoded size."""
    max_pixels: int = 50_000_000
    """Width times height."""


class DecoderLimitsWarning(UserWarning):
    """This system limits less of the processes that decode pictures and videos than Linux does."""


Decode = Callable[["ImageSource", ImageLimits, "Deadline | None"], "NDArray[np.uint8]"]
"""Decodes a picture as `load_rgb` does; raises DeadlineError if it is late."""

_WEBP_PART = 3
"""A WebP may have a third of the pixels: its decoder holds four copies of four bytes a pixel."""
_MAX_SIDE = 65_535
"""Pixels; that of JPEG. Of PNG's larger sides each row costs time."""
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
    import numpy as np

    if isinstance(source, np.ndarray):
        return _checked_array(source, limits)
    if isinstance(source, Image.Image):
        with _as_input_errors("The PIL image"), _SHARED_IMAGES:
            return _filled(*_strips_of_image(source, limits))
    with _as_input_errors("The source"):
        data = _encoded(source, limits)
    with _as_input_errors(f"The picture of {len(data):,} bytes"):
        return _filled(*_decoded(data, limits))


def rgb_strips(data: bytes, limits: ImageLimits) -> tuple[int, int, Iterator[bytes]]:
    """Decodes an encoded picture as `load_rgb` does.

    Returns:
        Width and height of the upright picture, and its pixels in RGB, from the top, in strips of
        whole rows. The first is ready, the others are converted when they are asked for.

    Raises:
        ImageError, ImageTooLargeError: as `load_rgb`.
    """
    _check_bytes(len(data), limits)
    with _as_input_errors(f"The picture of {len(data):,} bytes"):
        width, height, strips = _decoded(data, limits)
        first = next(strips)
    return width, height, itertools.chain((first,), strips)


def picture_cost(data: bytes, limits: ImageLimits) -> PictureCost:
    """Returns what `load_rgb` holds in memory for an encoded picture; nothing is decoded.

    Raises:
        ImageError: the data are not a picture with an intact header, or take too long to decode.
        ImageTooLargeError: a limit is exceeded.
    """
    _check_bytes(len(data), limits)
    with _as_input_errors(f"The picture of {len(data):,} bytes"):
        return _read(data, limits)[1]


def load_here(
    source: ImageSource, limits: ImageLimits, _deadline: Deadline | None = None
) -> NDArray[np.uint8]:
    """Decodes a picture in the caller's thread, where nothing can stop it."""
    return load_rgb(source, limits)


def read_encoded(source: ImageSource, limits: ImageLimits) -> bytes | None:
    """Returns the encoded bytes of a path, bytes or file; None for a PIL image or an array.

    Raises:
        ImageError: there are none.
        ImageTooLargeError: there are more than allowed.
    """
    import numpy as np

    if isinstance(source, np.ndarray | Image.Image):
        return None
    with _as_input_errors("The source"):
        return _encoded(source, limits)


def _read(data: bytes, limits: ImageLimits) -> tuple[PictureFile, PictureCost]:
    """Reads a picture's header, before Pillow, which allocates when it opens some."""
    file = read_picture_file(data)
    if file is None:
        raise UnidentifiedImageError
    cost = cost_of(file)
    _check_pixels(cost.width, cost.height, _limits_of(file.format, limits))
    return file, cost


def _limits_of(format_: str | None, limits: ImageLimits) -> ImageLimits:
    if format_ != WEBP:
        return limits
    return replace(limits, max_pixels=limits.max_pixels // _WEBP_PART)


def _decoded(data: bytes, limits: ImageLimits) -> tuple[int, int, Iterator[bytes]]:
    """Returns what `rgb_strips` does."""
    file, cost = _read(data, limits)
    strips = upright_strips(_loaded(file.data, cost), file.orientation)
    if file.extended is not None:
        kept = list(strips)
        again = upright_strips(_loaded(file.extended, cost), file.orientation)
        if not all(map(operator.eq, kept, again)):
            raise ImageError("The JPEG is incomplete: its end is missing.")
        strips = iter(kept)
    return *upright_size(cost.width, cost.height, file.orientation), strips


def _loaded(data: bytes, cost: PictureCost) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=(cost.format,)) as image:
        if image.size != (cost.width, cost.height):
            raise ImageError(f"The {cost.format} has two sizes. Save it again.")
        image.load()
    return image


def _checked_array(array: NDArray[np.uint8], limits: ImageLimits) -> NDArray[np.uint8]:
    import numpy as np

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
                f"{path} is a folder. Give a picture; `{command_line('label')}` takes folders."
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


def _check_pixels(width: int, height: int, limits: ImageLimits) -> None:
    if width * height == 0:
        raise ImageError(f"The picture has {width}×{height} pixels. Send one that is not empty.")
    if width * height > limits.max_pixels:
        raise ImageTooLargeError(
            f"The picture has {width}×{height} pixels, more than {limits.max_pixels:,}. Send a "
            f"smaller one, or raise ImageLimits.max_pixels."
        )
    if max(width, height) > _MAX_SIDE:
        raise ImageTooLargeError(
            f"The picture has {width}×{height} pixels; a side has at most {_MAX_SIDE:,}."
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


def _strips_of_image(image: Image.Image, limits: ImageLimits) -> tuple[int, int, Iterator[bytes]]:
    _check_pixels(image.width, image.height, _limits_of(image.format, limits))
    image.load()
    orientation = orientation_of(image)
    return *upright_size(*image.size, orientation), upright_strips(image, orientation)


def _filled(width: int, height: int, strips: Iterator[bytes]) -> NDArray[np.uint8]:
    """Returns the pixels of strips, uint8 RGB (H, W, 3)."""
    import numpy as np

    pixels = np.empty((height, width, 3), np.uint8)
    view, place = pixels.data.cast("B"), 0
    for strip in strips:
        view[place : place + len(strip)] = strip
        place += len(strip)
    return pixels
