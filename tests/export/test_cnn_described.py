"""Checkpoints that describe themselves: config.json beside the weights, `arch` in the file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from export.build.console import described_lines
from export.build.experts_file import read_experts
from export.build.pipeline import BuiltRow
from export.config.architecture import ExpertConfig
from export.errors import CheckpointError
from export.experts.cnn.network import cnn_module, load_cnn
from export.experts.registry import build_expert
from export.graph.torch_expert import TorchExpert
from runtime.manifest import BatchProfile, Expert, Source
from tests.export.small import SIDE, small_module, small_settings, write_checkpoint

PRETRAINED: dict[str, Any] = {
    "tag": "age",
    "input_size": [3, 96, 64],
    "interpolation": "bicubic",
    "crop_pct": 0.95,
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.4],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resnet50")
    write_checkpoint(path / "model.safetensors", small_module("resnet50"))
    return path


def config(folder: Path, lines: str = "", architecture: str = "resnet50") -> ExpertConfig:
    path = folder / "experts.toml"
    path.write_text(
        f"[experts.a]\narchitecture = '{architecture}'\nwidth_factor = 0.125\n{lines}\n"
    )
    problems: list[str] = []
    experts = read_experts(path, problems)
    assert not problems
    return experts["a"]


def row(expert: TorchExpert) -> BuiltRow:
    signature = expert.signature
    source = Source("checkpoint", "folder", None)
    profile = BatchProfile(1, 8, 32)
    entry = Expert(
        "resnet50",
        source,
        signature.inputs,
        signature.outputs,
        signature.age_grid,
        profile,
        (),
        details=signature.details,
    )
    return BuiltRow("a", entry, 1.0, reused=False)


def describe(folder: Path, **entries: Any) -> None:
    (folder / "config.json").write_text(json.dumps(entries))


def built(folder: Path, lines: str = "", *, file: bool = False) -> TorchExpert:
    expert = build_expert(config(folder, lines), folder / "model.safetensors" if file else folder)
    assert isinstance(expert, TorchExpert)
    return expert


@pytest.mark.parametrize("file", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_preprocessing_is_taken_from_the_description(folder: Path, flat: bool, file: bool) -> None:
    entries = PRETRAINED if flat else {"pretrained_cfg": PRETRAINED}
    describe(folder, architecture="resnet50", **entries)
    expert = built(folder, file=file)
    (spec,) = expert.signature.inputs
    assert (spec.height, spec.width) == (96, 64)
    assert spec.geometry.interpolation == "pillow_bicubic"
    face = np.random.default_rng(0).integers(0, 256, (2, 96, 64, 3), np.uint8)
    mean, std = np.array(PRETRAINED["mean"]), np.array(PRETRAINED["std"])
    pixels = (face / 255.0 - mean) / std
    network = expert.module.network
    assert isinstance(network, torch.nn.Module)
    with torch.inference_mode():
        logits = network(torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float())
    wanted = torch.softmax(logits, dim=1) @ torch.arange(101.0)
    found = expert.reference({"face": face})["age_years"]
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-3)
    taken = expert.signature.details["from_config_json"]
    assert taken == {
        "input_size": (96, 64),
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "interpolation": "pillow_bicubic",
    }


def test_keys_of_experts_toml_take_precedence_and_that_is_said(folder: Path) -> None:
    describe(folder, architecture="resnet50", pretrained_cfg=PRETRAINED)
    lines = (
        f"input_size = {SIDE}\nmean = [0.5, 0.4, 0.3]\n"
        "[experts.a.geometry]\ninterpolation = 'opencv_area'"
    )
    expert = built(folder, lines)
    (spec,) = expert.signature.inputs
    assert (spec.height, spec.width, spec.geometry.interpolation) == (SIDE, SIDE, "opencv_area")
    details = expert.signature.details
    assert details["overruled"] == {"input_size": (96, 64), "interpolation": "pillow_bicubic"}
    assert details["from_config_json"] == {"std": [0.2, 0.3, 0.4]}
    taken, overruled = described_lines([row(expert)])
    assert taken == "a: taken from the checkpoint's config.json: std = [0.2, 0.3, 0.4]."
    assert overruled == (
        "a: experts.toml overrules the checkpoint's config.json, which has "
        "input_size = [96, 64], interpolation = pillow_bicubic."
    )


def test_a_scale_in_experts_toml_keeps_mean_and_std_of_its_own_range(folder: Path) -> None:
    describe(folder, architecture="resnet50", pretrained_cfg=PRETRAINED)
    expert = built(folder, "scale = 1.0\nmean = [1.0, 2.0, 3.0]")
    assert "mean" not in expert.signature.details["from_config_json"]
    assert "std" in expert.signature.details["overruled"]


@pytest.mark.parametrize("name", ["resnetaa50", "resnetblur50.bt_in1k", "seresnet50", "vgg16"])
def test_another_architecture_in_the_description_is_an_error(folder: Path, name: str) -> None:
    describe(folder, architecture=name, pretrained_cfg=PRETRAINED)
    for file in (False, True):
        with pytest.raises(CheckpointError, match=rf"architecture is '{name}'.*'resnet50'"):
            built(folder, file=file)


@pytest.mark.parametrize("name", ["resnet50", "resnet50.a1_in1k", "ResNet-50", "tv_resnet50"])
def test_names_of_the_same_network(folder: Path, name: str) -> None:
    describe(folder, architecture=name)
    assert built(folder).signature.inputs[0].height == 224


def test_arch_in_a_training_checkpoint(tmp_path: Path) -> None:
    state = small_module("resnet50").network.state_dict()
    path = tmp_path / "model_best.pth.tar"
    torch.save({"arch": "resnet50", "epoch": 3, "state_dict": state}, path)
    build_expert(config(tmp_path), path)
    torch.save({"arch": "resnetaa50", "state_dict": state}, path)
    with pytest.raises(CheckpointError, match=r"model_best\.pth\.tar, 'arch' says.*'resnetaa50'"):
        build_expert(config(tmp_path), path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"model_args": {"aa_layer": "blurpc"}}, "model_args {'aa_layer': 'blurpc'}"),
        ({"model_args": {"global_pool": "max"}}, "'global_pool': 'max'"),
        ({"global_pool": "catavgmax"}, "'global_pool': 'catavgmax'"),
        ({"pretrained_cfg": {"input_size": [1, 96, 96]}}, r"expected \[3, height, width\]"),
        ({"pretrained_cfg": {"mean": [0.5]}}, "expected three numbers"),
        ({"pretrained_cfg": {"std": [0.5, 0.5, 0]}}, "expected three numbers"),
        ({"pretrained_cfg": {"interpolation": "random"}}, "interpolation is 'random'"),
    ],
)
def test_descriptions_that_cannot_be_followed(
    folder: Path, entries: dict[str, Any], message: str
) -> None:
    describe(folder, architecture="resnet50", **entries)
    with pytest.raises(CheckpointError, match=message):
        built(folder)


def test_a_damaged_description(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is not JSON"):
        built(folder)
    describe(folder)


def test_an_infinite_weight_is_named_before_anything_is_built(tmp_path: Path) -> None:
    state = {k: v.clone() for k, v in small_module("vgg16").network.state_dict().items()}
    state["features.0.weight"][1, 2, 0, 0] = float("inf")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"w\.safetensors: 'features\.0\.weight' holds 1 of"):
        build_expert(config(tmp_path, f"input_size = {SIDE}", "vgg16"), tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("seresnet50", "SE-ResNet"),
        ("legacy_seresnet50", "another family"),
        ("resnet50d", "deep stem"),
        ("resnet50_clip", "another family"),
        ("resnetv2_50", "another family"),
        ("resnet50_gn", "group normalization"),
    ],
)
def test_look_alikes_with_other_keys_are_named(name: str, hint: str) -> None:
    settings = replace(small_settings(), width_factor=1.0)
    with torch.device("meta"):
        state = timm.create_model(name, num_classes=101).state_dict()
        module = cnn_module("resnet50", settings)
        with pytest.raises(CheckpointError, match=hint):
            load_cnn(module, "resnet50", state)


def test_vgg16_with_batch_normalization_is_named() -> None:
    with torch.device("meta"):
        state = timm.create_model("vgg16_bn", num_classes=101).state_dict()
        module = cnn_module("vgg16", replace(small_settings(), width_factor=1.0))
        with pytest.raises(CheckpointError, match="vgg16_bn"):
            load_cnn(module, "vgg16", state)
