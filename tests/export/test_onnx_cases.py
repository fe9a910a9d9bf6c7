"""Files from public bug reports, in `cases/onnx`: each is built, or refused with the right cure."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from export.build_engines import main
from export.faces.verification import verification_images
from runtime.geometry import Geometry
from runtime.manifest import InputSpec
from runtime.manifest_file import read_manifest
from tests.export.tiny_onnx import image, sigmoid, softmax

CASES = Path(__file__).with_name("cases") / "onnx"
ROOT = Path(__file__).resolve().parents[2]
SIDE = 32


def build(folder: Path, *arguments: str) -> tuple[int, str]:
    output = io.StringIO()
    engines = str(folder / "engines")
    with redirect_stdout(output), redirect_stderr(output):
        file = str(folder / "experts.toml")
        status = main(["--experts", file, "--output", engines, "--target", "onnx", *arguments])
    return status, " ".join(output.getvalue().split())


def case(name: str, folder: Path, *, replaced: dict[str, str] | None = None) -> Path:
    """Copies a case; `replaced` changes its experts.toml."""
    target = folder / name
    shutil.copytree(CASES / name, target)
    file = target / "experts.toml"
    text = file.read_text()
    for old, new in (replaced or {}).items():
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    return target


def ages(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Ages that the engine predicts, and the last layer of the case by onnx's own evaluator."""
    faces = verification_images((InputSpec("face", SIDE, SIDE, Geometry()),))["face"]
    session = ort.InferenceSession(str(folder / "engines" / "mine" / "mine.fp32.onnx"))
    found = session.run(["age_years"], {"face": faces})[0]
    evaluator = ReferenceEvaluator(onnx.load(str(folder / "model.onnx")))
    rows = [np.asarray(evaluator.run(["out"], {"x": one[None]})) for one in image(faces)]
    return found, np.concatenate(rows, axis=1)[0]


def test_gender_and_age_in_one_vector(tmp_path: Path) -> None:
    folder = case("gender_age_vector", tmp_path, replaced={"head =": "column = 2\nhead ="})
    status, text = build(folder)
    assert status == 0, text
    found, last = ages(folder)
    np.testing.assert_allclose(found, last[:, 2] * 100, atol=0.01)
    status, text = build(case("gender_age_vector", tmp_path / "as it was"))
    assert status == 1
    assert "has 3 values per face, a head of kind 'regression' reads one. Give `column`" in text


def test_ordinal(tmp_path: Path) -> None:
    status, text = build(case("ordinal", tmp_path))
    assert status == 1
    assert "head = 'ordinal'" in text
    ordinal = {'head = "expectation"': 'head = "ordinal"'}
    for name, more in (("grid", {}), ("first", {'age_grid = "1..100"': "first_age = 1"})):
        folder = case("ordinal", tmp_path / name, replaced={**ordinal, **more})
        status, text = build(folder)
        assert status == 0, text
        found, last = ages(folder)
        np.testing.assert_allclose(found, 1 + last.sum(axis=1), atol=0.002)


def test_double_softmax(tmp_path: Path) -> None:
    status, text = build(case("double_softmax_o11", tmp_path))
    assert status == 1
    assert "already holds probabilities" in text
    folder = case(
        "double_softmax_o11", tmp_path / "right", replaced={"head": "probabilities = true\nhead"}
    )
    assert build(folder)[0] == 0
    found, last = ages(folder)
    np.testing.assert_allclose(found, last @ np.arange(101), atol=0.002)


@pytest.mark.parametrize("name", ["ir3_opset9", "frozen_reshape", "local_function", "external"])
def test_files_that_are_built(tmp_path: Path, name: str) -> None:
    folder = case(name, tmp_path)
    status, text = build(folder)
    assert status == 0, text
    found, last = ages(folder)
    wanted = last[:, 0] * 30 + 40 if last.shape[1] == 1 else softmax(last) @ np.arange(101)
    np.testing.assert_allclose(found, wanted, atol=0.002)


def test_replaced_external_data_is_built_again(tmp_path: Path) -> None:
    folder = case("external", tmp_path)
    assert build(folder)[0] == 0
    assert "Everything was up to date" in build(folder)[1]
    data = folder / "model.onnx.data"
    weights = np.fromfile(data, np.float32)
    (weights * 1.5).astype(np.float32).tofile(data)
    assert "changed: checkpoint" in build(folder, "--plan")[1]
    status, text = build(folder)
    assert status == 0
    assert "Everything was up to date" not in text
    found, last = ages(folder)
    np.testing.assert_allclose(found, last[:, 0] * 30 + 40, atol=0.002)
    data.unlink()
    status, text = build(folder)
    assert status == 1
    assert "keeps weights in 'model.onnx.data', which is missing" in text


def test_an_age_grid_without_end(tmp_path: Path) -> None:
    shutil.copy(CASES / "age_grid.toml", tmp_path / "experts.toml")
    (tmp_path / "vgg16.safetensors").write_bytes(b"")
    status, text = build(tmp_path, "--plan")
    assert status == 1
    assert 'experts.vgg16.age_grid: must be like "0..100", increase and end at 200 years' in text


BLOCKED = """
import runpy, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
heavy = {{"torch", "timm", "onnxscript", "transformers", "scipy", "skimage", "matplotlib", "rich"}}
try:
    runpy.run_module("export.build_engines", run_name="__main__", alter_sys=True)
finally:
    print("imported:", sorted(heavy & set(sys.modules)))
"""


def build_without(folder: Path, blocked: set[str], *more: str) -> subprocess.CompletedProcess[str]:
    arguments = ["--experts", "experts.toml", "--output", "engines", "--target", "onnx", *more]
    return subprocess.run(
        [sys.executable, "-c", BLOCKED.format(blocked=blocked), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_onnx_experts_are_built_without_pytorch(tmp_path: Path) -> None:
    folder = case("external", tmp_path)
    done = build_without(folder, set(), "--fp16")
    assert done.returncode == 0, done.stderr
    assert "imported: ['rich']" in done.stdout
    shutil.rmtree(folder / "engines")
    blocked = {"torch", "timm", "rich", "scipy", "skimage", "matplotlib", "safetensors"}
    done = build_without(folder, blocked | {"huggingface_hub", "onnxscript"}, "--fp16")
    assert done.returncode == 0, done.stderr
    assert "mine.fp16.onnx" in done.stdout
    assert "imported: []" in done.stdout
    assert read_manifest(folder / "engines").experts["mine"].artifacts[0].parity is not None


def test_a_missing_package_is_told_with_its_extra(tmp_path: Path) -> None:
    folder = case("external", tmp_path)
    done = build_without(folder, {"onnx"})
    assert done.returncode == 1
    assert "error: The package 'onnx' is missing" in done.stderr
    assert "pip install 'agemoe-runtime[onnx]'" in done.stderr
    done = build_without(folder, {"onnxruntime"})
    assert done.returncode == 1
    assert "agemoe-runtime[onnx]" in done.stderr
    (folder / "experts.toml").write_text("[experts.a]\narchitecture = 'vgg16'\n")
    done = build_without(folder, {"torch"}, "--weights", "random")
    assert done.returncode == 1
    assert "The package 'torch' is missing: pip install 'agemoe-runtime[export]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_cases_are_what_they_stand_for() -> None:
    given = onnx.load(str(CASES / "ordinal" / "model.onnx"))
    assert given.graph.node[-1].op_type == "Sigmoid"
    shape = next(
        t
        for t in onnx.load(str(CASES / "frozen_reshape" / "model.onnx")).graph.initializer
        if t.name == "shape"
    )
    assert numpy_helper.to_array(shape)[0] == 1
    assert sigmoid(np.zeros(1)) == 0.5
