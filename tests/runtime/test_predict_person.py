"""`AgeMoE.predict_person`: pictures of a face, and pictures in which the face is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from runtime import (
    AgeEstimate,
    AgeMoE,
    Detection,
    Face,
    FaceCountError,
    GivenBoxes,
    ImageError,
    ImageLimits,
    ManyFacesError,
    NoUsablePictureError,
    combine,
)
from runtime.deadline import Deadline
from runtime.errors import DeadlineError
from runtime.fusion import Spread
from runtime.fusion_file import write_fusion
from runtime.geometry import Pixels
from runtime.main_faces import main_face, predict_main_faces
from runtime.photographs import FoundFace
from runtime.pooling import Correlation
from tests.runtime.fakes import FakePredictor
from tests.runtime.fusion_tables import Row, pivot_tables
from tests.runtime.tiny_engines import SHA, Tiny, write_engines

if TYPE_CHECKING:
    from runtime.results import FaceLike

CORRELATION = Correlation(0.3, 0.2, 0.5, 30, 90, 2.0, "people.csv")


class Brightest:
    """Finds bright 20×20 squares on a grid of 20 pixels; score and box of a face."""

    provenance = "brightest"

    def detect(self, image: Pixels) -> list[Detection]:
        height, width = image.shape[0] // 20, image.shape[1] // 20
        means = image[: height * 20, : width * 20].reshape(height, 20, width, 20, 3)
        rows, columns = np.nonzero(means.mean(axis=(1, 3, 4)) > 20)
        return [
            Detection((20.0 * x, 20.0 * y, 20.0, 20.0)) for y, x in zip(rows, columns, strict=True)
        ]


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    write_engines(tmp_path, {"a": Tiny(), "b": Tiny(slope=80.0)})
    quantiles = {
        frozenset("ab"): np.tile([-9.0, -6.0, 0.0, 6.0, 9.0], (101, 1)),
    }
    tables = pivot_tables(
        {"a": Row(source_sha256=SHA), "b": Row(source_sha256=SHA)},
        spread=Spread((0.025, 0.05, 0.5, 0.95, 0.975), quantiles),
    )
    write_fusion(tmp_path / "fusion.json", replace(tables, correlation=CORRELATION))
    return tmp_path


def gray(level: int, side: int = 40) -> Pixels:
    return np.full((side, side, 3), level, np.uint8)


def spot(*levels: int) -> Pixels:
    """A black picture with bright squares side by side."""
    image = np.zeros((60, 20 * (2 * len(levels) + 1), 3), np.uint8)
    for number, level in enumerate(levels):
        image[20:40, 20 * (2 * number + 1) : 20 * (2 * number + 2)] = level
    return image


def test_pictures_of_a_face_are_predicted_together(engines: Path) -> None:
    pictures: list[FaceLike] = [
        gray(100),
        gray(110),
        b"no picture",
        Face(gray(120), (0, 0, 40, 40)),
    ]
    with AgeMoE(engines) as moe:
        batches: list[int] = []
        original = moe._executor.run

        def run(views: object, deadline: Deadline | None = None) -> object:
            batches.append(len(next(iter(views.values()))))  # type: ignore[attr-defined]
            return original(views, deadline)  # type: ignore[arg-type]

        moe._executor.run = run  # type: ignore[method-assign, assignment]
        person = moe.predict_person(pictures)
        assert batches == [3]
        assert person.to_dict() == combine(moe.predict(pictures)).to_dict()
    assert isinstance(person.frames[2].result, ImageError)
    assert person.age_years == pytest.approx(110 * 90 / 255, abs=0.2)
    assert person.correlation is None
    assert person.interval(0.9) == pytest.approx((person.age_years - 6, person.age_years + 6))


def test_only_separate_pictures_narrow_the_interval_and_by_the_upper_end(engines: Path) -> None:
    pictures = [gray(level) for level in (100, 104, 108, 112)]
    with AgeMoE(engines) as moe:
        assert moe.correlation == CORRELATION.high
        sitting, separate = (moe.predict_person(pictures, separate=s) for s in (False, True))
    assert sitting.age_years == separate.age_years
    assert separate.correlation == 0.5
    low, high = separate.interval(0.9)
    assert high - low == pytest.approx(12.0 * (0.5 + 0.5 / 4) ** 0.5)


def test_without_a_fitted_correlation_separate_pictures_narrow_nothing(tmp_path: Path) -> None:
    write_engines(tmp_path, {"a": Tiny()})
    with AgeMoE(tmp_path) as moe:
        assert moe.correlation is None
        assert moe.predict_person([gray(9), gray(10)], separate=True).correlation is None


def test_no_usable_picture_is_an_error(engines: Path) -> None:
    with AgeMoE(engines) as moe:
        for pictures in ([], [b"x"], [b"x", b"y"]):
            with pytest.raises(NoUsablePictureError):
                moe.predict_person(pictures)
        with pytest.raises(DeadlineError):
            moe.predict_person([gray(9)], deadline_ms=1e-6)


def test_the_face_is_found_in_each_picture(engines: Path) -> None:
    given = Face(spot(140), (20, 20, 20, 20))
    pictures: list[FaceLike] = [spot(100), spot(), spot(120, 120), b"x", given]
    with AgeMoE(engines, detector=Brightest()) as moe:
        person = moe.predict_person(pictures, find=True)
        alone = moe.predict(Face(spot(100), (20, 20, 20, 20)))
    first, none, two, broken, last = (frame.result for frame in person.frames)
    assert first == alone
    assert isinstance(none, FaceCountError)
    assert str(none) == "No face was found in the picture."
    assert isinstance(two, ManyFacesError)
    assert "2 faces" in str(two)
    assert isinstance(broken, ImageError)
    assert isinstance(last, AgeEstimate)
    assert person.age_years == pytest.approx(120 * 90 / 255, abs=0.2)


def test_the_largest_face_is_taken_only_if_it_is_clear() -> None:
    boxes = ((0.0, 0.0, 10.0, 10.0), (50.0, 0.0, 20.0, 20.0), (90.0, 0.0, 5.0, 5.0))
    small, large, tiny = (FoundFace(box) for box in boxes)
    assert main_face([small]) == (small, ())
    face, notes = main_face([small, large, tiny])
    assert (face, notes) == (large, ("the largest of several faces in the picture was taken",))
    half = FoundFace((0.0, 0.0, 20.0, 10.0))
    with pytest.raises(FaceCountError, match="3 faces"):
        main_face([half, large, tiny])
    with pytest.raises(FaceCountError, match="No face"):
        main_face([])


def thirty() -> FakePredictor:
    """Predicts 30 years for every face."""
    return FakePredictor(lambda _: AgeEstimate(30.0, {}))


@pytest.mark.parametrize(("max_pixels", "batches"), [(10_000_000, [5]), (5000, [2, 2, 1])])
def test_few_pixels_wait_for_the_experts(max_pixels: int, batches: Sequence[int]) -> None:
    predictor = thirty()  # a picture has 3,600 pixels
    found = predict_main_faces(
        predictor,
        [spot(99)] * 2 + [spot(99), spot(), spot(99), spot(99)],
        detector=Brightest(),
        limits=ImageLimits(max_pixels=max_pixels),
    )
    assert predictor.batches == batches
    assert [isinstance(result, AgeEstimate) for result in found] == [True] * 3 + [False] + [
        True
    ] * 2


def test_others_in_a_picture_are_noted() -> None:
    boxes = [(0.0, 0.0, 40.0, 40.0), (60.0, 0.0, 20.0, 20.0)]
    (found,) = predict_main_faces(
        thirty(), [np.zeros((60, 100, 3), np.uint8)], detector=GivenBoxes(boxes)
    )
    assert isinstance(found, AgeEstimate)
    assert found.notes == ("the largest of several faces in the picture was taken",)


def test_the_deadline_ends_the_search() -> None:
    predictor = thirty()
    with pytest.raises(DeadlineError):
        predict_main_faces(predictor, [spot(9)], detector=Brightest(), deadline_ms=1e-6)
    assert predictor.batches == []
