"""Last layers under other names, outside the body's wrapper, and beside other heads."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from export.build.console import described_lines
from export.build.experts_file import read_experts
from export.checkpoints.loading import load_checkpoint
from export.errors import CheckpointError
from export.experts.cnn.heads import name_weights
from export.experts.cnn.layouts import timm_names
from export.experts.registry import build_expert
from export.graph.torch_expert import TorchExpert
from tests.export import cnn_twins as twins
from tests.export.test_cnn_described import row
from tests.export.test_cnn_layouts import TINY_RESNET50, TINY_VGG16, ages, config

State = dict[str, Tensor]


@functools.cache
def resnet() -> State:
    return twins.torchvision_resnet50(twins.caffe_resnet50(TINY_RESNET50))


@functools.cache
def vgg() -> State:
    return twins.torchvision_vgg16(twins.dex_vgg16(*TINY_VGG16))


def renamed(state: State, old: str, new: str, prefix: str = "") -> State:
    """Renames a layer; all others get a prefix."""
    return {
        f"{new}{key.removeprefix(old)}" if key.rpartition(".")[0] == old else prefix + key: value
        for key, value in state.items()
    }


def linear(inputs: int, outputs: int) -> dict[str, Tensor]:
    return {"weight": torch.full((outputs, inputs), 9.0), "bias": torch.zeros(outputs)}


def beside(state: State, layer: str, inputs: int, outputs: int = 2) -> State:
    return state | {f"{layer}.{kind}": value for kind, value in linear(inputs, outputs).items()}


FEATURES = resnet()["fc.weight"].shape[1]
HIDDEN = vgg()["classifier.6.weight"].shape[1]
CASES: list[tuple[str, State, str | None, list[str]]] = [
    ("resnet50", renamed(resnet(), "fc", "fc.1"), None, []),
    ("resnet50", renamed(resnet(), "fc", "fc.head.0", "model."), "fc.head.0", []),
    ("resnet50", renamed(resnet(), "fc", "age_head"), "age_head", []),
    ("resnet50", renamed(resnet(), "fc", "model.age_head", "model."), "age_head", []),
    ("resnet50", renamed(resnet(), "fc", "fc", "resnet."), "fc", []),
    (
        "resnet50",
        beside(renamed(resnet(), "fc", "fc_age", "backbone."), "fc_gender", FEATURES),
        "fc_age",
        ["fc_gender"],
    ),
    (
        "resnet50",
        beside(renamed(resnet(), "fc", "model.fc_age", "model."), "model.fc_race", FEATURES, 7),
        "model.fc_age",
        ["fc_race"],
    ),
    ("resnet50", beside(renamed(resnet(), "fc", "age"), "fc", FEATURES), "age", ["fc"]),
    ("vgg16", renamed(vgg(), "classifier.6", "classifier.6.1"), None, []),
    ("vgg16", renamed(vgg(), "classifier.6", "age", "vgg."), "age", []),
    ("vgg16", beside(renamed(vgg(), "classifier.6", "age"), "gender", HIDDEN), "age", ["gender"]),
]


@pytest.mark.parametrize(("name", "state", "head_layer", "unused"), CASES)
def test_the_network_is_the_same_under_every_name(
    tmp_path: Path, name: str, state: State, head_layer: str | None, unused: list[str]
) -> None:
    own = resnet() if name == "resnet50" else vgg()
    torch.save(state, tmp_path / "w.pth")
    named = name_weights(name, load_checkpoint(tmp_path / "w.pth").state, head_layer)
    found = {key: named.state[n] for key, n in timm_names(named.layout, list(named.state)).items()}
    wanted = timm_names(named.layout, list(own))
    assert list(named.unused_heads) == unused
    assert found.keys() == {key for key in wanted if "num_batches" not in key}
    assert all(torch.equal(found[key], own[wanted[key]]) for key in found)


def test_ages_are_equal_and_the_manifest_names_the_head(tmp_path: Path) -> None:
    def expert(state: State, head_layer: str | None) -> TorchExpert:
        torch.save({"state_dict": state}, path)
        expert = build_expert(config(tmp_path, "resnet50", head_layer=head_layer), path)
        assert isinstance(expert, TorchExpert)
        return expert

    path = tmp_path / "w.pth"
    plain = ages(expert(resnet(), None))
    other = expert(beside(renamed(resnet(), "fc", "age"), "sex", FEATURES), "age")
    np.testing.assert_array_equal(ages(other), plain)
    assert other.signature.details["head_layer"] == "age"
    assert other.signature.details["unused_heads"] == ["sex"]


def test_averaged_weights_are_named_in_the_manifest(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    averaged = {key: value * 0.5 for key, value in resnet().items()}
    torch.save({"model_state_dict": resnet(), "model_ema_state_dict": averaged}, path)
    found: dict[str | None, Any] = {}
    for key in (None, "model_state_dict"):
        expert = build_expert(config(tmp_path, "resnet50", weights_key=key), path)
        assert isinstance(expert, TorchExpert)
        used = key or "model_ema_state_dict"
        assert expert.signature.details["weights"]["used"] == used
        (line,) = described_lines([row(expert)])
        assert f"used = {used}" in line
        found[key] = expert.module.network.fc.weight  # type: ignore[union-attr]
    assert torch.equal(found[None], averaged["fc.weight"])
    assert torch.equal(found["model_state_dict"], resnet()["fc.weight"])


def test_a_missing_head_is_suggested(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(beside(renamed(resnet(), "fc", "age"), "sex", FEATURES), path)
    with pytest.raises(CheckpointError, match=r"no layer 'fc'.*age \(101.*head_layer = 'age'"):
        build_expert(config(tmp_path, "resnet50"), path)
    with pytest.raises(CheckpointError, match=r"head_layer = 'old' names no layer.*has none"):
        build_expert(config(tmp_path, "resnet50", head_layer="old"), path)


def test_two_layers_in_a_head_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    state = beside(renamed(resnet(), "fc", "fc.2"), "fc.0", FEATURES, FEATURES)
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="does not fit resnet50"):
        build_expert(config(tmp_path, "resnet50"), path)


def test_the_keys_are_read_from_experts_toml(tmp_path: Path) -> None:
    path = tmp_path / "experts.toml"
    path.write_text(
        '[experts.a]\narchitecture = "resnet50"\nweights_key = "ema"\nhead_layer = "fc.1"\n'
        '[experts.b]\narchitecture = "mivolo"\nweights_key = "model"\n',
        encoding="utf-8-sig",
    )
    problems: list[str] = []
    experts = read_experts(path, problems)
    assert not problems
    assert experts["a"].settings.weights_key == "ema"
    assert experts["a"].settings.head_layer == "fc.1"
    assert experts["b"].settings.weights_key == "model"
