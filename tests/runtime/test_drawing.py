"""Drawings: labels within the picture and beside the faces, for any picture and faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from runtime.drawing import (
    LINE,
    PLATE,
    REFUSED_LINE,
    SMALLEST_SIDE,
    age_text,
    draw_faces,
    save_drawing,
)
from runtime.errors import BoxError
from runtime.geometry import Pixels
from runtime.photographs import PhotoFace
from runtime.results import AgeEstimate, Box, ResidualQuantiles

GROUND = 128
CALIBRATED = AgeEstimate(
    34.4, {}, residuals=ResidualQuantiles((0.01, 0.05, 0.95, 0.99), (-20.0, -9.0, 11.0, 20.0))
)
REFUSED = BoxError("of no use")
PLACES = st.floats(-50, 700)
SIZES = st.floats(1, 400)
ANY_BOX = st.tuples(PLACES, PLACES, SIZES, SIZES)


def ground(width: int, height: int) -> Pixels:
    return np.full((height, width, 3), GROUND, np.uint8)


def faces(*boxes: Box, result: AgeEstimate | BoxError = CALIBRATED) -> list[PhotoFace]:
    return [PhotoFace(box, result=result) for box in boxes]


def of_color(image: Pixels, color: tuple[int, int, int]) -> NDArray[np.bool_]:
    """bool (H, W)."""
    return np.asarray((image == np.array(color, np.uint8)).all(axis=2))


def test_the_text_of_a_label() -> None:
    assert age_text(CALIBRATED) == ("34", "25-45")
    assert age_text(AgeEstimate(34.4, {})) == ("34",)
    assert age_text(REFUSED) == ("no age",)


def test_a_picture_of_small_faces_is_enlarged_until_their_labels_fit() -> None:
    crowd = [(60.0 * c + 10, 60.0 * r + 10, 40.0, 40.0) for r in range(10) for c in range(10)]
    drawn = draw_faces(ground(600, 600), faces(*crowd))
    assert drawn.shape[1] == 886, "text of 13 pixels is 0.22 of a face of 59"
    assert drawn.shape[0] < 886 + 80, "few labels are left over"
    inner = [(round(x * 886 / 600), round(y * 886 / 600)) for x, y, _, _ in crowd]
    covered = [of_color(drawn[y + 6 : y + 53, x + 6 : x + 53], PLATE).any() for x, y in inner]
    assert sum(covered) <= 1, "but for the last, in the corner"


def test_the_picture_itself_is_not_modified() -> None:
    image = ground(400, 400)
    drawn = draw_faces(image, faces((100, 100, 80, 80)))
    assert (image == GROUND).all()
    assert drawn.shape == image.shape
    assert np.array_equal(draw_faces(image, []), image)


def test_a_box_is_drawn_where_the_face_is_and_nothing_on_the_face() -> None:
    drawn = draw_faces(ground(500, 400), faces((100, 100, 80, 90)))
    rows, columns = np.nonzero(of_color(drawn, LINE))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (101, 178, 101, 188)
    assert (drawn[106:184, 106:174] == GROUND).all()
    assert of_color(drawn, PLATE)[190:].any()


def test_a_face_without_an_age_looks_different() -> None:
    drawn = draw_faces(ground(400, 400), faces((100, 100, 80, 80), result=REFUSED))
    assert of_color(drawn, REFUSED_LINE).any()
    assert not of_color(drawn, LINE).any()


@pytest.mark.parametrize(
    "box",
    [(0, 0, 80, 80), (420, 0, 80, 80), (0, 420, 80, 80), (420, 420, 80, 80), (-40, 200, 80, 80)],
)
def test_at_the_border_the_label_moves_to_free_space(box: Box) -> None:
    drawn = draw_faces(ground(500, 500), faces(box))
    assert drawn.shape == (500, 500, 3)
    x, y = max(int(box[0]), 0), int(box[1])
    inside = drawn[y + 5 : y + 75, x + 5 : int(box[0]) + 75]
    assert (inside == GROUND).all()


def test_labels_cover_no_other_face() -> None:
    row: list[Box] = [(20 + 70 * place, 100 + 40 * (place % 2), 60, 60) for place in range(7)]
    drawn = draw_faces(ground(520, 320)[:, :520], faces(*row))
    scale = drawn.shape[1] / 520
    for x, y, width, height in row:
        inside = drawn[
            round((y + 5) * scale) : round((y + height - 5) * scale),
            round((x + 5) * scale) : round((x + width - 5) * scale),
        ]
        assert (inside == GROUND).all()


def test_without_room_the_age_moves_to_the_strip() -> None:
    drawn = draw_faces(ground(400, 400), faces((0, 0, 400, 400)))
    assert drawn.shape[0] > 400
    assert drawn.shape[1] == 400
    assert of_color(drawn[400:], PLATE).any()
    # The face has only its number, in the corner.
    assert (drawn[40:396, 4:396] == GROUND).all()
    assert of_color(drawn[:40, :60], PLATE).any()


def test_a_small_picture_is_enlarged_and_a_strip_widened() -> None:
    assert min(draw_faces(ground(40, 60), faces((5, 5, 20, 20))).shape[:2]) >= SMALLEST_SIDE
    thin = draw_faces(ground(1, 60_000), faces((0, 0, 1, 60_000)))
    assert thin.shape[0] < 60_100
    assert 40 < thin.shape[1] < 200


@settings(max_examples=30)
@given(st.lists(ANY_BOX, max_size=6), st.integers(1, 640), st.integers(1, 640))
def test_anything_can_be_drawn(boxes: list[Box], width: int, height: int) -> None:
    drawn = draw_faces(ground(width, height), faces(*boxes))
    assert drawn.dtype == np.uint8
    assert drawn.shape[0] >= height
    assert drawn.shape[1] >= width
    assert np.array_equal(drawn, draw_faces(ground(width, height), faces(*boxes)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_invalid_boxes_are_not_drawn(value: float) -> None:
    drawn = draw_faces(ground(400, 400), faces((value, 0, 5, 5), (0, 0, value, 5), result=REFUSED))
    assert drawn.shape[1] == 400


@pytest.mark.parametrize(
    ("name", "form"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.webp", "WEBP")]
)
def test_a_drawing_is_written_by_its_suffix(tmp_path: Path, name: str, form: str) -> None:
    save_drawing(tmp_path / name, ground(40, 30))
    with Image.open(tmp_path / name) as image:
        assert (image.format, image.size) == (form, (40, 30))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_drawing_in_another_format_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.jpg, \.jpeg, .*\.webp, got a\.pdf"):
        save_drawing(tmp_path / "a.pdf", ground(40, 30))
