"""Liveness by a given ONNX file: scores against a twin in float64, and invalid descriptions."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import BackendError, Face, LivenessFileError, OnnxLiveness
from runtime.liveness_model import read_liveness
from tests.hostile_paths import hostile_paths
from tests.runtime.liveness_models import (
    SQUARE,
    noise,
    toml,
    twin_values,
    write_description,
    write_model,
)


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
