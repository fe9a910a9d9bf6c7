"""Builds that fail parity name the layer; `keep_fp32` cures it; `diagnose` shows all layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from export import diagnose
from export.build import layerwise, parity
from export.build.differences import Tolerance
from export.build.keys import build_key, expert_fingerprint
from export.build.options import BuildOptions, resolve_options
from export.build.pipeline import BuildReport, build
from export.diagnosis.report import Diagnosis
from export.errors import ExportError
from export.variants.fp16 import tensor_types
from runtime.errors import BackendError
from tests.export import tiny_onnx
from tests.export.test_pipeline import Quiet

OVERFLOWING = ("c", "r", "g", "f", "logits")
"""The convolution that exceeds half precision, and the layers that read what exceeds it."""
Built = tuple[Path, BuildReport]


def given(folder: Path, *kept: str) -> BuildOptions:
    """Options for a network whose convolution exceeds half precision, and its last layer mends."""
    tiny = tiny_onnx.Tiny(4)
    tiny.weights["w"] *= np.float32(2e4)
    tiny.weights["hw"] /= np.float32(2e4)
    tensors = [*tiny.tensors(), numpy_helper.from_array(np.full((4, 1), 0.25, np.float32), "k")]
    last = [helper.make_node("MatMul", ["logits", "k"], ["out"], "last")]
    tiny_onnx.save(tiny_onnx.model(tensors, tiny_onnx.body(last), batch="n"), folder)
    table: dict[str, object] = {"input_size": 32, "head": "regression", **tiny_onnx.UNIT}
    path = tiny_onnx.toml(folder, table | ({"keep_fp32": list(kept)} if kept else {}))
    return resolve_options(output=folder / "engines", experts_file=path, fp16=True)


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("failed")
    return folder, build(given(folder), Quiet())


@pytest.fixture(scope="module")
def cured(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("cured")
    return folder, build(given(folder, *OVERFLOWING), Quiet())


def test_a_refused_variant_names_the_layer_and_the_remedy(failed: Built) -> None:
    ((refused,),) = (row.refused for row in failed[1].rows)
    assert "First layer that diverges: 'c' (Conv, 20x8x15x15, float16) loses" in refused
    assert "ages are NaN that are numbers in FP32" in refused
    assert f"keep_fp32 = {list(OVERFLOWING)}" in refused
    assert "SNR dB" not in refused  # the table is for --diagnose


def test_diagnose_adds_the_table(failed: Built, tmp_path: Path) -> None:
    report = build(replace(given(tmp_path), diagnose=True), Quiet())
    lines = report.rows[0].refused[0].split("\n")
    assert any(line.startswith("* c ") for line in lines)
    assert lines[-1].split()[:2] == ["age_years", "Add"]
    assert lines[0] == failed[1].rows[0].refused[0].split("\n")[0]


def test_the_remedy_cures(cured: Built) -> None:
    folder, report = cured
    assert report.rows[0].refused == ()
    types = tensor_types(folder / "engines/mine/mine.fp16.onnx")
    assert {types[name] for name in OVERFLOWING} == {"fp32"}
    assert types["out"] == "fp16"


def test_keep_fp32_rebuilds_fp16_alone(tmp_path: Path) -> None:
    options = given(tmp_path, "c")
    (with_it,), (other,) = options.experts, given(tmp_path).experts
    assert build_key(with_it, options, "fp32", "x") == build_key(other, options, "fp32", "x")
    assert build_key(with_it, options, "fp16", "x") != build_key(other, options, "fp16", "x")
    assert expert_fingerprint(with_it, "x") == expert_fingerprint(other, "x")


def test_an_unknown_layer_is_an_error_with_a_suggestion(tmp_path: Path) -> None:
    report = build(given(tmp_path, "agemoe/unit"), Quiet())
    (refused,) = report.rows[0].refused
    assert "keep_fp32 names 'agemoe/unit', which is no layer of mine.fp32.onnx" in refused
    assert "agemoe/units" in refused


def run(cured: Built, *arguments: str) -> int:
    return diagnose.main([*arguments, "--engines", str(cured[0] / "engines")])


def test_the_command_compares_every_variant(
    cured: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cured) == 0
    brief = capsys.readouterr().out
    assert "mine fp16 (onnx): 14 layers, 20 faces; the ages differ from FP32 by 0.0" in brief
    assert "no layer is to blame" in brief
    assert "Some layers, --all shows all" in brief
    assert (
        run(cured, "mine", "mine", "--precision", "fp16", "--all", "--memory-gib", "0.00001") == 0
    )
    whole = capsys.readouterr().out
    assert whole.count("mine fp16 (onnx)") == 1  # though it is named twice
    rows = [line.split()[0] for line in whole.split("order of computing:\n")[1].splitlines()[1:]]
    assert len(rows) == 14
    assert rows.index("c") < rows.index("r") < rows.index("age_years")


def test_comparing_nothing_is_an_error(
    cured: Built, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(*_: object) -> Diagnosis:
        raise BackendError("this CPU has no VNNI")

    monkeypatch.setattr(diagnose, "diagnose_variant", unable)
    assert run(cured) == 1
    assert "this CPU has no VNNI" in capsys.readouterr().err


def test_beyond_the_tolerance_the_status_is_1(
    cured: Built, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(parity.TOLERANCES, "fp16", Tolerance(1e-9, 1e-9, 1e-9))
    assert run(cured) == 1
    assert "No single layer stands out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mime",), "mime: no such expert; there are mine. Did you mean 'mine'?"),
        (("--precision", "fp32"), "FP32 is what the others are compared with"),
        (("--precision", "int8"), "there is no int8 variant to compare with FP32; build it first"),
        (("--target", "tensorrt"), "--target tensorrt: TensorRT is not installed"),
    ],
)
def test_what_cannot_be_compared_is_an_error(
    cured: Built, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run(cured, *arguments) == 1
    assert message in capsys.readouterr().err


def test_a_failing_diagnosis_does_not_hide_the_parity_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(*_: object, **__: object) -> Diagnosis:
        raise ExportError("out of luck")

    monkeypatch.setattr(layerwise, "diagnose", fails)
    (refused,) = build(given(tmp_path), Quiet()).rows[0].refused
    assert "half-precision tensors overflow" in refused
    assert "Its layers could not be compared: out of luck" in refused
