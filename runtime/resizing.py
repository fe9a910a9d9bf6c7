"""Resizes pictures, fits them into a size, and cuts windows that may extend beyond a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

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

MAX_HELD_PIXELS = 25_000_000
"""Of a padded window, and of a picture that Pillow resizes, because they are held in memory. A
larger one is reduced by a whole factor first."""

REDUCING_GAP = 3.0
"""By how much such a picture is still resized: from there on, according to Pillow's documentation
of `reducing_gap`, the result is in most cases the same."""

STRIP_PIXELS = 1 << 20
"""Converted at a time, so that no second picture is in memory."""

_LARGE_BLOCK = 8.0
"""Rows per row of the result from which `area_resized` adds up whole rows: a picture of 12
megapixels is reduced to 224 pixels in half of the time; at 5 rows there is no gain."""

Scale = tuple[float, float]
"""Factors in x and y from a reduced picture to the original."""


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
    cut[:] = outside[0] if len(set(outside)) == 1 else outside  # triples take ten times as long
    inside = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    y, x = max(-top, 0), max(-left, 0)
    cut[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return cut


def window_factor(image: Pixels, left: int, top: int, right: int, bottom: int) -> int:
    """Returns by how much a window has to be reduced: 1 unless it is padded and too large."""
    height, width = image.shape[:2]
    size = (right - left) * (bottom - top)
    if size <= MAX_HELD_PIXELS or (left >= 0 and top >= 0 and right <= width and bottom <= height):
        return 1
    return math.ceil(math.sqrt(size / MAX_HELD_PIXELS))


def reduced_window(
    image: Pixels, left: int, top: int, right: int, bottom: int, outside: Color | None, factor: int
) -> Pixels:
    """Returns a window whose pixels are the means of blocks of factor × factor pixels.

    Its last rows and columns that fill no block are left out. The window itself, which may be many
    times the picture, is never in memory: blocks beside the picture repeat those at its edge.

    Args:
        image: uint8 RGB (H, W, 3).
        left: first column.
        top: first row.
        right: column after the last.
        bottom: row after the last.
        outside: color of the pixels outside the picture; None repeats those of its edge.
        factor: side of a block, in pixels.

    Returns:
        uint8 RGB, (bottom - top) // factor × (right - left) // factor pixels.
    """
    height, width = (bottom - top) // factor, (right - left) // factor
    rows = _blocks(height, top, image.shape[0], factor)
    columns = _blocks(width, left, image.shape[1], factor)
    x0, x1 = left + columns.start * factor, left + columns.stop * factor
    small = np.empty((len(rows), len(columns), 3), np.uint8)
    for first, last in _strips(len(rows), (x1 - x0) * factor):
        y0, y1 = (top + (rows.start + row) * factor for row in (first, last))
        blocks = Image.fromarray(window(image, x0, y0, x1, y1, outside))
        small[first:last] = np.asarray(blocks.reduce(factor))
    x, y = columns.start, rows.start
    return window(small, -x, -y, width - x, height - y, outside)


def sampled(image: Pixels, down: int, across: int) -> Pixels:
    """Returns every so many rows and columns of a picture, uint8 RGB (H, W, 3), contiguous."""
    if down == across == 1:
        return np.ascontiguousarray(image)
    # Channel by channel: copying every n-th triple of bytes takes several times as long.
    return np.stack([image[::down, ::across, channel] for channel in range(3)], axis=-1)


def reduced(image: Pixels, longest_side: int) -> tuple[Pixels, Scale]:
    """Returns a picture of at most that size, and the factors back to the original.

    Both are uint8 RGB (H, W, 3); a smaller picture is returned as it is.
    """
    height, width = image.shape[:2]
    ratio = max(height, width) / longest_side
    if ratio <= 1.0:
        return image, (1.0, 1.0)
    size = max(round(width / ratio), 1), max(round(height / ratio), 1)
    return area_resized(image, size[1], size[0]), (width / size[0], height / size[1])


def area_resized(image: Pixels, height: int, width: int) -> Pixels:
    """Returns OpenCV's `INTER_AREA` of a picture, also where OpenCV takes long for it.

    Except for blocks of whole pixels, OpenCV weighs every pixel on its own. Where many rows become
    one, they are therefore added up first, and OpenCV reduces the sums. Both compute in float32, in
    another order: about one value in 100,000 is rounded the other way.

    Args:
        image: uint8 RGB (H, W, 3).
        height: of the result, in pixels.
        width: of the result, in pixels.
    """
    cv2 = import_opencv()
    rows, columns = image.shape[:2]
    block = rows / height
    whole = rows % height == columns % width == 0
    if whole or block < _LARGE_BLOCK or columns < width or block * columns > STRIP_PIXELS:
        found = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        return np.asarray(found, np.uint8)
    small = np.empty((height, width, 3), np.float32)
    for row in range(height):
        mean = _mean_of_rows(image, row * block, min((row + 1) * block, rows))
        small[row] = cv2.resize(mean, (width, 1), interpolation=cv2.INTER_AREA)[0]
    return np.rint(small).astype(np.uint8)


def _mean_of_rows(image: Pixels, top: float, bottom: float) -> NDArray[np.float32]:
    """Returns the mean of rows as float32 (1, W, 3); the first and the last count in part."""
    first, last = int(top), math.ceil(bottom - 1e-6)  # not one more for a rounding error
    shares = np.ones(last - first, np.float32)
    shares[0] -= top - first
    shares[-1] -= last - bottom
    rows = image[first:last].astype(np.float32).reshape(last - first, -1)
    # NumPy's own loops: BLAS would hand parts of each sum to other threads.
    mean = np.einsum("i,ij->j", shares / np.float32(bottom - top), rows)
    return np.asarray(mean, np.float32).reshape(1, -1, 3)


def center_crop(image: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    """Scales a picture to cover a size, and cuts out its center."""
    image = _middle_of_strip(image, height * width)
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


def _middle_of_strip(image: Pixels, wanted: int) -> Pixels:
    """Returns the middle of a strip: one of 1×65,535 pixels, scaled, would exhaust the memory.

    Args:
        image: uint8 RGB (H, W, 3).
        wanted: pixels of the input.
    """
    height, width = image.shape[:2]
    aspect = min(max(2 * MAX_HELD_PIXELS // wanted, 2), MAX_ASPECT_RATIO)
    longest = aspect * min(height, width)
    top, left = max(height - longest, 0) // 2, max(width - longest, 0) // 2
    return image[top : top + longest, left : left + longest]


def _blocks(count: int, start: int, size: int, factor: int) -> range:
    """Returns the blocks of a window that show pixels, and one on each side that shows none.

    Args:
        count: of all blocks.
        start: of the first block, in pixels of the picture.
        size: of the picture, in pixels.
        factor: side of a block, in pixels.
    """
    first = min(max(-start // factor - 1, 0), count - 1)
    return range(first, max(min((size - 1 - start) // factor + 2, count), first + 1))


def _strips(rows: int, row_pixels: int) -> Iterator[tuple[int, int]]:
    """Yields the first row, and the one after the last, of strips of about `STRIP_PIXELS`."""
    step = max(STRIP_PIXELS // row_pixels, 1)
    for first in range(0, rows, step):
        yield first, min(first + step, rows)


def _opencv(flag: str) -> Callable[[Pixels, int, int], Pixels]:
    def resize(image: Pixels, height: int, width: int) -> Pixels:
        cv2 = import_opencv()
        found = cv2.resize(image, (width, height), interpolation=getattr(cv2, flag))
        return np.asarray(found, np.uint8)

    return resize


def _pillow(kernel: Image.Resampling) -> Callable[[Pixels, int, int], Pixels]:
    """Returns Pillow's resize, which copies the picture, so that a large one is reduced first."""

    def resize(image: Pixels, height: int, width: int) -> Pixels:
        rows, columns = image.shape[:2]
        factor = 1
        if rows * columns > MAX_HELD_PIXELS:
            factor = max(int(min(rows / height, columns / width) / REDUCING_GAP), 1)
        if factor > 1:
            right, bottom = (-(-side // factor) * factor for side in (columns, rows))
            image = reduced_window(image, 0, 0, right, bottom, None, factor)
        picture, box = Image.fromarray(image), (0.0, 0.0, columns / factor, rows / factor)
        if image.shape[0] * width > max(MAX_HELD_PIXELS, image.shape[1] * height):
            # Pillow begins with the columns, too, from some version on.
            picture = picture.resize((picture.width, height), kernel, (0, 0, picture.width, box[3]))
            box = (*box[:3], float(height))
        return np.asarray(picture.resize((width, height), kernel, box))

    return resize


_RESIZES: dict[str, Callable[[Pixels, int, int], Pixels]] = {
    "opencv_bilinear": _opencv("INTER_LINEAR"),
    "opencv_area": area_resized,
    "opencv_bicubic": _opencv("INTER_CUBIC"),
    "pillow_bilinear": _pillow(Image.Resampling.BILINEAR),
    "pillow_bicubic": _pillow(Image.Resampling.BICUBIC),
    "pillow_lanczos": _pillow(Image.Resampling.LANCZOS),
}
INTERPOLATIONS = tuple(_RESIZES)
