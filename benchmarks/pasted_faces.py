"""Pictures of many small faces at known places: faces of photographs, pasted onto smooth colors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from runtime.detection import Detector, overlap
from runtime.geometry import Pixels
from runtime.results import Box

WIDTH, HEIGHT = 1280, 960
HEIGHTS = ((12, 20), (20, 30), (30, 40), (40, 60), (60, 80), (80, 95))
"""Of the pasted faces, in pixels, by row of the table."""
BESIDE = (300.0, 400.0)
"""Height of a large face beside small ones: alone, it is found without a second pass."""
_COLUMNS, _ROWS = 6, 5
_FEWEST, _MOST = 12, 30
_MARGIN = 0.5
"""Of the face's height, around its box: hair and chin belong to what a detector sees."""
_SAME = 0.35
"""Intersection over union of a box and a pasted face from which it is found."""
_GRAIN = 3.0


@dataclass(frozen=True, slots=True)
class CutFace:
    """A face and what surrounds it."""

    picture: Image.Image
    box: Box
    """In pixels of the picture."""


def cut(image: Pixels, box: Box) -> CutFace:
    """Cuts a face out of a photograph with a margin, as far as the photograph reaches."""
    x, y, width, height = box
    left, top = max(round(x - _MARGIN * height), 0), max(round(y - _MARGIN * height), 0)
    right, bottom = round(x + width + _MARGIN * height), round(y + (1 + _MARGIN) * height)
    part = Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right]))
    return CutFace(part, (x - left, y - top, width, height))


def crowd(
    faces: Sequence[CutFace],
    heights: tuple[float, float],
    rng: np.random.Generator,
    *,
    large: bool = False,
) -> tuple[Pixels, list[Box]]:
    """Returns a picture of 12 to 30 faces and the boxes of these.

    Args:
        faces: to choose from.
        heights: smallest and largest height of a pasted face.
        rng: draws the faces, their heights and places.
        large: whether one large face stands in the middle, whose box is not among those returned.
    """
    canvas = _background(rng)
    across, down = WIDTH // _COLUMNS, HEIGHT // _ROWS
    cells = rng.permutation(_COLUMNS * _ROWS)[: rng.integers(_FEWEST, _MOST + 1)]
    boxes = []
    for cell in cells:
        column, row = int(cell) % _COLUMNS, int(cell) // _COLUMNS
        if large and 0 < column < _COLUMNS - 1:
            continue
        place = column * across, row * down
        boxes.append(_pasted(canvas, faces, rng.uniform(*heights), place, (across, down), rng))
    if large:
        room = WIDTH - 2 * across, HEIGHT
        _pasted(canvas, faces, rng.uniform(*BESIDE), (across, 0), room, rng)
    return np.asarray(canvas), boxes


def found_of(detector: Detector, image: Pixels, boxes: Sequence[Box]) -> int:
    """Returns how many of the boxes a detector finds in a picture."""
    detected = [one.box for one in detector.detect(image)]
    return sum(any(overlap(box, other) > _SAME for other in detected) for box in boxes)


def _background(rng: np.random.Generator) -> Image.Image:
    """Returns smooth colors with grain; a blurred photograph would show a large face."""
    colors = rng.integers(40, 216, (6, 8, 3), dtype=np.uint8)
    wide = Image.fromarray(colors).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    noise = rng.normal(0.0, _GRAIN, (HEIGHT, WIDTH, 3))
    return Image.fromarray(np.clip(np.asarray(wide) + noise, 0.0, 255.0).astype(np.uint8))


def _pasted(
    canvas: Image.Image,
    faces: Sequence[CutFace],
    height: float,
    place: tuple[int, int],
    room: tuple[int, int],
    rng: np.random.Generator,
) -> Box:
    """Pastes a face somewhere in a part of the picture; returns its box."""
    face = faces[int(rng.integers(len(faces)))]
    scale = height / face.box[3]
    small = face.picture.resize(
        (max(round(face.picture.width * scale), 1), max(round(face.picture.height * scale), 1)),
        Image.Resampling.BOX if scale < 1.0 else Image.Resampling.BICUBIC,
    )
    x, y = (
        start + int(rng.integers(0, max(space - side, 0) + 1))
        for start, space, side in zip(place, room, small.size, strict=True)
    )
    canvas.paste(small, (x, y))
    left, top, width, tall = (value * scale for value in face.box)
    return x + left, y + top, width, tall
