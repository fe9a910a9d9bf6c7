"""Liveness: what is refused before the experts, and how a check is asked."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import (
    AgeEstimate,
    AgeMoE,
    BoxError,
    Face,
    GivenBoxes,
    Liveness,
    LivenessError,
    OnnxLiveness,
    Policy,
    QualityError,
    QualityLimits,
)
from runtime.__main__ import main
from runtime.executor import Executor
from runtime.geometry import Pixels
from runtime.serving.problems import problem_of
from tests.runtime.liveness_models import SQUARE, noise, write_description, write_model
from tests.runtime.test_landmarks import ALIGN, BOX, POINTS, BoxesOnly
from tests.runtime.tiny_engines import Tiny, write_engines

pytestmark = pytest.mark.usefixtures("no_thread_left")


@dataclass
class Answering:
    """A check that gives one answer, or raises it, and keeps what it was asked."""

    answer: Any

    def __post_init__(self) -> None:
        self.asked: list[tuple[Pixels, Face]] = []

    def check(self, image: Pixels, face: Face) -> Liveness:
        self.asked.append((image, face))
        if isinstance(self.answer, BaseException):
            raise self.answer
        found: Liveness = self.answer
        return found


LIVE, FAKE = Liveness(0.9, True, "made up"), Liveness(0.1, False, "made up")


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_engines(tmp_path_factory.mktemp("engines"), {"a": Tiny()})


def test_a_live_face_has_the_age_that_it_has_without_a_check(engines: Path) -> None:
    image = noise()
    faces = [Face(image, SQUARE), Face(image, (40.0, 10.0, 30.0, 50.0))]
    with AgeMoE(engines) as plain, AgeMoE(engines, liveness=Answering(LIVE)) as checked:
        assert checked.predict(faces) == plain.predict(faces)


@pytest.mark.parametrize(
    ("answer", "message", "score"),
    [
        (FAKE, "its score is too low", 0.1),
        (Liveness(math.nan, True, "x"), "the check gave no valid answer", math.nan),
        (Liveness(math.inf, True, "x"), "the check gave no valid answer", math.inf),
        (Liveness(0.9, "yes", "x"), "the check gave no valid answer", 0.9),  # type: ignore[arg-type]
        (Liveness(0.9, 1, "x"), "the check gave no valid answer", 0.9),  # type: ignore[arg-type]
        (None, r"the check failed \(AttributeError\)", None),
        (True, r"the check failed \(AttributeError\)", None),
        (RuntimeError("secret"), r"the check failed \(RuntimeError\)", None),
        (MemoryError(), r"the check failed \(MemoryError\)", None),
        (LivenessError("a mask"), "a mask", None),
    ],
)
def test_what_is_not_live_is_refused_before_the_experts(
    engines: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, message: str, score: float | None
) -> None:
    with AgeMoE(engines, liveness=Answering(answer)) as moe:
        monkeypatch.setattr(Executor, "run", lambda *_: pytest.fail("the experts ran"))
        with pytest.raises(LivenessError, match=message) as found:
            moe.predict(Face(noise(), SQUARE))
    assert found.value.score == pytest.approx(score, nan_ok=True)
    assert "secret" not in str(found.value)
    assert "0.1" not in str(found.value)
    problem = problem_of(found.value)
    assert (problem.status, problem.slug) == (422, "liveness")
    decision = Policy(uncalibrated=True).decide(found.value)
    assert (decision.outcome, [r.code for r in decision.reasons]) == ("refer", ["not_live"])


def test_np_booleans_are_answers(engines: Path) -> None:
    found = Liveness(0.9, np.bool_(True), "x")  # type: ignore[arg-type]
    with AgeMoE(engines, liveness=Answering(found)) as moe:
        assert isinstance(moe.predict(Face(noise(), SQUARE)), AgeEstimate)


def test_each_face_of_a_batch_is_judged_by_itself(tmp_path: Path, engines: Path) -> None:
    model = write_model(tmp_path / "m.onnx", weights=[(8.0, 0.0, 0.0)], bias=[-4.0])
    check = OnnxLiveness(write_description(model, head="sigmoid"))
    dark, bright = noise() // 4, np.full((120, 100, 3), 220, np.uint8)
    with AgeMoE(engines, liveness=check) as moe:
        results = moe.predict([Face(image, SQUARE) for image in (dark, bright, dark, bright)])
    kinds = [LivenessError, AgeEstimate, LivenessError, AgeEstimate]
    assert [type(result) for result in results] == kinds


def test_the_check_is_asked_once_with_what_is_known_of_the_face(tmp_path: Path) -> None:
    tiny = Tiny(side=64, geometry=ALIGN)
    check = Answering(LIVE)
    detector = BoxesOnly()
    folder = write_engines(tmp_path / "engines", {"a": tiny})
    image = noise(height=400, width=400)
    with AgeMoE(folder, liveness=check, detector=detector) as moe:
        moe.predict(Face(image, BOX, landmarks=POINTS))
    ((pixels, face),) = check.asked
    assert np.array_equal(pixels, image)
    assert (face.box, face.landmarks) == (BOX, POINTS)


def test_without_a_visible_face_there_is_no_age(engines: Path) -> None:
    check = Answering(LIVE)
    with (
        AgeMoE(engines, liveness=check) as moe,
        pytest.raises(LivenessError, match="no face is visible"),
    ):
        moe.predict(Face(noise(), person_box=SQUARE))
    assert check.asked == []


def test_a_face_below_the_quality_limits_is_not_checked(engines: Path) -> None:
    check = Answering(LIVE)
    limits = QualityLimits(min_face_pixels=500.0)
    with AgeMoE(engines, liveness=check, quality=limits) as moe, pytest.raises(QualityError):
        moe.predict(Face(noise(), SQUARE))
    assert check.asked == []


def test_an_invalid_box_is_that_error(tmp_path: Path, engines: Path) -> None:
    check = OnnxLiveness(write_description(write_model(tmp_path / "m.onnx")))
    with AgeMoE(engines, liveness=check) as moe, pytest.raises(BoxError):
        moe.predict(Face(noise(), (500.0, 500.0, 10.0, 10.0)))


def test_photographs_are_checked_face_by_face(engines: Path) -> None:
    boxes = GivenBoxes([SQUARE, (60.0, 60.0, 30.0, 30.0)])
    with AgeMoE(engines, liveness=Answering(FAKE)) as moe:
        found = moe.predict_photo(noise(), detector=boxes)
    assert [type(face.error) for face in found] == [LivenessError, LivenessError]


def test_a_face_without_landmarks_is_not_aligned_by_average_ones(
    tmp_path: Path, engines: Path
) -> None:
    template = [[10.0, 12.0], [22.0, 12.0], [16.0, 18.0], [11.0, 24.0], [21.0, 24.0]]
    geometry = {"fit": "align", "template": template, "interpolation": "opencv_bilinear"}
    path = write_description(write_model(tmp_path / "m.onnx"), geometry=geometry, threshold=1e-6)
    image = noise(height=400, width=400)
    with AgeMoE(engines, liveness=OnnxLiveness(path)) as moe:
        with pytest.raises(LivenessError, match="landmarks of this one are unknown"):
            moe.predict(Face(image, BOX))
        assert isinstance(moe.predict(Face(image, BOX, landmarks=POINTS)), AgeEstimate)


def test_the_command_refuses_what_is_not_live(
    tmp_path: Path, engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    Image.fromarray(noise()).save(tmp_path / "face.png")
    model = write_model(tmp_path / "m.onnx", weights=[(0.0, 0.0, 0.0)], bias=[0.0])
    common = ["predict", "--engines", str(engines), "--whole", "--accept-no-face"]
    common += [str(tmp_path / "face.png"), "--liveness"]
    path = write_description(model, head="sigmoid", threshold=0.5)
    assert main([*common, str(path)]) == 0
    path = write_description(model, head="sigmoid", threshold=0.51)
    assert main([*common, str(path)]) == 1
    error = capsys.readouterr().err
    assert "not accepted as that of a live person: its score is too low" in error
    assert main([*common, str(tmp_path / "none.toml")]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_the_example_of_the_documentation_works(tmp_path: Path, engines: Path) -> None:
    document = (Path(__file__).parents[2] / "docs" / "liveness.md").read_text(encoding="utf-8")
    code = document.partition("```python\n# make_example.py\n")[2].partition("```")[0]
    (tmp_path / "make_example.py").write_text(code, encoding="utf-8")
    subprocess.run([sys.executable, "make_example.py"], cwd=tmp_path, check=True)
    bright, dark = (np.full((90, 90, 3), value, np.uint8) for value in (200, 40))
    with AgeMoE(engines, liveness=OnnxLiveness(tmp_path / "liveness.toml")) as moe:
        results = moe.predict([Face(bright, SQUARE), Face(dark, SQUARE)])
    assert [type(result) for result in results] == [AgeEstimate, LivenessError]
