"""Limits on the quality of a face, and what is refused before the experts run."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime import (
    AgeEstimate,
    AgeMoE,
    Detection,
    Face,
    FaceQuality,
    Policy,
    QualityError,
    QualityLimits,
)
from runtime.detection import enlarged
from runtime.face_measures import measured
from runtime.geometry import Pixels
from runtime.landmark_search import OTHER_BOX, Sought
from runtime.photographs import predict_photo
from runtime.results import Box, Landmarks
from tests.runtime.photo_samples import astronaut
from tests.runtime.test_landmarks import ALIGN, BOX, POINTS, BoxesOnly, Failing
from tests.runtime.tiny_engines import Tiny, write_engines

pytestmark = pytest.mark.usefixtures("no_thread_left")

GOOD = FaceQuality(120.0, 50.0, 900.0, 130.0, 60.0, 0.0, 0.0, -12.0, 3.0, 0.0, 0.9, True)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"min_face_pixels": 121}, "face size is 120 pixels, less than the required 121 pixels"),
        ({"min_inter_eye_pixels": 64}, "distance between the eyes is 50 pixels, less"),
        ({"min_sharpness": 1000}, "sharpness is 900, less than the required 1000"),
        ({"min_contrast": 61}, "contrast is 60, less"),
        ({"min_score": 0.95}, "detector's score is 0.9, less"),
        ({"max_yaw_degrees": 10}, "yaw is -12°, more than the permitted 10°"),
        ({"max_roll_degrees": 2}, "roll is 3°, more"),
    ],
)
def test_a_limit_names_what_was_found(limits: dict[str, float], words: str) -> None:
    (problem,) = QualityLimits(**limits).problems(GOOD)  # type: ignore[arg-type]
    assert words in problem


def test_values_at_a_limit_are_accepted() -> None:
    at = {"min_face_pixels": 120, "min_inter_eye_pixels": 50, "max_yaw_degrees": 12}
    assert QualityLimits(max_cut_off=0.0, max_overexposed=0.0, **at).problems(GOOD) == ()  # type: ignore[arg-type]


def test_every_problem_is_named() -> None:
    poor = replace(GOOD, face_found=False, cut_off=0.5, overexposed=0.3, underexposed=0.4)
    limits = QualityLimits(max_cut_off=0.1, max_overexposed=0.1, max_underexposed=0.1)
    problems = limits.problems(poor)
    assert len(problems) == 4
    assert "finds no face" in problems[0]


def test_a_limited_quantity_that_is_unknown_is_a_problem() -> None:
    unknown = replace(GOOD, yaw_degrees=None, inter_eye_pixels=None)
    problems = QualityLimits(max_yaw_degrees=30, min_inter_eye_pixels=20).problems(unknown)
    assert problems == (
        "the distance between the eyes is unknown, and at least 20 pixels is required",
        "the yaw is unknown, and at most 30° is required",
    )
    assert QualityLimits().problems(None) == ()
    assert len(QualityLimits(min_contrast=1.0).problems(None)) == 1


def test_by_default_only_no_face_is_refused() -> None:
    black = FaceQuality(1.0, None, 0.0, 0.0, 0.0, 1.0, 0.0, None, None, 0.9)
    assert QualityLimits().problems(black) == ()
    assert len(QualityLimits().problems(replace(black, face_found=False))) == 1
    assert QualityLimits(require_face=False).problems(replace(black, face_found=False)) == ()


@pytest.mark.parametrize(
    "wrong", [{"min_sharpness": -1.0}, {"max_cut_off": 1.5}, {"max_yaw_degrees": float("nan")}]
)
def test_limits_are_validated(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        QualityLimits(**wrong)  # type: ignore[arg-type]


class Finds:
    """Finds the astronaut's face where the region holds it, otherwise nothing."""

    provenance = "finds"

    def __init__(self, *found: Detection) -> None:
        self.found = found
        self.asked = 0

    def detect(self, image: Pixels) -> list[Detection]:
        self.asked += 1
        scale = image.shape[1] / 512, image.shape[0] / 512
        return [enlarged(one, scale) for one in self.found]


ONE = Detection(BOX, 0.8, landmarks=POINTS)


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    return write_engines(tmp_path / "engines", {"plain": Tiny(), "other": Tiny(side=16)})


def predicted(engines: Path, detector: Any, face: Face) -> list[Any]:
    with AgeMoE(engines, device="cpu", detector=detector, quality=QualityLimits()) as moe:
        return list(moe.predict([face]))


def test_no_face_is_refused_before_the_experts(engines: Path) -> None:
    with AgeMoE(engines, device="cpu", detector=Finds(), quality=QualityLimits()) as moe:
        before = moe.stats().experts["plain"].execute.count
        with pytest.raises(QualityError, match="finds no face there") as caught:
            moe.predict(astronaut())
        assert moe.stats().experts["plain"].execute.count == before
        exempt = moe.predict(Face(astronaut(), limited=False))
    assert len(caught.value.reasons) == 1
    assert copy.copy(caught.value).reasons == caught.value.reasons  # as pickling does
    assert exempt.quality is not None


def test_a_bad_face_does_not_cost_the_others(engines: Path) -> None:
    limits = QualityLimits(min_face_pixels=80, require_face=False)
    faces = [Face(astronaut(), BOX), Face(astronaut(), (100, 50, 200, 200))]
    with AgeMoE(engines, device="cpu", quality=limits) as moe:
        small, large = moe.predict(faces)
    assert isinstance(small, QualityError)
    assert isinstance(large, AgeEstimate)
    assert large.quality is not None
    assert large.quality.face_pixels == 200.0


def test_a_found_face_carries_the_detectors_word(engines: Path) -> None:
    detector = Finds(ONE)
    limits = QualityLimits(min_inter_eye_pixels=10)
    with AgeMoE(engines, device="cpu", detector=detector, quality=limits) as moe:
        (photo,) = predict_photo(moe, astronaut(), detector=detector)
        assert detector.asked == 1  # in the photograph, not again in the box
        whole = moe.predict(astronaut())
    assert photo.estimate is not None
    wanted = measured(astronaut(), BOX, POINTS, score=0.8, face_found=True)
    assert photo.estimate.quality == wanted
    assert whole.quality is not None
    assert whole.quality.to_dict() == pytest.approx(wanted.to_dict())
    assert photo.to_dict()["quality"]["inter_eye_pixels"] == pytest.approx(40.01, abs=0.01)


@pytest.mark.parametrize("landmarks", [None, POINTS])
def test_a_box_that_is_not_the_faces_is_noted_and_decides_nothing(
    engines: Path, landmarks: Landmarks | None
) -> None:
    policy = Policy(threshold=1.0, challenge=1.0, uncalibrated=True)
    face = Face(astronaut(), (0.0, 0.0, 512.0, 512.0), landmarks=landmarks)
    (estimate,) = predicted(engines, Finds(ONE), face)
    assert estimate.notes == (OTHER_BOX,)
    decision = policy.decide(estimate)
    assert (decision.outcome, decision.reasons[0].code) == ("refer", "noted")
    with AgeMoE(engines, device="cpu", detector=Finds(ONE), quality=QualityLimits()) as moe:
        assert moe.predict(astronaut()).notes == ()  # no box was given


@pytest.mark.parametrize(
    ("box", "noted"),
    [
        (None, False),
        (BOX, False),
        ((190.0, 75.0, 144.0, 95.0), False),  # twice as wide: half is shared
        ((190.0, 75.0, 145.0, 95.0), True),
        ((190.0, 75.0, 35.0, 95.0), True),
        ((190.0, 130.0, 72.0, 95.0), True),
    ],
)
def test_a_given_box_has_to_share_half_with_the_found_face(box: Box | None, noted: bool) -> None:
    assert Sought(ONE).notes_on(box) == ((OTHER_BOX,) if noted else ())
    assert Sought().notes_on(box) == ()


def test_given_landmarks_do_not_prove_a_face(engines: Path) -> None:
    face = Face(astronaut(), BOX, landmarks=POINTS)
    (refused,) = predicted(engines, Finds(), face)
    assert isinstance(refused, QualityError)
    with AgeMoE(engines, device="cpu", detector=Finds()) as moe:
        quality = moe.predict(face).quality
    assert quality is not None
    assert (quality.face_found, quality.score) == (None, None)
    assert quality.inter_eye_pixels is not None


@pytest.mark.parametrize("detector", [BoxesOnly(), Failing()])
def test_a_detector_that_cannot_tell_refuses_nothing(engines: Path, detector: Any) -> None:
    with AgeMoE(engines, device="cpu", detector=detector, quality=QualityLimits()) as moe:
        quality = moe.predict(Face(astronaut(), BOX)).quality
    assert quality is not None
    assert quality.face_found is None


def test_without_limits_the_search_for_alignment_is_reported(tmp_path: Path) -> None:
    engines = write_engines(tmp_path, {"aligned": Tiny(side=16, geometry=ALIGN)})
    with AgeMoE(engines, device="cpu", detector=Finds()) as moe:
        found = moe.predict(astronaut())
    assert found.quality is not None
    assert found.quality.face_found is False
    assert found.notes


def test_a_person_without_a_face_has_no_quality(tmp_path: Path) -> None:
    engines = write_engines(tmp_path, {"both": Tiny(inputs=("face", "person"))})
    face = Face(astronaut(), None, (100, 0, 300, 500))
    with AgeMoE(engines, device="cpu", detector=Finds(), quality=QualityLimits()) as moe:
        assert moe.predict(face).quality is None
