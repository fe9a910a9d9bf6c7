"""A copy of a photograph with the faces' boxes, ages and intervals on it.

Every label lies in the picture and covers no face: it stands beside its box where there is room,
and otherwise in a strip below the picture, by a number that also stands at the box. Only such a
number, where there is no room for it either, stands in its box.
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
"""In pixels; a picture with a shorter side is enlarged, so that the text can be read in it. So is
one whose faces are narrower than the smallest text."""
LONGEST_SIDE = 4096
"""In pixels; no picture is enlarged beyond that."""
SMALLEST_TEXT = 13.0
"""In pixels."""
_TEXT_PER_FACE = 0.22
"""Height of the text to the width of a face: so an interval is about as wide as the face."""
INK, PLATE, PAPER = (255, 255, 255), (22, 22, 28), (245, 245, 245)
LINE, REFUSED_LINE = (255, 205, 50), (240, 90, 80)


@dataclass(frozen=True, slots=True)
class _Label:
    """Lines of text on a dark plate."""

    lines: tuple[tuple[str, Font], ...]
    padding: float

    @property
    def size(self) -> Size:
        """Of the plate: width and height in whole pixels."""
        width = max(font.getlength(text) for text, font in self.lines)
        height = sum(_line_height(font) for _, font in self.lines)
        return math.ceil(width + 2 * self.padding), math.ceil(height + self.padding)

    def draw(self, canvas: ImageDraw.ImageDraw, left: float, top: float) -> None:
        """Draws the plate and, one below the other in its middle, the lines."""
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
        uint8 RGB; larger than the picture where that was too small for text, and higher where a
        label found no room beside its face.
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
            tag = _tag(number, text_size)
            in_corner = tag, _corner(tag.size, box, picture.size)
            placed = _placed((tag,), box, taken, picture.size, gap) or in_corner
        label, place = placed
        label.draw(canvas, *place)
        taken.append((*place, *label.size))
    return np.asarray(_with_strip(picture, left_over, gap) if left_over else picture)


def save_drawing(path: Path, image: Pixels) -> None:
    """Writes uint8 RGB (H, W, 3) as PNG, JPEG or WebP, by the suffix, whole or not at all.

    Raises:
        ValueError: the suffix is none of `SUFFIXES`.
    """
    form = drawing_format(path)
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, form, quality=92)


def drawing_format(path: Path) -> str:
    """What a drawing of that name is written as.

    Raises:
        ValueError: the suffix is none of `SUFFIXES`.
    """
    form = SUFFIXES.get(path.suffix.lower())
    if form is None:
        raise ValueError(f"A drawing is written as {', '.join(SUFFIXES)}, got {path.name}.")
    return form


def age_text(result: AgeEstimate | AgeMoEError) -> tuple[str, ...]:
    """The age and, where there is one, the 90 % interval, in whole years; `no age` otherwise."""
    if not isinstance(result, AgeEstimate):
        return ("no age",)
    age = f"{result.age_years:.0f}"
    if result.low_years is None or result.high_years is None:
        return (age,)
    return age, f"{result.low_years:.0f}-{result.high_years:.0f}"


def _legible(image: Pixels, boxes: Sequence[Box]) -> tuple[Image.Image, float]:
    """A copy of the picture, large enough for text, and how many times as large it is."""
    height, width = image.shape[:2]
    wanted, possible = SMALLEST_SIDE / min(height, width), LONGEST_SIDE / max(height, width)
    face = _middle_width([box for box in boxes if all(map(math.isfinite, box))])
    if face > 0.0:
        wanted = max(wanted, SMALLEST_TEXT / (_TEXT_PER_FACE * face))
    scale = max(min(wanted, possible), 1.0)
    size = round(width * scale), round(height * scale)
    picture = Image.fromarray(image)
    return picture.resize(size) if scale > 1.0 else picture.copy(), scale


def _on_canvas(box: Box, scale: float, size: Size) -> Box:
    """A box in whole pixels of the drawing; without area if it is no box or lies outside."""
    if not all(map(math.isfinite, box)):
        return 0.0, 0.0, 0.0, 0.0
    x, y, width, height = (value * scale for value in box)
    left, top, width, height = within((x, y, width, height), *size)
    return float(round(left)), float(round(top)), float(round(width)), float(round(height))


def _text_size(boxes: Sequence[Box], size: Size) -> float:
    """Of an interval, in pixels: fits the middle-sized face, and no more than the picture."""
    fitting = _middle_width(boxes) * _TEXT_PER_FACE
    return max(min(fitting, min(size) / 18, max(size) / 30), SMALLEST_TEXT)


def _middle_width(boxes: Sequence[Box]) -> float:
    widths = sorted(box[2] for box in boxes if area(box) > 0.0) or [0.0]
    return widths[len(widths) // 2]


def _outline(canvas: ImageDraw.ImageDraw, box: Box, color: tuple[int, int, int], gap: int) -> None:
    """A line within the box with a dark one on either side, to be seen on any ground."""
    x, y, width, height = box
    right, bottom = x + width - 1, y + height - 1
    thick = max(gap // 2, 2)
    for inset, ink, line in ((0, PLATE, thick + 2), (1, color, thick)):
        if right - inset > x + inset and bottom - inset > y + inset:
            edges = (x + inset, y + inset, right - inset, bottom - inset)
            canvas.rectangle(edges, outline=ink, width=line)


def _labels(result: AgeEstimate | AgeMoEError, text_size: float) -> tuple[_Label, _Label]:
    """The age, and smaller below it the interval; and both in one line, for where that fits."""
    age, *interval = age_text(result)
    lines = [(age, _font(text_size * 1.35)), *((text, _font(text_size)) for text in interval)]
    line = (_in_one_line(age, interval), _font(text_size))
    return _Label(tuple(lines), text_size * 0.35), _Label((line,), text_size * 0.25)


def _tag(number: int, text_size: float) -> _Label:
    return _Label(((str(number), _font(text_size)),), text_size * 0.25)


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
    """The first label with room beside a box, and its left and top; None where none has room.

    It must not leave the picture or cover anything that is taken.
    """
    for label in labels:
        for point in _beside(label.size, box, picture, gap):
            place = (*point, *label.size)
            if within(place, *picture) == place and not any(shared_area(place, b) for b in taken):
                return label, point
    return None


def _beside(label: Size, box: Box, picture: Size, gap: float) -> Iterator[Point]:
    """Below, above, to the right and to the left; pushed along the box to stay in the picture."""
    (width, height), (x, y, w, h) = label, box
    for along in (0.5, 0.0, 1.0):
        left = _held(x + (w - width) * along, picture[0] - width)
        top = _held(y + (h - height) * along, picture[1] - height)
        yield left, y + h + gap
        yield left, y - gap - height
        yield x + w + gap, top
        yield x - gap - width, top


def _held(value: float, most: float) -> float:
    return float(round(min(max(value, 0.0), max(most, 0.0))))


def _corner(label: Size, box: Box, picture: Size) -> Point:
    return _held(box[0], picture[0] - label[0]), _held(box[1], picture[1] - label[1])


def _with_strip(picture: Image.Image, entries: Sequence[_Label], gap: float) -> Image.Image:
    """The picture above a strip that holds all entries, in as many rows as they need."""
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
