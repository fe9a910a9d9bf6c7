"""The picture of the portraits: each photograph with its faces, and their ages on an axis below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from export.demo.chart import (
    FAINT,
    INK,
    PAPER,
    Colors,
    Entry,
    draw_age_axis,
    draw_age_line,
    draw_legend,
    expert_colors,
    font,
    fused_label,
    paste_rounded,
    wrapped,
)
from export.demo.portraits import Card
from runtime.fusion import Floats
from runtime.results import Box, Landmarks

_WIDTH, _HEIGHT = 460, 500
"""Of the photographs, in pixels."""
_WIDE, _NARROW = 1.15, 0.2
"""Margins around the faces on every side, as shares of the largest one's height."""
_GAP, _MARGIN, _HEADER, _FOOTER = 36, 44, 132, 54
_TITLE, _ROW = 62, 118
_MOST_ROWS = 4
"""Faces per photograph with an axis below it; the others have a box only."""
_MOST_COLUMNS = 3
_LINE, _EDGE, _EMPTY = "#ffcd32", "#16161c", "#ecebe7"
_TEXT = (
    "Real photographs: every face is found and aligned by its landmarks; the ages that two small "
    "public networks predict are corrected and fused, with an interval that holds the true age "
    "nine times in ten."
)

View = tuple[float, float, float]
"""Left, top and scale of the part of a photograph that is shown."""


def portrait_sheet(cards: Sequence[Card], summary: str) -> Image.Image:
    """Draws all cards in rows, with a legend above and the summary below."""
    columns = min(len(cards), _MOST_COLUMNS)
    pictured = [(card, _photograph(card)) for card in cards]
    rows = [pictured[i : i + columns] for i in range(0, len(pictured), columns)]
    heights = [max(_height(*card) for card in row) for row in rows]
    width = 2 * _MARGIN + columns * _WIDTH + (columns - 1) * _GAP
    width = max(width, 2 * _MARGIN + 2 * _WIDTH + _GAP)
    entries = [entry for card in cards for entry in card.entries]
    colors = expert_colors(entries)
    lines = wrapped(_measure(), _TEXT, 19, width - 2 * _MARGIN)
    header = _HEADER + 26 * (len(lines) - 1)
    height = _MARGIN + header + sum(heights) + _GAP * (len(rows) - 1) + _FOOTER
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN - 10), "AgeMoE runtime", INK, font(40))
    for number, line in enumerate(lines):
        draw.text((_MARGIN, _MARGIN + 46 + 26 * number), line, FAINT, font(19))
    draw_legend(draw, colors, fused_label(entries), (_MARGIN, _MARGIN + header - 44))
    y = _MARGIN + header
    for row, tall in zip(rows, heights, strict=True):
        for column, (card, picture) in enumerate(row):
            _draw_card(sheet, card, picture, colors, (_MARGIN + column * (_WIDTH + _GAP), y))
        y += tall + _GAP
    draw.text((_MARGIN, height - _FOOTER), summary, INK, font(19))
    return sheet


def _measure() -> ImageDraw.ImageDraw:
    return ImageDraw.Draw(Image.new("RGB", (1, 1)))


def _height(card: Card, picture: Image.Image) -> int:
    faces = max(min(len(card.entries), _MOST_ROWS), 1)
    return picture.height + _TITLE + _ROW * faces


def _draw_card(
    sheet: Image.Image, card: Card, picture: Image.Image, colors: Colors, corner: tuple[int, int]
) -> None:
    x, y = corner
    paste_rounded(sheet, picture, corner)
    draw = ImageDraw.Draw(sheet)
    y += picture.height
    draw.text((x, y + 12), card.title, INK, font(24))
    right = x + _WIDTH - draw.textlength(card.credit, font(15))
    draw.text((right, y + 20), card.credit, FAINT, font(15))
    entries = card.entries
    if not entries:
        draw.text((x, y + _TITLE - 6), "no face with an age", FAINT, font(18))
    for row, entry in enumerate(entries[:_MOST_ROWS]):
        name = f"face {row + 1}" if len(entries) > 1 else ""
        _draw_face(draw, entry, name, colors, (x, y + _TITLE + row * _ROW))


def _draw_face(
    draw: ImageDraw.ImageDraw, entry: Entry, name: str, colors: Colors, corner: tuple[int, int]
) -> None:
    x, y = corner
    draw_age_line(draw, entry, (x, y - 12), _WIDTH, unknown=name)
    low, high = entry.estimate["low_years"], entry.estimate["high_years"]
    if low is not None:
        age = draw.textlength(f"{entry.estimate['age_years']:.0f}", font(40))
        left = x + age + 10 + draw.textlength("years", font(18)) + 12
        draw.text((left, y + 6), f"{low:.0f} to {high:.0f}", FAINT, font(18))
    draw_age_axis(draw, entry, colors, (x, y + 40), _WIDTH)


def _photograph(card: Card) -> Image.Image:
    """Returns the part of the photograph around its faces, with their boxes and landmarks."""
    picture = Image.fromarray(card.image)
    left, top, scale = _view(card)
    size = (round(picture.width * scale), round(picture.height * scale))
    shown = picture.resize(size, Image.Resampling.LANCZOS)
    # A wide photograph makes a low card.
    height = min(_HEIGHT, size[1]) if size[0] >= _WIDTH else _HEIGHT
    top = max(top, 0.0) if height < _HEIGHT else top
    canvas = Image.new("RGB", (_WIDTH, height), _EMPTY)
    canvas.paste(shown, (round(-left * scale), round(-top * scale)))
    draw = ImageDraw.Draw(canvas)
    for number, face in enumerate(card.faces, 1):
        box = _placed(face.box, left, top, scale)
        _draw_box(draw, box)
        _draw_landmarks(draw, face.landmarks, (left, top, scale))
        if len(card.faces) > 1:
            draw.text(
                (box[0] + 6, box[1] + 3),
                str(number),
                _LINE,
                font(18),
                stroke_width=2,
                stroke_fill=_EDGE,
            )
    return canvas


def _view(card: Card) -> View:
    """Returns the part to show: all faces, with a wide margin, or a narrow one to fill the card."""
    size = np.array(card.image.shape[1::-1], np.float64)
    card_size = np.array([_WIDTH, _HEIGHT])
    whole, filled = (card_size / size).min(), (card_size / size).max()
    wide, narrow = (_around(card, margin) for margin in (_WIDE, _NARROW))
    scale = max((card_size / (wide[1] - wide[0])).min(), whole)
    if scale < filled <= (card_size / (narrow[1] - narrow[0])).min():
        scale = filled
    shown = card_size / scale
    free = size - shown
    corner = np.clip(wide.mean(axis=0) - shown / 2, 0.0, np.maximum(free, 0.0))
    left, top = np.where(free < 0.0, free / 2, corner)
    return float(left), float(top), float(scale)


def _around(card: Card, margin: float) -> Floats:
    """Returns the corners (2, 2) of a box around all faces; of the photograph if there are none."""
    if not card.faces:
        return np.array([[0.0, 0.0], card.image.shape[1::-1]])
    boxes = np.array([face.box for face in card.faces])
    around = margin * boxes[:, 3].max()
    low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    return np.stack([low - around, high + around])


def _placed(box: Box, left: float, top: float, scale: float) -> Box:
    x, y, width, height = box
    return (x - left) * scale, (y - top) * scale, width * scale, height * scale


def _draw_box(draw: ImageDraw.ImageDraw, box: Box) -> None:
    x, y, width, height = box
    edges = (x, y, x + width, y + height)
    for outset, ink, line in ((1, _EDGE, 4), (0, _LINE, 2)):
        grown = (edges[0] - outset, edges[1] - outset, edges[2] + outset, edges[3] + outset)
        draw.rounded_rectangle(grown, 8, outline=ink, width=line)


def _draw_landmarks(draw: ImageDraw.ImageDraw, landmarks: Landmarks | None, view: View) -> None:
    left, top, scale = view
    for x, y in landmarks or ():
        across, down = (x - left) * scale, (y - top) * scale
        draw.ellipse((across - 4, down - 4, across + 4, down + 4), _LINE, _EDGE)
