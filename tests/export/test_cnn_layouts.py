"""The CNNs in their published layouts, against networks written from the publications."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.build.experts_file import read_experts
from export.config.architecture import ExpertConfig
from export.errors import CheckpointError
from export.experts.cnn.bodies import AdaptivePool
from export.experts.registry import build_expert
from export.faces.drawn import draw_face
from export.graph.checks import check_graph
from export.graph.torch_expert import TorchExpert
from runtime.geometry import Geometry, fit
from tests.export import cnn_twins as twins

TINY_VGG16 = ((8, 16, 32, 64, 64), 512)
"""Channels and hidden units of a VGG16 with width_factor = 0.125."""
TINY_RESNET50 = (8, 16, 32, 64)
FULL_VGG16 = ((64, 128, 256, 512, 512), 4096)
FULL_RESNET50 = (64, 128, 256, 512)
PUBLISHED = """
[experts.vgg16]
architecture = "vgg16"
round_years = true
scale = 1.0
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
color_order = "BGR"
[experts.vgg16.geometry]
interpolation = "opencv_bilinear"

[experts.resnet50]
architecture = "resnet50"
round_years = true
scale = 1.0
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]
color_order = "BGR"
[experts.resnet50.geometry]
interpolation = "opencv_bilinear"
"""
"""AgeMoE's recipes."""
PIXELS = {
    "vgg16": (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])),
    "resnet50": (np.zeros(3), np.ones(3)),
}
"""Mean and standard deviation of BGR values within 0..255."""


def config(folder: Path, name: str, *, tiny: bool = True, **settings: Any) -> ExpertConfig:
    path = folder / "experts.toml"
    path.write_text(PUBLISHED)
    problems: list[str] = []
    read = read_experts(path, problems)[name]
    assert not problems
    factor = 0.125 if tiny else 1.0
    return replace(read, settings=replace(read.settings, width_factor=factor, **settings))


def unrounded(given: ExpertConfig) -> ExpertConfig:
    settings = given.settings
    head = replace(settings.head, round_years=False)
    return replace(given, settings=replace(settings, head=head))


def pictures() -> list[NDArray[np.uint8]]:
    """RGB pictures of several sizes."""
    ages = np.linspace(3, 90, 12)
    faces = [draw_face(float(age), seed=i, size=96 + 17 * i) for i, age in enumerate(ages)]
    return [np.ascontiguousarray(face[i : len(face) - 2 * i]) for i, face in enumerate(faces)]


def published_pixels(name: str, side: int = 224) -> Tensor:
    """The preprocessing of the publication: OpenCV's BGR picture, resized by its default."""
    mean, std = PIXELS[name]
    rows = []
    for picture in pictures():
        bgr = cv2.resize(np.ascontiguousarray(picture[..., ::-1]), (side, side))
        rows.append(((bgr.astype(np.float64) - mean) / std).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(rows)).float()


def faces(expert: TorchExpert) -> dict[str, NDArray[np.uint8]]:
    spec = expert.signature.inputs[0]
    rows = [fit(picture, spec.height, spec.width, spec.geometry) for picture in pictures()]
    return {"face": np.stack(rows)}


def ages(expert: TorchExpert) -> NDArray[np.float32]:
    """Ages by the expert's module in PyTorch."""
    return expert.reference(faces(expert))["age_years"]


def onnx_outputs(expert: TorchExpert, folder: Path) -> list[NDArray[np.float32]]:
    """Ages and probabilities by the ONNX file in ONNX Runtime."""
    path = folder / "graph.onnx"
    expert.write_onnx(path)
    check_graph(path, expert.signature)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [np.asarray(v) for v in session.run(["age_years", "age_probs"], faces(expert))]


def built(given: ExpertConfig, state: Mapping[str, Tensor], folder: Path) -> TorchExpert:
    torch.save({"state_dict": dict(state)}, folder / "model_best_loss")
    expert = build_expert(given, folder / "model_best_loss")
    assert isinstance(expert, TorchExpert)
    return expert


def state_of(name: str, *, tiny: bool = True) -> twins.State:
    pixels = published_pixels(name)[:4]
    if name == "vgg16":
        state = twins.dex_vgg16(*(TINY_VGG16 if tiny else FULL_VGG16))
        return twins.spread(state, "cls", twins.dex_forward, pixels)
    state = twins.caffe_resnet50(TINY_RESNET50 if tiny else FULL_RESNET50)
    return twins.spread(state, "classage", twins.caffe_forward, pixels)


FORWARD: dict[str, twins.Forward] = {"vgg16": twins.dex_forward, "resnet50": twins.caffe_forward}


def compare(name: str, folder: Path, *, tiny: bool) -> None:
    state = state_of(name, tiny=tiny)
    with torch.inference_mode():
        wanted = twins.expectation(FORWARD[name](state, published_pixels(name)))
    assert wanted.std() > 1.0
    expert = built(config(folder, name, tiny=tiny), state, folder)
    whole, probabilities = onnx_outputs(expert, folder)
    exact = probabilities.astype(np.float64) @ np.arange(101)
    np.testing.assert_allclose(exact, wanted, rtol=0, atol=1e-3)
    clear = np.abs(wanted - np.floor(wanted) - 0.5) > 1e-3
    assert clear.sum() >= len(wanted) - 1
    np.testing.assert_array_equal(whole[clear], np.around(wanted)[clear])


@pytest.mark.conversion
@pytest.mark.parametrize("name", ["vgg16", "resnet50"])
def test_published_layouts_give_the_published_ages(tmp_path: Path, name: str) -> None:
    compare(name, tmp_path, tiny=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "resnet50"])
def test_published_layouts_of_full_size(tmp_path: Path, name: str) -> None:
    compare(name, tmp_path, tiny=False)


def test_opencv_bilinear_is_opencvs_own_resize() -> None:
    geometry = Geometry(interpolation="opencv_bilinear")
    rng = np.random.default_rng(0)
    for height, width in ((7, 900), (640, 480), (224, 100), (1, 1), (225, 223)):
        picture = rng.integers(0, 256, (height, width, 3), np.uint8)
        bgr = cv2.resize(np.ascontiguousarray(picture[..., ::-1]), (224, 224))
        assert np.array_equal(fit(picture, 224, 224, geometry)[..., ::-1], bgr)


def test_caffe_names_determine_strides_and_pooling(tmp_path: Path) -> None:
    state = state_of("resnet50")
    given = config(tmp_path, "resnet50")
    expert = built(given, {f"module.{k}": v for k, v in state.items()}, tmp_path)
    details = {"layout": "VGGFace2 in Caffe", "unused_heads": ["classifier"]}
    assert expert.signature.details == details
    for key, value in (("stride_on", "3x3"), ("pooling", "padded")):
        contradictory = replace(given, settings=replace(given.settings, **{key: value}))
        with pytest.raises(CheckpointError, match=rf"{key} = '{value}'.*Leave {key} out"):
            built(contradictory, state, tmp_path)
    agreeing = replace(given.settings, stride_on="1x1", pooling="caffe")
    built(replace(given, settings=agreeing), state, tmp_path)


def test_settings_give_strides_and_pooling_where_names_do_not(tmp_path: Path) -> None:
    state = state_of("resnet50")
    with torch.inference_mode():
        wanted = twins.expectation(twins.caffe_forward(state, published_pixels("resnet50")))
    given = unrounded(config(tmp_path, "resnet50", stride_on="1x1", pooling="caffe"))
    renamed = twins.torchvision_resnet50(state)
    found = ages(built(given, renamed, tmp_path))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-3)
    usual = unrounded(config(tmp_path, "resnet50"))
    assert np.abs(ages(built(usual, renamed, tmp_path)) - wanted).max() > 0.1


def test_an_age_head_in_the_place_of_the_identities_is_taken(tmp_path: Path) -> None:
    state = state_of("resnet50")
    alone = {k: v for k, v in state.items() if not k.startswith("classifier")}
    alone = {k.replace("classage", "classifier"): v for k, v in alone.items()}
    given = config(tmp_path, "resnet50")
    both, one = (built(given, s, tmp_path).module.state_dict() for s in (state, alone))
    assert all(torch.equal(both[key], one[key]) for key in both)


def test_mixed_layouts_are_an_error(tmp_path: Path) -> None:
    state = state_of("resnet50")
    mixed = state | {"fc.weight": state["classage.weight"].flatten(1)}
    with pytest.raises(CheckpointError, match=r"mixes two layouts.*both 'fc\.weight'"):
        built(config(tmp_path, "resnet50"), mixed, tmp_path)


def test_an_unused_head_need_not_be_finite(tmp_path: Path) -> None:
    state = dict(state_of("resnet50"))
    state["classifier.bias"] = torch.full_like(state["classifier.bias"], float("nan"))
    built(config(tmp_path, "resnet50"), state, tmp_path)


def test_the_dex_layout_takes_only_the_size_it_was_made_for(tmp_path: Path) -> None:
    given = config(tmp_path, "vgg16", height=256, width=256)
    with pytest.raises(CheckpointError, match="takes pictures of 224 to 255 pixels"):
        built(given, state_of("vgg16"), tmp_path)


@pytest.mark.parametrize("target", [(7, 7), (2, 5)])
@pytest.mark.parametrize("size", [(8, 8), (10, 7), (5, 14), (3, 11), (7, 7), (1, 1)])
def test_adaptive_pooling_against_pytorch(size: tuple[int, int], target: tuple[int, int]) -> None:
    features = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    wanted = torch.nn.functional.adaptive_avg_pool2d(features, target)
    torch.testing.assert_close(AdaptivePool(size, target)(features), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.conversion
@pytest.mark.parametrize("side", [256, 320])
def test_torchvisions_vgg16_keeps_its_pooling_at_other_sizes(tmp_path: Path, side: int) -> None:
    pixels = published_pixels("vgg16", side)
    state = twins.dex_vgg16(*TINY_VGG16)
    state = twins.spread(state, "cls", twins.adaptive_forward, pixels[:4])
    with torch.inference_mode():
        wanted = twins.expectation(twins.adaptive_forward(state, pixels))
    renamed = twins.torchvision_vgg16(state)
    given = unrounded(config(tmp_path, "vgg16", height=side, width=side))
    expert = built(given, renamed, tmp_path)
    assert expert.signature.details["layout"] == "torchvision"
    found = onnx_outputs(expert, tmp_path)[0] if side == 320 else ages(expert)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-3)
    averaging = replace(given, settings=replace(given.settings, pooling="average"))
    with pytest.raises(CheckpointError, match="pooling = 'average'"):
        built(averaging, renamed, tmp_path)
