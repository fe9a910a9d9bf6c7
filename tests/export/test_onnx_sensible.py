"""Files that are read wrongly: refused or pointed out, with the setting that is right."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from export.build_engines import main
from runtime.manifest_file import read_manifest
from tests.export.tiny_onnx import SIDE, Tiny, body, model, save, toml

SOFTMAX = helper.make_node("Softmax", ["logits"], ["out"], "softmax", axis=1)
SIGMOID = helper.make_node("Sigmoid", ["logits"], ["out"], "sigmoid")


def build(folder: Path, *arguments: str, **table: Any) -> tuple[int, str]:
    """Builds the given file of a folder; returns the exit status and what was printed."""
    file = toml(folder, {"input_size": SIDE, **table})
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        engines = str(folder / "engines")
        options = ["--experts", str(file), "--output", engines, "--target", "onnx"]
        status = main([*options, *arguments])
    return status, " ".join(output.getvalue().split())


def given(folder: Path, tiny: Tiny, *last: Any) -> None:
    save(model(tiny.tensors(), body(last)), folder)


def test_probabilities_read_as_logits(tmp_path: Path) -> None:
    given(tmp_path, Tiny(101), SOFTMAX)
    status, text = build(tmp_path)
    assert status == 1
    assert "output 'out' already holds probabilities" in text
    assert "Give probabilities = true" in text
    assert build(tmp_path, probabilities=True)[0] == 0


def test_sigmoids_read_as_class_probabilities(tmp_path: Path) -> None:
    given(tmp_path, Tiny(100), SIGMOID)
    status, text = build(tmp_path, age_grid="1..100", probabilities=True)
    assert status == 1
    assert "each face's should add up to 1" in text
    assert "give head = 'ordinal'" in text
    status, text = build(tmp_path, head="ordinal", first_age=1, probabilities=True)
    assert status == 0, text


def test_sigmoids_read_as_logits_of_classes(tmp_path: Path) -> None:
    given(tmp_path, Tiny(101, scale=4), SIGMOID)
    status, text = build(tmp_path)
    assert status == 1
    assert "output 'out' does not hold logits: all values lie within 0..1" in text
    assert "give head = 'ordinal' and probabilities = true" in text


def test_percent_read_as_logits_of_classes(tmp_path: Path) -> None:
    tiny = Tiny(101, scale=4)
    softmax = helper.make_node("Softmax", ["logits"], ["shares"], "softmax", axis=1)
    percent = helper.make_node("Mul", ["shares", "hundred"], ["out"], "percent")
    hundred = numpy_helper.from_array(np.array(100, np.float32), "hundred")
    save(model([*tiny.tensors(), hundred], body((softmax, percent))), tmp_path)
    status, text = build(tmp_path)
    assert status == 1
    assert "each face's add up to 100, as scaled probabilities do" in text


def test_logits_read_as_probabilities(tmp_path: Path) -> None:
    given(tmp_path, Tiny(101, scale=4))
    status, text = build(tmp_path, probabilities=True)
    assert status == 1
    assert "leave `probabilities` out" in text


def test_ordinal_heads_and_their_probabilities(tmp_path: Path) -> None:
    given(tmp_path, Tiny(100, scale=4), SIGMOID)
    status, text = build(tmp_path, head="ordinal")
    assert status == 1
    assert "all values lie within 0..1" in text
    given(tmp_path, Tiny(100, scale=4))
    status, text = build(tmp_path, head="ordinal", probabilities=True)
    assert status == 1
    assert "leave `probabilities` out" in text
    status, text = build(tmp_path, head="ordinal", age_grid="1..90")
    assert status == 1
    assert "has 89. Leave out `age_grid` and give `first_age`" in text
    given(tmp_path, Tiny(101), SOFTMAX)
    status, text = build(tmp_path, head="ordinal", probabilities=True)
    assert status == 1
    assert "Give head = 'expectation' and probabilities = true" in text


def test_pairs_and_their_probabilities(tmp_path: Path) -> None:
    tiny = Tiny(200, scale=4)
    shape = numpy_helper.from_array(np.array([-1, 100, 2]), "s")
    view = helper.make_node("Reshape", ["logits", "s"], ["view"], "view")
    last = helper.make_node("Softmax", ["view"], ["out"], "softmax", axis=2)
    save(model([*tiny.tensors(), shape], body([view, last])), tmp_path)
    status, text = build(tmp_path, head="ordinal", pairs=True)
    assert status == 1
    assert "each pair adds up to 1" in text
    assert build(tmp_path, head="ordinal", pairs=True, probabilities=True)[0] == 0
    given(tmp_path, tiny)
    status, text = build(tmp_path, head="ordinal", pairs=True, probabilities=True)
    assert status == 1
    assert "does not hold pairs of probabilities" in text
    given(tmp_path, Tiny(201))
    assert "even number" in build(tmp_path, head="ordinal", pairs=True)[1]


def test_ages_that_are_none(tmp_path: Path) -> None:
    given(tmp_path, Tiny(1))
    status, text = build(tmp_path, head="regression", years_per_unit=9000.0)
    assert status == 1
    assert "verification faces are not ages" in text
    assert "years_per_unit" in text


def test_every_face_of_the_same_age_is_a_warning_that_stays(tmp_path: Path) -> None:
    tiny = Tiny(1)
    tiny.weights["hw"] *= 0.001
    given(tmp_path, tiny)
    table = {"head": "regression", "years_offset": 40.0}
    status, text = build(tmp_path, **table)
    assert status == 0
    assert "warning: mine: every verification face gets the same age" in text
    expert = read_manifest(tmp_path / "engines").experts["mine"]
    assert "the same age" in expert.details["warnings"][0]
    status, text = build(tmp_path, **table)
    assert "Everything was up to date" in text
    assert "warning: mine: every verification face gets the same age" in text
    given(tmp_path, Tiny(1))
    status, text = build(tmp_path, **table, years_per_unit=10.0)
    assert "warning" not in text


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    tiny = Tiny(1)
    tiny.weights["hb"][0] = np.nan
    given(tmp_path, tiny)
    status, text = build(tmp_path, head="regression")
    assert status == 1
    assert "is NaN or infinite for a verification face" in text


def test_columns_that_do_not_exist(tmp_path: Path) -> None:
    given(tmp_path, Tiny(3))
    assert (
        "column reads number 3, counted from 0" in build(tmp_path, head="regression", column=3)[1]
    )
    assert "Give `column` (0 to 2)" in build(tmp_path, head="regression")[1]
    assert "`age_grid` has 101 ages" in build(tmp_path)[1]
    text = build(tmp_path, columns="0..5", age_grid="0..5")[1]
    assert "columns reads number 5, counted from 0" in text


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"age_grid": "0..99999999999"}, "age_grid: must be like"),
        ({"age_grid": "0.." + "9" * 5000}, "age_grid: must be like"),
        ({"age_grid": [0, 1e12]}, "age_grid: must lie within 0..200 years"),
        ({"age_grid": list(range(3000))}, "age_grid: must hold 2 to 2001 different ages"),
        ({"age_grid": [1, 2, 1]}, "age_grid: must hold 2 to 2001 different ages"),
        ({"head": "ordinal", "age_grid": [2, 1]}, "age_grid: must increase"),
        (
            {"head": "ordinal", "first_age": 0, "age_grid": "0..9"},
            "first_age: contradicts age_grid",
        ),
        ({"first_age": 0}, "first_age: needs head = 'ordinal'"),
        ({"pairs": True}, "pairs: needs head = 'ordinal'"),
        ({"column": 2}, "column: head = 'expectation' has 'columns' instead"),
        ({"head": "regression", "columns": "1..2"}, "columns: head = 'regression' has 'column'"),
        ({"columns": "3..2"}, "columns: must be like"),
        ({"columns": "1.." + "9" * 5000}, "columns: must be like"),
        ({"head": "regression", "column": -1}, "column: must be a whole number"),
        ({"head": "regression", "class_order": "text"}, "class_order: belongs to head"),
        ({"head": "ordinal", "years_offset": 1.0}, "years_offset: belongs to head = 'regression'"),
        ({"color_order": "GRAY"}, "mean: missing; gray inputs have no default"),
        ({"color_order": "GRAY", "mean": [0.1, 0.2], "std": 1}, "mean: must be a finite number"),
        ({"color_order": "GRAY", "mean": 0, "std": 0}, "std: must be positive"),
    ],
)
def test_keys_that_contradict(tmp_path: Path, table: dict[str, Any], problem: str) -> None:
    given(tmp_path, Tiny(3))
    status, text = build(tmp_path, "--plan", **table)
    assert status == 1
    assert f"experts.mine.{problem}" in text


def test_ages_of_janus_are_bounded(tmp_path: Path) -> None:
    file = tmp_path / "experts.toml"
    file.write_text("[experts.janus]\narchitecture = 'janus'\nages = '0..99999999999'\n")
    output = io.StringIO()
    with redirect_stderr(output):
        assert main(["--experts", str(file), "--weights", "random", "--plan"]) == 1
    assert "experts.janus.ages: must be like" in " ".join(output.getvalue().split())


def test_the_manifest_holds_increasing_ages_for_classes_in_any_order(tmp_path: Path) -> None:
    given(tmp_path, Tiny(100, scale=4))
    assert build(tmp_path, age_grid="1..100", class_order="text")[0] == 0
    document = json.loads((tmp_path / "engines" / "manifest.json").read_text())
    assert document["experts"]["mine"]["age_grid"] == [float(age) for age in range(1, 101)]
