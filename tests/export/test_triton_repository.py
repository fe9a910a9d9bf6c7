"""The model repository for Triton: what it says, and what it computes."""

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
from export.triton_repository import main, write_repository
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
"""In the manifest's order, which is that of the columns."""
SAYS = ("age_years", "low_years", "high_years")
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
    """Tables that correct, weigh and spread differently for every expert and set of them."""
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
        Face(white, box=(0, 0, 9, 9), person_box=(0, 0, 20, 20)),  # `body` says NaN
    ]


def requests(engines: Path, faces: list[Face]) -> triton.Arrays:
    """What a client sends for these faces."""
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
def test_the_ensemble_says_exactly_what_agemoe_says(
    engines: Path, tmp_path: Path, calibrated: bool
) -> None:
    if calibrated:
        calibrate(engines)
    write_repository(engines, tmp_path / "models", device="cpu")
    faces = pictures()
    with AgeMoE(engines, device="cpu", precision="fp32") as moe:
        wanted = moe.predict(faces)
    said = triton.run_ensemble(tmp_path / "models", "agemoe", requests(engines, faces))
    for row, estimate in enumerate(wanted):
        assert isinstance(estimate, AgeEstimate)
        of_face = {name: array[row] for name, array in said.items()}
        for name in SAYS:
            expected = getattr(estimate, name)
            np.testing.assert_array_equal(of_face[name], [np.nan if expected is None else expected])
        for column, name in enumerate(NAMES):
            _compare_expert(estimate, name, {key: of_face[key][column] for key in PER_EXPERT})
    assert np.isfinite(said["low_years"]).any() == calibrated


def _compare_expert(estimate: AgeEstimate, name: str, said: dict[str, float]) -> None:
    if name in estimate.missing:
        assert np.isnan(said["expert_years"])
        assert np.isnan(said["corrected_years"])
        assert said["weights"] == 0.0
        return
    expert = estimate.experts[name]
    assert said["expert_years"] == expert.age_years
    assert said["corrected_years"] == expert.corrected_years
    assert said["weights"] == expert.weight


def test_a_face_that_nobody_saw_is_not_a_number_and_spoils_nothing(
    engines: Path, repository: Path
) -> None:
    inputs = requests(engines, pictures()[:2])
    both = triton.run_ensemble(repository, "agemoe", inputs)
    inputs["visible"][0] = False
    said = triton.run_ensemble(repository, "agemoe", inputs)
    assert np.isnan(said["age_years"][0]).all()
    assert not said["weights"][0].any()
    np.testing.assert_array_equal(said["age_years"][1], both["age_years"][1])


def test_every_tensor_is_the_graph_s_own(repository: Path) -> None:
    for name, config in triton.models(repository):
        if config.get("backend") != "onnxruntime":
            continue
        graph = onnx.load(repository / name / "1" / "model.onnx").graph
        for tensors, declared in ((graph.input, "input"), (graph.output, "output")):
            assert [t.name for t in tensors] == [t["name"] for t in config[declared]]
            for tensor, told in zip(tensors, config[declared], strict=True):
                kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.type.tensor_type.elem_type)
                assert kind == triton.NUMPY[told["data_type"]]
                rank = len(tensor.type.tensor_type.shape.dim)
                assert rank == (1 if "reshape" in told else 1 + len(told["dims"]))


def test_batching_follows_the_profiles(repository: Path) -> None:
    configs = dict(triton.models(repository))
    assert [configs[name]["max_batch_size"] for name in TINY] == [32, 32, 4, 32]
    assert configs["agemoe"]["max_batch_size"] == configs["agemoe_fusion"]["max_batch_size"] == 4
    batching = [configs[name]["dynamic_batching"] for name in TINY]
    assert [b["preferred_batch_size"] for b in batching] == [[8, 32], [8, 32], [4], [8, 32]]
    assert "dynamic_batching" not in configs["agemoe"]
    assert configs["full"]["output"][1]["dims"] == [str(len(GRID))]


def test_experts_that_want_the_same_picture_share_it(repository: Path) -> None:
    config = dict(triton.models(repository))["agemoe"]
    names = [tensor["name"] for tensor in config["input"]]
    assert names == ["person.body.full", "face.full.plain", "face.padded", "visible"]
    told = triton.parameters(config)
    assert told["experts"] == NAMES
    assert told["face.padded"]["geometry"]["fit"] == "letterbox"


def test_each_model_is_warmed_with_what_it_takes(repository: Path) -> None:
    for name in TINY:
        config = dict(triton.models(repository))[name]
        (warmup,) = config["model_warmup"]
        given = {entry["key"]: entry["value"] for entry in warmup["inputs"]}
        assert {t["name"]: t["dims"] for t in config["input"]} == {
            key: value["dims"] for key, value in given.items()
        }


def test_the_fusion_needs_nothing_but_numpy(repository: Path, tmp_path: Path) -> None:
    """The copied files alone, in a process that finds neither the checkout nor Pillow."""
    folder = repository / "agemoe_fusion"
    looks_at = triton.parameters(triton.read_config(folder / "config.pbtxt"))["experts"]
    script = f"""
import json, sys, types
for name in ("PIL", "cv2", "onnxruntime"):
    sys.modules[name] = None
fake = types.ModuleType("triton_python_backend_utils")
sys.modules[fake.__name__] = fake
sys.path.insert(0, {str(folder / "1")!r})
import model
config = {{"parameters": {{"experts": {{"string_value": {json.dumps(looks_at)!r}}}}}}}
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


def test_on_a_gpu_half_precision_is_taken(engines: Path, tmp_path: Path) -> None:
    models = write_repository(engines, tmp_path / "models")
    assert {name: model.artifact.precision for name, model in models.items()} == {
        **dict.fromkeys(TINY, "fp32"),
        "full": "fp16",
    }
    configs = dict(triton.models(tmp_path / "models"))
    assert all(configs[name]["instance_group"][0]["kind"] == "KIND_GPU" for name in TINY)


def test_what_was_not_built_is_refused_and_leaves_nothing(engines: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="TensorRT"):
        write_repository(engines, tmp_path / "models", device="tensorrt")
    (engines / "plain" / "plain.fp32.onnx").write_bytes(b"damaged")
    with pytest.raises(EngineFileError):
        write_repository(engines, tmp_path / "models", device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["engines"]


def test_an_expert_may_not_take_the_ensemble_s_name(tmp_path: Path) -> None:
    engines = write_engines(tmp_path / "engines", {"agemoe": Tiny()})
    with pytest.raises(ExportError, match="Rename"):
        write_repository(engines, tmp_path / "models")


def test_the_command_says_what_to_start(
    engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["--engines", str(engines), "--output", str(tmp_path / "models"), "--device", "cpu"]
    assert main(line) == 0
    said = capsys.readouterr().out
    assert "full: onnx fp32, KIND_CPU" in said
    assert f"tritonserver --model-repository={tmp_path / 'models'}" in said
    assert main([*line, "--instances", "0"]) == 1
    assert "instances must be positive" in capsys.readouterr().err
    assert main(line) == 1
    assert "exists already" in capsys.readouterr().err
