"""Boxes that callers give: what they cannot have meant is refused, with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import AgeEstimate, AgeMoE, BoxError, Face
from runtime.boxes import check_box
from runtime.results import Box
from tests.runtime.tiny_engines import Tiny, write_engines

SQUARE: Box = (20, 20, 50, 50)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0.1, 0.2, 0.5, 0.5), r"\(0\.1, 0\.2, 0\.5, 0\.5\) look like shares .* has 200×100"),
        ((0, 0, 1, 1), "look like shares of the picture. Give pixels"),
        ((50, 50, 3.9, 20), "has a side of less than 4 pixels"),
        ((50, 50, 20, 0.5), "has a side of less than 4 pixels"),
        ((-11, 10, 20, 20), "Only 45% of the box"),
        ((190, 90, 30, 30), "Only 11% of the box"),
        ((-500, -500, 5000, 5000), "Only 0% of the box"),
    ],
)
def test_refused(box: Box, message: str) -> None:
    with pytest.raises(BoxError, match=message):
        check_box(box, 100, 200)


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 4, 4),
        (0.5, 0.5, 4, 4),
        (-10, 10, 20, 20),  # exactly half of it inside
        (0, 0, 200, 100),
        (0.5, 0.5, 199, 99),
        (500, 0, 20, 20),  # `crop` rejects it
        (0, 0, float("nan"), 5),
        (0, 0, -5, 5),
    ],
)
def test_accepted_or_left_to_the_crop(box: Box) -> None:
    check_box(box, 100, 200)


def test_a_picture_of_one_pixel_is_its_own_share() -> None:
    with pytest.raises(BoxError, match="less than 4 pixels"):
        check_box((0, 0, 1, 1), 1, 1)


def test_boxes_of_a_prediction(tmp_path: Path) -> None:
    image = np.full((100, 200, 3), 99, np.uint8)
    with AgeMoE(write_engines(tmp_path, {"a": Tiny()})) as moe:
        results = moe.predict(
            [
                Face(image, (0.2, 0.2, 0.5, 0.5)),
                Face(image, (20, 20, 50, 50)),
                Face(image, (20, 20, 50, 50), person_box=(0.1, 0.1, 0.8, 0.9)),
                Face(image, None, person_box=(150, 0, 200, 100)),
            ]
        )
    shares, fine, person, outside = results
    assert isinstance(shares, BoxError)
    assert not isinstance(fine, Exception)
    assert "look like shares" in str(person)
    assert "Only 25%" in str(outside)


@pytest.mark.parametrize(
    "box", [(1, 2, 3), (1, 2, 3, 4, 5), 5, "face", (20, 20, 50, float("nan")), [[1, 2], [3, 4]]]
)
def test_what_is_no_box_is_an_error_of_its_face_alone(tmp_path: Path, box: Any) -> None:
    image = np.full((100, 200, 3), 99, np.uint8)
    with AgeMoE(write_engines(tmp_path, {"a": Tiny()})) as moe:
        wrong, fine = moe.predict([Face(image, box), Face(image, SQUARE)])
    assert isinstance(wrong, BoxError)
    assert "A box is x, y, width, height" in str(wrong)
    assert isinstance(fine, AgeEstimate)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
def test_an_array_is_a_box(tmp_path: Path, kind: type[Any]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (100, 200, 3), np.uint8)
    box: Any = np.array(SQUARE, kind)
    with AgeMoE(write_engines(tmp_path, {"a": Tiny()})) as moe:
        wanted, found = moe.predict([Face(image, SQUARE), Face(image, box)])
    assert isinstance(wanted, AgeEstimate)
    assert isinstance(found, AgeEstimate)
    assert found == wanted
    assert json.loads(json.dumps(found.to_dict())) == wanted.to_dict()
