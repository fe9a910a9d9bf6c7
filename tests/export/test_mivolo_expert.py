"""MiVOLO from experts.toml and checkpoint files through the pipeline to the runtime."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from export.build.experts_file import read_experts
from export.build.options import BuildOptions
from export.build.pipeline import build
from export.config.architecture import ExpertConfig
from export.errors import CheckpointError
from export.experts.mivolo.module import MiVoloSpec, random_mivolo
from export.experts.mivolo.settings import LETTERBOX, MiVoloSettings
from export.experts.registry import build_expert, count_parameters
from export.variants.fp16 import tensor_types
from runtime import AgeMoE, Face
from runtime.geometry import Geometry
from runtime.manifest_file import read_manifest
from tests.export.mivolo_fixtures import spec, v2_spec
from tests.export.test_pipeline import Quiet

pytestmark = pytest.mark.conversion

SCALE = {"min_age": 1, "max_age": 95, "avg_age": 48}
V2_CONFIG = {
    "min_age": 0,
    "max_age": 122,
    "avg_age": 61.0,
    "in_chans": 6,
    "input_size": 64,
    "num_classes": 3,
    "only_age": False,
    "with_persons_model": True,
}


def configured(folder: Path, text: str) -> tuple[ExpertConfig, list[str]]:
    path = folder / "experts.toml"
    path.write_text(f"[experts.mivolo]\narchitecture = 'mivolo'\n{text}")
    problems: list[str] = []
    return read_experts(path, problems)["mivolo"], problems


def config(
    *,
    variant: str | None = None,
    input_size: int | None = None,
    inputs: tuple[str, ...] | None = None,
    age_scale: tuple[float, float, float] | None = None,
) -> ExpertConfig:
    settings = MiVoloSettings(variant, input_size, inputs, age_scale)
    return ExpertConfig("mivolo", "mivolo", None, LETTERBOX, settings)


def state_of(wanted: MiVoloSpec) -> dict[str, Tensor]:
    return dict(random_mivolo(wanted, seed=7).network.state_dict())


def pth_tar(folder: Path, wanted: MiVoloSpec, **metadata: object) -> Path:
    """Writes a training checkpoint in which only the averaged weights are valid."""
    path = folder / "model.pth.tar"
    averaged = state_of(wanted)
    raw = {name: torch.zeros_like(tensor) for name, tensor in averaged.items()}
    torch.save({"epoch": 3, "state_dict": raw, "state_dict_ema": averaged, **metadata}, path)
    return path


def v2_folder(folder: Path, wanted: MiVoloSpec | None = None, **changes: object) -> Path:
    state = state_of(wanted or spec())
    tensors = {f"mivolo.model.{k}": t.contiguous() for k, t in state.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(V2_CONFIG | changes))
    return folder


def years(path: Path | None, wanted: ExpertConfig) -> NDArray[np.float32]:
    images = {name: np.full((1, 64, 64, 3), 99, np.uint8) for name in ("face", "person")}
    return build_expert(wanted, path).reference(images)["age_years"]


def test_all_keys_are_optional(tmp_path: Path) -> None:
    found, problems = configured(tmp_path, "")
    assert not problems
    assert found.settings == MiVoloSettings(None, None, None, None)
    assert found.geometry == Geometry(fit="letterbox", interpolation="opencv_bilinear")


def test_all_keys_are_read(tmp_path: Path) -> None:
    found, problems = configured(
        tmp_path,
        "variant = 'd2'\ninput_size = 384\ninputs = ['face']\nage_scale = [21, 60, 40.5]\n"
        "geometry = {crop_margin = 0.1}",
    )
    assert not problems
    assert found.settings == MiVoloSettings("d2", 384, ("face",), (21, 60, 40.5))
    assert found.geometry == Geometry(0.1, "letterbox", "opencv_bilinear")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("variant = 'd9'", "variant: must be one of d1, d2"),
        ("input_size = 100", "input_size: must be a multiple of 16, got 100"),
        ("inputs = ['person']", r"inputs: must be \['face'\] or \['face', 'person'\], got"),
        ("age_scale = [1, 95]", "age_scale: must hold 3 numbers"),
        ("age_scale = [95, 1, 48]", r"age_scale: must be \[min_age, max_age, avg_age\]"),
        ("head = 'regression'", "unknown key head"),
    ],
)
def test_invalid_keys_are_reported(text: str, problem: str, tmp_path: Path) -> None:
    _, problems = configured(tmp_path, text)
    with pytest.raises(ValueError, match=problem):
        raise ValueError("\n".join(problems))


def test_averaged_weights_of_a_pth_tar_are_used(tmp_path: Path) -> None:
    expert = build_expert(config(), pth_tar(tmp_path, spec(), **SCALE))
    assert [(i.name, i.height) for i in expert.signature.inputs] == [("face", 64), ("person", 64)]
    assert expert.signature.details == {
        "variant": "demo",
        "age_scale": {"min_years": 1, "max_years": 95, "avg_years": 48},
        "weights": {"used": "state_dict_ema", "not_used": ["state_dict"]},
    }
    published = random_mivolo(spec(), seed=7)
    images = [torch.full((1, 64, 64, 3), 99, dtype=torch.uint8)] * 2
    with torch.inference_mode():
        expected = published(*images)[0]
    np.testing.assert_array_equal(years(tmp_path / "model.pth.tar", config()), expected)


def test_a_v2_folder_is_the_same_network_on_another_scale(tmp_path: Path) -> None:
    tar = years(pth_tar(tmp_path, spec(), **SCALE), config())
    folder = years(v2_folder(tmp_path), config())
    np.testing.assert_allclose((folder - 61) / 122, (tar - 48) / 94, rtol=1e-5)


def test_bare_safetensors_need_age_scale(tmp_path: Path) -> None:
    save_file(state_of(spec()), tmp_path / "demo.safetensors")
    with pytest.raises(CheckpointError, match="lacks min_age, max_age, avg_age"):
        build_expert(config(), tmp_path / "demo.safetensors")
    given = config(age_scale=(1, 95, 48))
    expected = years(pth_tar(tmp_path, spec(), **SCALE), config())
    np.testing.assert_array_equal(years(tmp_path / "demo.safetensors", given), expected)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (config(inputs=("face", "person")), "inputs: experts.toml has face, person, the .* face"),
        (config(input_size=224), "input_size: experts.toml has 224, the checkpoint 64"),
        (config(variant="d1"), "variant: experts.toml has d1, the checkpoint demo"),
    ],
)
def test_a_checkpoint_that_contradicts_experts_toml_is_rejected(
    wanted: ExpertConfig, message: str, tmp_path: Path
) -> None:
    path = pth_tar(tmp_path, spec(with_person=False), **SCALE)
    with pytest.raises(CheckpointError, match=message):
        build_expert(wanted, path)


def test_an_invalid_config_json_is_rejected(tmp_path: Path) -> None:
    v2_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is not JSON"):
        build_expert(config(), tmp_path)
    v2_folder(tmp_path, input_size=384)
    with pytest.raises(CheckpointError, match="input_size: the metadata has 384"):
        build_expert(config(), tmp_path)


def test_parameters_are_counted_without_weights() -> None:
    assert count_parameters(config()) == 27_432_414


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    wanted = (
        config(variant="demo", input_size=64),
        ExpertConfig(
            "alone", "mivolo", None, LETTERBOX, MiVoloSettings("demo", 64, ("face",), None)
        ),
    )
    build(BuildOptions(wanted, "random", folder, fp16=True), Quiet())
    return folder


def test_the_manifest_has_crops_details_and_parity(engines: Path) -> None:
    expert = read_manifest(engines).experts["mivolo"]
    face, person = (spec.geometry for spec in expert.inputs)
    assert face == replace(LETTERBOX, edges="truncate")
    assert person.edges == "truncate"
    assert (person.erase_face, person.min_side, person.min_visible_share) == (True, 50, 0.4)
    assert expert.outputs == ("age_years", "gender_probs")
    assert expert.details["age_scale"] == {"min_years": 1, "max_years": 95, "avg_years": 48}
    fp32, fp16 = expert.artifacts
    assert fp32.parity is not None
    assert fp16.parity is not None
    assert fp32.parity.max_years <= 0.001
    assert fp16.parity.mean_years <= 0.1
    assert fp16.reduced_share > 0.9


def test_the_sums_of_the_wide_norm_stay_fp32(engines: Path) -> None:
    """Values, mean, squares and deviation; the four other means are those of outlook attention."""
    path = engines / "mivolo/mivolo.fp16.onnx"
    types = tensor_types(path)
    found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in onnx.load(path).graph.node:
        found[node.op_type].append(node)
    (centered,), (deviation,), (normed,) = (
        [node.output[0] for node in found[operator]] for operator in ("Sub", "Sqrt", "Div")
    )
    (squared,) = (node for node in found["Mul"] if list(node.input) == [centered, centered])
    means = [node.output[0] for node in found["ReduceMean"]]
    inside = [*found["Sub"][0].input, centered, squared.output[0], *means, deviation, normed]
    assert {types[name] for name in inside} == {"fp32"}
    assert list(found["Div"][0].input) == [centered, deviation]


@pytest.mark.slow
def test_v2_is_built_from_its_folder(tmp_path: Path) -> None:
    """The shape of iitolstykh/mivolo_v2, with random weights; the build checks its tolerances."""
    v2_folder(tmp_path, v2_spec(), input_size=384)
    settings = MiVoloSettings(None, None, None, None)
    wanted = ExpertConfig("mivolo", "mivolo", str(tmp_path), LETTERBOX, settings)
    build(BuildOptions((wanted,), "checkpoint", tmp_path / "engines", fp16=True), Quiet())
    expert = read_manifest(tmp_path / "engines").experts["mivolo"]
    assert [(spec.height, spec.width) for spec in expert.inputs] == [(384, 384)] * 2
    assert expert.details["age_scale"] == {"min_years": 0, "max_years": 122, "avg_years": 61}
    fp32, fp16 = (artifact.parity for artifact in expert.artifacts)
    assert fp32 is not None
    assert fp16 is not None
    assert fp32.max_years < 0.0005, "half the tolerance, for weights that differ from these"
    assert fp16.mean_years < 0.1


@pytest.mark.filterwarnings("ignore::runtime.startup.PlaceholderWeightsWarning")
def test_the_runtime_uses_both_crops_and_returns_gender(engines: Path) -> None:
    image = np.random.default_rng(0).integers(1, 256, (200, 100, 3), np.uint8)
    face, person = (30, 10, 40, 40), (0, 0, 100, 200)
    with AgeMoE(engines, device="cpu", precision="fp32") as moe:
        both = moe.predict(Face(image, face, person))
        alone = moe.predict(Face(image, face))
        only_person = moe.predict(Face(image, None, person))
    assert both.experts["mivolo"].age_years != alone.experts["mivolo"].age_years
    assert both.experts["alone"].age_years == alone.experts["alone"].age_years
    assert only_person.missing == {"alone": "needs the face, not visible here"}
    genders = both.experts["mivolo"].gender_probs
    assert genders is not None
    assert sum(genders) == pytest.approx(1, abs=1e-6)
    assert "gender_probs" not in both.to_dict()["experts"]["mivolo"]
    assert both.to_dict(gender=True)["experts"]["mivolo"]["gender_probs"] == list(genders)


@pytest.mark.filterwarnings("ignore::runtime.startup.PlaceholderWeightsWarning")
def test_a_person_too_small_counts_as_missing(engines: Path) -> None:
    image = np.random.default_rng(0).integers(1, 256, (200, 100, 3), np.uint8)
    face = (30, 10, 40, 40)
    with AgeMoE(engines, device="cpu", precision="fp32") as moe:
        narrow = moe.predict(Face(image, face, (30, 0, 49, 200)))
        alone = moe.predict(Face(image, face))
    assert narrow.age_years == alone.age_years
