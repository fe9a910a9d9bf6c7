"""How many pixels the faces and persons of all pictures of a request may cover."""

from __future__ import annotations

import pytest

from runtime.errors import BoxesTooLargeError
from runtime.photographs import FoundFace, Scene
from runtime.results import Box
from runtime.serving.prediction import Predictions, check_request_cover

WHOLE: Box = (0.0, 0.0, 100.0, 50.0)
HALF: Box = (50.0, 0.0, 100.0, 50.0)
SMALL: Box = (0.0, 0.0, 10.0, 5.0)
PIXELS = 10_000
"""Two of these pictures."""


def picture(*found: FoundFace | None) -> Predictions:
    return Predictions(100, 50, Scene(found))


def test_faces_of_all_pictures_count() -> None:
    within = [picture(FoundFace(WHOLE), FoundFace(HALF)), picture(None, FoundFace(HALF))]
    check_request_cover(within, PIXELS)  # 15,000
    with pytest.raises(BoxesTooLargeError, match=r"this request.* 15,050 pixels, more than 15,0"):
        check_request_cover([*within, picture(FoundFace(SMALL))], PIXELS)


def test_persons_of_all_pictures_count() -> None:
    crowd = picture(*[FoundFace(SMALL, WHOLE)] * 3)
    check_request_cover([crowd, crowd, picture()], PIXELS)  # 30,300
    with pytest.raises(BoxesTooLargeError, match=r"40,400 pixels, more than 40,000"):
        check_request_cover([crowd, crowd, picture(*[FoundFace(SMALL, WHOLE)] * 2)], PIXELS)


def test_a_picture_that_cannot_be_read_counts_nothing() -> None:
    check_request_cover([Predictions()] * 16, 1)
