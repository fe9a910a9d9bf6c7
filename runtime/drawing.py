"""Draws boxes, ages and intervals of faces on a copy of a photograph.

Labels lie within the picture and cover no face: beside the box if there is room, otherwise in a
strip below the picture, with a number that is repeated beside the box. Only if there is no room for
the number either, it lies in the box.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from runtime.detection import area, shared_area, within
from runtime.errors import AgeMoEError
from runtime.files import replacing
from runtime.geometry import Pixels
from runtime.images import SUFFIXES
from runtime.photographs import PhotoFace
from runtime.results import AgeEstimate, Box

Size = tuple[float, float]
Point = tuple[float, float]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

SMALLEST_SIDE = 360
"""In pixels; a picture with a shorter side, or with faces narrower than the smallest text, is
enlarged to keep the text legible."""
LONGEST_SIDE = 4096
"""Limit of the enlargement, in pixels."""
SMALLEST_TEXT = 13.0
"""In pixels."""
_TEXT_PER_FACE = 0.22
"""Text height relative to the width of a face: makes an interval about as wide as the face."""
INK, PLATE, PAPER = (255, 255, 255), (22, 22, 28), (245, 245, 245)
LINE, REFUSED_LINE = (255, 205, 50), (240, 90, 80)


@dataclass(frozen=True, slots=True)
class _Label:
    """Lines of text on a dark plate."""

    lines: tuple[tuple[str, Font], ...]
    padding: float

    @property
    def size(self) -> Size:
        """Width and height of the plate, in whole pixels."""
        width = max(font.getlength(text) for text, font in self.lines)
        height = sum(_line_height(font) for _, font in self.lines)
        return math.ceil(width + 2 * self.padding), math.ceil(height + self.padding)

    def draw(self, canvas: ImageDraw.ImageDraw, left: float, top: float) -> None:
        """Draws the plate with the lines, centered, one below the other."""
        width, height = self.size
        plate = (left, top, left + width - 1, top + height - 1)
        canvas.rounded_rectangle(plate, self.padding, fill=PLATE)
        y = top + self.padding / 2
        for text, font in self.lines:
            canvas.text((left + (width - font.getlength(text)) / 2, y), text, INK, font)
            y += _line_height(font)


def draw_faces(image: Pixels, faces: Sequence[PhotoFace]) -> Pixels:
    """Draws boxes, ages and 90 % intervals on a copy of a picture.

    Args:
        image: uint8 RGB (H, W, 3).
        faces: with boxes in pixels of the picture.

    Returns:
        uint8 RGB; larger than the picture if that is too small for text, higher if a label has no
        room beside its face.
    """
    picture, scale = _legible(image, [face.box for face in faces])
    boxes = [_on_canvas(face.box, scale, picture.size) for face in faces]
    text_size = _text_size(boxes, picture.size)
    gap = max(round(text_size / 7), 2)
    canvas = ImageDraw.Draw(picture)
    for face, box in zip(faces, boxes, strict=True):
        _outline(canvas, box, LINE if face.estimate else REFUSED_LINE, gap)
    taken = [box for box in boxes if area(box) > 0.0]
    left_over = []
    for number, (face, box) in enumerate(zip(faces, boxes, strict=True), 1):
        choices = _labels(face.result, text_size)
        placed = _placed(choices, box, taken, picture.size, gap)
        if placed is None:
            left_over.append(_strip_entry(number, face.result, text_size))
            tag = _Label(((str(number), _font(text_size)),), text_size * 0.25)
            in_corner = tag, _corner(tag.size, box, picture.size)
            placed = _placed((tag,), box, taken, picture.size, gap) or in_corner
        label, corner = placed
        label.draw(canvas, *corner)
        taken.append((*corner, *label.size))
    return np.asarray(_with_strip(picture, left_over, gap) if left_over else picture)


def save_drawing(path: Path, image: Pixels) -> None:
    """Writes uint8 RGB (H, W, 3) atomically, as PNG, JPEG or WebP by the suffix.

    Raises:
        ValueError: the suffix is not in `SUFFIXES`.
    """
    image_format = drawing_format(path)
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, image_format, quality=92)


def drawing_format(path: Path) -> str:
    """Returns the format of a drawing; raises ValueError if its suffix is not in `SUFFIXES`."""
    image_format = SUFFIXES.get(path.suffix.lower())
    if image_format is None:
        raise ValueError(f"A drawing is written as {', '.join(SUFFIXES)}, got {path.name}.")
    return image_format


def age_text(result: AgeEstimate | AgeMoEError) -> tuple[str, ...]:
    """Returns the age and, if any, the 90 % interval in whole years; `no age` for an error."""
    if not isinstance(result, AgeEstimate):
        return ("no age",)
    age = f"{result.age_years:.0f}"
    if result.low_years is None or result.high_years is None:
        return (age,)
    return age, f"{result.low_years:.0f}-{result.high_years:.0f}"


def _legible(image: Pixels, boxes: Sequence[Box]) -> tuple[Image.Image, float]:
    """Returns a copy of the picture, large enough for text, and its scale."""
    height, width = image.shape[:2]
    wanted, possible = SMALLEST_SIDE / min(height, width), LONGEST_SIDE / max(height, width)
    face = _median_width([box for box in boxes if all(map(math.isfinite, box))])
    if face > 0.0:
        wanted = max(wanted, SMALLEST_TEXT / (_TEXT_PER_FACE * face))
    scale = max(min(wanted, possible), 1.0)
    size = round(width * scale), round(height * scale)
    picture = Image.fromarray(image)
    return picture.resize(size) if scale > 1.0 else picture.copy(), scale


def _on_canvas(box: Box, scale: float, size: Size) -> Box:
    """Returns a box in whole pixels of the drawing; without area if it is invalid or outside."""
    if not all(map(math.isfinite, box)):
        return 0.0, 0.0, 0.0, 0.0
    x, y, width, height = (value * scale for value in box)
    left, top, width, height = within((x, y, width, height), *size)
    return float(round(left)), float(round(top)), float(round(width)), float(round(height))


def _text_size(boxes: Sequence[Box], size: Size) -> float:
    """Returns the height of the text in pixels, to fit the median face and the picture."""
    fitting = _median_width(boxes) * _TEXT_PER_FACE
    return max(min(fitting, min(size) / 18, max(size) / 30), SMALLEST_TEXT)


def _median_width(boxes: Sequence[Box]) -> float:
    widths = sorted(box[2] for box in boxes if area(box) > 0.0) or [0.0]
    return widths[len(widths) // 2]


def _outline(canvas: ImageDraw.ImageDraw, box: Box, color: tuple[int, int, int], gap: int) -> None:
    """Draws a line within the box with dark edges, visible on any background."""
    x, y, width, height = box
    right, bottom = x + width - 1, y + height - 1
    thick = max(gap // 2, 2)
    for inset, ink, line in ((0, PLATE, thick + 2), (1, color, thick)):
        if right - inset > x + inset and bottom - inset > y + inset:
            edges = (x + inset, y + inset, right - inset, bottom - inset)
            canvas.rectangle(edges, outline=ink, width=line)


def _labels(result: AgeEstimate | AgeMoEError, text_size: float) -> tuple[_Label, _Label]:
    """Returns the age above a smaller interval; and, as the second choice, both in one line."""
    age, *interval = age_text(result)
    lines = [(age, _font(text_size * 1.35)), *((text, _font(text_size)) for text in interval)]
    line = (_in_one_line(age, interval), _font(text_size))
    return _Label(tuple(lines), text_size * 0.35), _Label((line,), text_size * 0.25)


def _strip_entry(number: int, result: AgeEstimate | AgeMoEError, text_size: float) -> _Label:
    age, *interval = age_text(result)
    text = f"{number}:  {_in_one_line(age, interval)}"
    return _Label(((text, _font(text_size)),), text_size * 0.35)


def _in_one_line(age: str, interval: Sequence[str]) -> str:
    return " ".join([age, *(f"({text})" for text in interval)])


def _font(size: float) -> Font:
    return ImageFont.load_default(round(size))


def _line_height(font: Font) -> float:
    return font.getbbox("0g")[3] * 1.08


def _placed(
    labels: Sequence[_Label], box: Box, taken: Sequence[Box], picture: Size, gap: float
) -> tuple[_Label, Point] | None:
    """Returns the first label with room beside a box, and its left and top; None without room.

    A label must not leave the picture or overlap a taken box.
    """
    for label in labels:
        for point in _beside(label.size, box, picture, gap):
            plate = (*point, *label.size)
            if within(plate, *picture) == plate and not any(shared_area(plate, b) for b in taken):
                return label, point
    return None


def _beside(label: Size, box: Box, picture: Size, gap: float) -> Iterator[Point]:
    """Yields points below, above, right and left of the box, shifted to stay in the picture."""
    (width, height), (x, y, w, h) = label, box
    for along in (0.5, 0.0, 1.0):
        left = _clamped(x + (w - width) * along, picture[0] - width)
        top = _clamped(y + (h - height) * along, picture[1] - height)
        yield left, y + h + gap
        yield left, y - gap - height
        yield x + w + gap, top
        yield x - gap - width, top


def _clamped(value: float, most: float) -> float:
    return float(round(min(max(value, 0.0), max(most, 0.0))))


def _corner(label: Size, box: Box, picture: Size) -> Point:
    return _clamped(box[0], picture[0] - label[0]), _clamped(box[1], picture[1] - label[1])


def _with_strip(picture: Image.Image, entries: Sequence[_Label], gap: float) -> Image.Image:
    """Returns the picture above a strip with all entries, in as many rows as they need."""
    width = max(picture.width, *(math.ceil(entry.size[0] + 2 * gap) for entry in entries))
    rows = list(_rows(entries, width, gap))
    row_height = entries[0].size[1] + gap
    height = picture.height + math.ceil(len(rows) * row_height + gap)
    whole = Image.new("RGB", (width, height), PAPER)
    whole.paste(picture)
    canvas = ImageDraw.Draw(whole)
    for index, row in enumerate(rows):
        left = gap
        for entry in row:
            entry.draw(canvas, left, picture.height + gap + index * row_height)
            left += entry.size[0] + gap
    return whole


def _rows(entries: Iterable[_Label], width: float, gap: float) -> Iterator[list[_Label]]:
    row: list[_Label] = []
    used = gap
    for entry in entries:
        if row and used + entry.size[0] + gap > width:
            yield row
            row, used = [], gap
        row.append(entry)
        used += entry.size[0] + gap
    yield row
