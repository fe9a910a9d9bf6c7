"""The model repository for Triton: its configurations and its results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from export.errors import ExportError
from export.triton.config import distinct_inputs
from export.triton.repository import write_repository
from export.triton_repository import main
from runtime import AgeEstimate, AgeMoE, Face
from runtime.errors import BackendError, EngineFileError
from runtime.fusion import Spread
from runtime.fusion_file import write_fusion
from runtime.geometry import Geometry
from runtime.manifest_file import read_manifest
from runtime.preparation import input_view
from tests.export import triton_fixtures as triton
from tests.runtime.fusion_tables import Row, pivot_tables
from tests.runtime.tiny_engines import GRID, SHA, Tiny, write_engines

ROOT = Path(__file__).parents[2]
TINY = {
    "plain": Tiny(),
    "full": Tiny(
        slope=60.0,
        offset=20.0,
        inputs=("face", "person"),
        outputs=("age_years", "age_probs", "gender_probs", "answer_mass"),
        precisions=("fp32", "fp16"),
    ),
    "body": Tiny(slope=80.0, inputs=("person",), largest=4, nan_above=0.9),
    "padded": Tiny(slope=90.0, side=6, geometry=Geometry(fit="letterbox")),
}
NAMES = sorted(TINY)
"""In the manifest's order, which is the order of the columns."""
PER_FACE = ("age_years", "low_years", "high_years")
PER_EXPERT = ("expert_years", "corrected_years", "weights")


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    return write_engines(tmp_path / "engines", TINY)


@pytest.fixture
def repository(engines: Path, tmp_path: Path) -> Path:
    write_repository(engines, tmp_path / "models", device="cpu")
    return tmp_path / "models"


@pytest.fixture(autouse=True)
def python_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton.fake_backend())


def calibrate(engines: Path) -> None:
    """Writes tables that differ between experts and between sets of experts."""
    rng = np.random.default_rng(3)
    experts = {
        name: Row(rng.normal(0, 5, 101), rng.normal(0, 1, 101), float(rng.normal()), SHA)
        for name in TINY
    }
    sets = [frozenset(TINY), frozenset({"plain", "full", "padded"}), frozenset({"full", "body"})]
    levels = (0.05, 0.5, 0.95)
    quantiles = {names: np.sort(rng.normal(0, 6, (101, 3)), axis=1) for names in sets}
    write_fusion(engines / "fusion.json", pivot_tables(experts, spread=Spread(levels, quantiles)))


def pictures() -> list[Face]:
    rng = np.random.default_rng(5)

    def image() -> NDArray[np.uint8]:
        return rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)

    white = np.full((20, 20, 3), 255, np.uint8)
    return [
        Face(image()),
        Face(image(), box=(3, 4, 12, 16)),
        Face(image(), box=(3, 4, 12, 16), person_box=(0, 0, 25, 39)),
        Face(image(), person_box=(0, 0, 25, 39)),
        Face(white, box=(0, 0, 9, 9), person_box=(0, 0, 20, 20)),  # `body` predicts NaN
    ]


def requests(engines: Path, faces: list[Face]) -> triton.Arrays:
    """Returns the inputs that a client sends for these faces."""
    views: dict[str, list[Any]] = {}
    visible = []
    for face in faces:
        boxes = {"face": face.box} if face.box or not face.person_box else {}
        boxes |= {"person": face.person_box} if face.person_box else {}
        seen = []
        for name, spec in distinct_inputs(read_manifest(engines).experts).items():
            view = input_view(np.asarray(face.image), boxes, spec)
            black = np.zeros((spec.height, spec.width, 3), np.uint8)
            views.setdefault(name, []).append(black if view is None else view)
            seen.append(view is not None)
        visible.append(seen)
    return {name: np.stack(batch) for name, batch in views.items()} | {"visible": np.array(visible)}


@pytest.mark.parametrize("calibrated", [True, False])
def test_the_ensemble_equals_agemoe_exactly(
    engines: Path, tmp_path: Path, calibrated: bool
) -> None:
    if calibrated:
        calibrate(engines)
    write_repository(engines, tmp_path / "models", device="cpu")
    faces = pictures()
    with AgeMoE(engines, device="cpu", precision="fp32") as moe:
        wanted = moe.predict(faces)
    outputs = triton.run_ensemble(tmp_path / "models", "agemoe", requests(engines, faces))
    for row, estimate in enumerate(wanted):
        assert isinstance(estimate, AgeEstimate)
        of_face = {name: array[row] for name, array in outputs.items()}
        for name in PER_FACE:
            expected = getattr(estimate, name)
            np.testing.assert_array_equal(of_face[name], [np.nan if expected is None else expected])
        for column, name in enumerate(NAMES):
            _compare_expert(estimate, name, {key: of_face[key][column] for key in PER_EXPERT})
    assert np.isfinite(outputs["low_years"]).any() == calibrated


def _compare_expert(estimate: AgeEstimate, name: str, outputs: dict[str, float]) -> None:
    if name in estimate.missing:
        assert np.isnan(outputs["expert_years"])
        assert np.isnan(outputs["corrected_years"])
        assert outputs["weights"] == 0.0
        return
    expert = estimate.experts[name]
    assert outputs["expert_years"] == expert.age_years
    assert outputs["corrected_years"] == expert.corrected_years
    assert outputs["weights"] == expert.weight


def test_an_unseen_face_is_nan_and_does_not_affect_others(engines: Path, repository: Path) -> None:
    inputs = requests(engines, pictures()[:2])
    both = triton.run_ensemble(repository, "agemoe", inputs)
    inputs["visible"][0] = False
    outputs = triton.run_ensemble(repository, "agemoe", inputs)
    assert np.isnan(outputs["age_years"][0]).all()
    assert not outputs["weights"][0].any()
    np.testing.assert_array_equal(outputs["age_years"][1], both["age_years"][1])


def test_tensors_match_the_graphs(repository: Path) -> None:
    for name, config in triton.models(repository):
        if config.get("backend") != "onnxruntime":
            continue
        graph = onnx.load(repository / name / "1" / "model.onnx").graph
        for tensors, declared in ((graph.input, "input"), (graph.output, "output")):
            assert [t.name for t in tensors] == [t["name"] for t in config[declared]]
            for tensor, entry in zip(tensors, config[declared], strict=True):
                kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.type.tensor_type.elem_type)
                assert kind == triton.NUMPY[entry["data_type"]]
                rank = len(tensor.type.tensor_type.shape.dim)
                assert rank == (1 if "reshape" in entry else 1 + len(entry["dims"]))


def test_batching_follows_the_profiles(repository: Path) -> None:
    configs = dict(triton.models(repository))
    assert [configs[name]["max_batch_size"] for name in TINY] == [32, 32, 4, 32]
    assert configs["agemoe"]["max_batch_size"] == configs["agemoe_fusion"]["max_batch_size"] == 4
    batching = [configs[name]["dynamic_batching"] for name in TINY]
    assert [b["preferred_batch_size"] for b in batching] == [[8, 32], [8, 32], [4], [8, 32]]
    assert "dynamic_batching" not in configs["agemoe"]
    assert configs["full"]["output"][1]["dims"] == [str(len(GRID))]


def test_experts_with_equal_inputs_share_a_picture(repository: Path) -> None:
    config = dict(triton.models(repository))["agemoe"]
    names = [tensor["name"] for tensor in config["input"]]
    assert names == ["person.body.full", "face.full.plain", "face.padded", "visible"]
    parameters = triton.parameters(config)
    assert parameters["experts"] == NAMES
    assert parameters["face.padded"]["geometry"]["fit"] == "letterbox"


def test_each_model_is_warmed_up_with_its_inputs(repository: Path) -> None:
    for name in TINY:
        config = dict(triton.models(repository))[name]
        (warmup,) = config["model_warmup"]
        sent = {entry["key"]: entry["value"] for entry in warmup["inputs"]}
        assert {t["name"]: t["dims"] for t in config["input"]} == {
            key: value["dims"] for key, value in sent.items()
        }


def test_the_fusion_needs_only_numpy(repository: Path, tmp_path: Path) -> None:
    """Runs the copied files in a process without the checkout and without Pillow."""
    folder = repository / "agemoe_fusion"
    inputs_of = triton.parameters(triton.read_config(folder / "config.pbtxt"))["experts"]
    script = f"""
import json, sys, types
for name in ("PIL", "cv2", "onnxruntime"):
    sys.modules[name] = None
fake = types.ModuleType("triton_python_backend_utils")
sys.modules[fake.__name__] = fake
sys.path.insert(0, {str(folder / "1")!r})
import model
config = {{"parameters": {{"experts": {{"string_value": {json.dumps(inputs_of)!r}}}}}}}
fusion = model.TritonPythonModel()
fusion.initialize({{"model_config": json.dumps(config)}})
import numpy as np
outputs = model.fused_outputs(fusion._tables, {NAMES!r}, np.array([[10.0, 20.0, 30.0, 40.0]]))
print(outputs["age_years"][0, 0], sys.modules["runtime"].__file__)
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    age, where = done.stdout.split()
    assert float(age) == 25.0
    assert where.startswith(str(folder))


def test_half_precision_is_chosen_on_a_gpu(engines: Path, tmp_path: Path) -> None:
    models = write_repository(engines, tmp_path / "models")
    assert {name: model.artifact.precision for name, model in models.items()} == {
        **dict.fromkeys(TINY, "fp32"),
        "full": "fp16",
    }
    configs = dict(triton.models(tmp_path / "models"))
    assert all(configs[name]["instance_group"][0]["kind"] == "KIND_GPU" for name in TINY)


def test_a_failed_export_leaves_no_files(engines: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="TensorRT"):
        write_repository(engines, tmp_path / "models", device="tensorrt")
    (engines / "plain" / "plain.fp32.onnx").write_bytes(b"damaged")
    with pytest.raises(EngineFileError):
        write_repository(engines, tmp_path / "models", device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["engines"]


def test_an_expert_may_not_have_the_ensemble_s_name(tmp_path: Path) -> None:
    engines = write_engines(tmp_path / "engines", {"agemoe": Tiny()})
    with pytest.raises(ExportError, match="Rename"):
        write_repository(engines, tmp_path / "models")


def test_the_command_prints_the_models_and_the_next_step(
    engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["--engines", str(engines), "--output", str(tmp_path / "models"), "--device", "cpu"]
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "full: onnx fp32, KIND_CPU" in printed
    assert f"tritonserver --model-repository={tmp_path / 'models'}" in printed
    with pytest.raises(SystemExit):
        main([*line, "--instances", "0"])
    assert "--instances: must be a whole number within 1" in capsys.readouterr().err
    assert main(line) == 1
    assert "already exists" in capsys.readouterr().err
