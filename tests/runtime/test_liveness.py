"""Liveness: made-up models against a twin in float64, and what is refused before the experts."""

from __future__ import annotations

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import (
    AgeEstimate,
    AgeMoE,
    BackendError,
    BoxError,
    Face,
    GivenBoxes,
    Liveness,
    LivenessError,
    LivenessFileError,
    OnnxLiveness,
    Policy,
    QualityError,
    QualityLimits,
)
from runtime.__main__ import main
from runtime.executor import Executor
from runtime.geometry import Pixels
from runtime.liveness_model import read_liveness
from runtime.serving.problems import problem_of
from tests.hostile_paths import hostile_paths
from tests.runtime.liveness_models import toml, twin_values, write_description, write_model
from tests.runtime.test_landmarks import ALIGN, BOX, POINTS, BoxesOnly
from tests.runtime.tiny_engines import Tiny, write_engines

pytestmark = pytest.mark.usefixtures("no_thread_left")
SQUARE = (10.0, 20.0, 32.0, 32.0)


def noise(seed: int = 1, height: int = 120, width: int = 100) -> NDArray[np.uint8]:
    """Returns noise with another brightness in each channel and at each place."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(0.2, 1.0, width)[:, np.newaxis] * np.array([1.0, 0.6, 0.3])
    pixels: NDArray[np.uint8] = (rng.integers(0, 256, (height, width, 3)) * slope).astype(np.uint8)
    return pixels


def softmax(values: list[float], column: int) -> float:
    return math.exp(values[column]) / sum(map(math.exp, values))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("color_order", ["RGB", "BGR"])
@pytest.mark.parametrize("column", [0, 1])
def test_a_score_is_that_of_a_twin(
    tmp_path: Path, layout: str, color_order: str, column: int
) -> None:
    model = write_model(tmp_path / "m.onnx", layout=layout)
    normal: dict[str, Any] = {"scale": 1 / 127.5, "mean": [1.0, 0.5, 0.25], "std": [0.5, 1.0, 2.0]}
    options = {**normal, "layout": layout, "color_order": color_order, "column": column}
    check = OnnxLiveness(write_description(model, **options))
    image = noise()
    found = check.check(image, Face(image, SQUARE))
    values = twin_values(image[20:52, 10:42], **normal, bgr=color_order == "BGR")
    assert found.score == pytest.approx(softmax(values, column), abs=1e-5)
    assert found.live == (found.score >= 0.5)
    assert found.provenance == check.provenance


def test_the_crop_has_the_margins_of_the_description(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.onnx", side=64)
    geometry = {"crop_margin": 0.5, "interpolation": "opencv_area"}
    check = OnnxLiveness(write_description(model, input_size=64, geometry=geometry))
    image = noise()
    found = check.check(image, Face(image, (30.0, 40.0, 32.0, 32.0)))
    values = twin_values(image[24:88, 14:78])
    assert found.score == pytest.approx(softmax(values, 0), abs=1e-5)
    shifted = {**geometry, "offset": [0.25, -0.5]}
    check = OnnxLiveness(write_description(model, input_size=64, geometry=shifted))
    found = check.check(image, Face(image, (30.0, 40.0, 32.0, 32.0)))
    assert found.score == pytest.approx(softmax(twin_values(image[8:72, 22:86]), 0), abs=1e-5)


@pytest.mark.parametrize("inverted", [False, True])
def test_a_sigmoid_and_its_inverse(tmp_path: Path, *, inverted: bool) -> None:
    model = write_model(tmp_path / "m.onnx", weights=[(9.0, -9.0, 1.0)], bias=[0.5])
    options = {"head": "sigmoid", "inverted": inverted, "threshold": 0.6}
    check = OnnxLiveness(write_description(model, **options))
    lives = set()
    for seed in range(8):
        image = np.roll(noise(seed), seed, axis=2)
        (value,) = twin_values(image[20:52, 10:42], weights=[(9.0, -9.0, 1.0)], bias=[0.5])
        score = 1.0 / (1.0 + math.exp(-value))
        found = check.check(image, Face(image, SQUARE))
        assert found.score == pytest.approx(1.0 - score if inverted else score, abs=1e-5)
        assert found.live == (found.score >= 0.6)
        lives.add(found.live)
    assert lives == {True, False}


def test_probabilities_are_taken_as_they_are(tmp_path: Path) -> None:
    weights = [(1.0, 0.0, 0.0), (-1.0, 0.0, 0.0)]
    model = write_model(tmp_path / "m.onnx", weights=weights, bias=[0.0, 1.0])
    check = OnnxLiveness(write_description(model, probabilities=True))
    image = noise()
    red = float(np.mean(image[20:52, 10:42, 0]))
    assert check.check(image, Face(image, SQUARE)).score == pytest.approx(red / 255.0, abs=1e-5)


def test_values_that_are_no_probabilities_give_no_score(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.onnx", weights=[(9.0, 9.0, 9.0)], bias=[0.0])
    check = OnnxLiveness(write_description(model, probabilities=True, head="sigmoid"))
    image = noise()
    assert math.isnan(check.check(image, Face(image, SQUARE)).score)
    assert not check.check(image, Face(image, SQUARE)).live


def test_extreme_values_do_not_overflow(tmp_path: Path) -> None:
    for head, weights in (("softmax", [(1e6,) * 3, (-1e6,) * 3]), ("sigmoid", [(-1e6,) * 3])):
        model = write_model(tmp_path / "m.onnx", weights=weights, bias=[0.0] * len(weights))
        image = noise()
        found = OnnxLiveness(write_description(model, head=head)).check(image, Face(image, SQUARE))
        assert found.score == (1.0 if head == "softmax" else 0.0)


def test_one_of_several_outputs_is_named(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.onnx", outputs=("first", "second"))
    OnnxLiveness(write_description(model, output="second"))
    for output in (None, "third"):
        with pytest.raises(BackendError, match="outputs first, second; the description names"):
            OnnxLiveness(write_description(model, output=output))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"input_size": 48}, r"its input is .*\['N', 3, 32, 32\], expected .*\[1, 3, 48, 48\]"),
        ({"input_size": [32, 48]}, r"expected .*\[1, 3, 32, 48\]"),
        ({"layout": "NHWC"}, r"expected .*\[1, 32, 32, 3\]"),
        ({"column": 2}, r"shape \(1, 2\) for one face; column is 2"),
        ({"sha256": "ab" * 32}, "has SHA-256"),
        ({"checkpoint": "none.onnx"}, "cannot be read"),
        ({"checkpoint": "."}, "is a folder, expected a file"),
    ],
)
def test_a_model_that_is_not_as_described_is_refused(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    model = write_model(tmp_path / "m.onnx")
    with pytest.raises(BackendError, match=problem):
        OnnxLiveness(write_description(model, **changes))


def test_other_files_are_refused(tmp_path: Path) -> None:
    for data in (b"", b"garbage", bytes(10_000)):
        (tmp_path / "m.onnx").write_bytes(data)
        with pytest.raises(BackendError, match="does not fit its description"):
            OnnxLiveness(write_description(tmp_path / "m.onnx"))


def test_a_batch_as_large_as_one_is_accepted(tmp_path: Path) -> None:
    OnnxLiveness(write_description(write_model(tmp_path / "m.onnx", rows="1")))
    with pytest.raises(BackendError, match="does not fit its description"):
        OnnxLiveness(write_description(write_model(tmp_path / "m.onnx", rows="2")))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sha256": None}, "sha256: missing"),
        ({"threshold": None}, "threshold: missing"),
        ({"color_order": None}, "color_order: missing"),
        ({"scale": None}, "scale: missing"),
        ({"head": None}, "head: missing"),
        ({"column": None}, "column: missing"),
        ({"sha256": "AB" * 32}, "sha256: must be 64 hex digits"),
        ({"threshold": 0.0}, "threshold: must be above 0 and at most 1, got 0"),
        ({"threshold": 1.5}, "threshold: must be above 0"),
        ({"std": [1.0, 0.0, 1.0]}, "std: must be positive"),
        ({"mean": [1.0]}, "mean: must hold 3 values, got 1"),
        ({"column": -1}, "column: must be at least 0"),
        ({"input_size": 8}, r"input_size\[0\]: must be within 16..4096"),
        ({"input_size": [64]}, "input_size: must hold 2 values"),
        ({"input_size": True}, "input_size: must be a list"),
        ({"head": "regression"}, "head: must be one of softmax, sigmoid"),
        ({"color_order": "GRAY"}, "color_order: must be one of RGB, BGR"),
        ({"thresold": 0.5}, "unknown key thresold"),
        ({"geometry": {"erase_face": True}}, "geometry: unknown key erase_face"),
        ({"geometry": {"crop_margin": 11}}, r"geometry.crop_margin: must be within 0..10"),
        ({"geometry": {"fit": "align"}}, "geometry.template: is needed"),
        ({"geometry": 3}, "geometry: must be an object"),
    ],
)
def test_a_wrong_description_is_refused(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    path = write_description(write_model(tmp_path / "m.onnx"), **changes)
    with pytest.raises(LivenessFileError, match=problem):
        read_liveness(path)


def test_all_problems_of_a_description_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "liveness.toml"
    path.write_text(toml({"checkpoint": 3, "layout": "HWC", "unknown": 1}), encoding="utf-8")
    with pytest.raises(LivenessFileError) as found:
        read_liveness(path)
    assert len(found.value.problems) == 10


def test_hostile_descriptions_are_refused(tmp_path: Path) -> None:
    for what, path in hostile_paths(tmp_path).items():
        with pytest.raises(LivenessFileError) as found:
            read_liveness(path)
        assert all(line.isprintable() for line in str(found.value).splitlines()), what
    deep = tmp_path / "deep.toml"
    for text in ("a = " + "[" * 20_000, "a" + ".a" * 20_000 + " = 1", "x = 1\n" * 20_000, "a"):
        deep.write_text(text, encoding="utf-8")
        with pytest.raises(LivenessFileError, match=r"cannot be read|unknown key"):
            read_liveness(deep)


def test_many_threads_get_the_same_scores(tmp_path: Path) -> None:
    check = OnnxLiveness(write_description(write_model(tmp_path / "m.onnx")))
    images = [noise(seed) for seed in range(16)]
    alone = [check.check(image, Face(image, SQUARE)) for image in images]
    with ThreadPoolExecutor(8) as pool:
        assert (
            list(pool.map(lambda image: check.check(image, Face(image, SQUARE)), images)) == alone
        )


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
    path = write_description(write_model(tmp_path / "m.onnx"), geometry=geometry)
    image = noise(height=400, width=400)
    with AgeMoE(engines, liveness=OnnxLiveness(path)) as moe:
        with pytest.raises(LivenessError, match="landmarks of this one are unknown"):
            moe.predict(Face(image, BOX))
        assert not isinstance(moe.predict([Face(image, BOX, landmarks=POINTS)])[0], BoxError)


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
