from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from export.config.settings import AgeHead, Normalization
from export.errors import CheckpointError
from export.experts.cnn.network import cnn_module, load_cnn, settle
from export.experts.cnn.settings import CnnSettings
from export.graph.preprocessing import Normalize, Readout
from tests.export.small import SIDE, small_module, small_settings

FULL = CnnSettings(224, 224, Normalization(), AgeHead(), width_factor=1.0)


@pytest.mark.parametrize("architecture", ["vgg16", "resnet50"])
def test_full_size_networks_match_those_of_timm(architecture: str) -> None:
    with torch.device("meta"):
        ours = cnn_module(architecture, FULL).network.state_dict()
        theirs = timm.create_model(architecture, num_classes=101).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["vgg16", "resnet50"])
@pytest.mark.parametrize("source", ["timm", "torchvision"])
def test_full_size_networks_match_the_outputs_of_the_source(architecture: str, source: str) -> None:
    torch.manual_seed(0)
    if source == "timm":
        original = timm.create_model(architecture, num_classes=101).eval()
    else:
        original = getattr(torchvision.models, architecture)(num_classes=101).eval()
    module = cnn_module(architecture, FULL)
    load_cnn(module, architecture, original.state_dict())
    pixels = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(module.network(pixels), original(pixels), atol=1e-4, rtol=1e-4)


def _differences_years(ours: nn.Module, theirs: nn.Module, side: int) -> float:
    """Largest difference in years on random pixels, already normalized.

    Logits are scaled to a standard deviation of 2, as random networks hardly tell classes apart.
    """
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = [network(pixels) for network in (ours, theirs)]
    scale = 2.0 / float(logits[1].std(dim=1).mean())
    years = [torch.softmax(scale * each, dim=1) @ torch.arange(101.0) for each in logits]
    return float((years[0] - years[1]).abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("side", [192, 256, 320])
@pytest.mark.parametrize("source", ["timm", "torchvision"])
def test_full_size_vgg16_at_other_sizes(source: str, side: int) -> None:
    torch.manual_seed(0)
    if source == "timm":
        original = timm.create_model("vgg16", num_classes=101).eval()
    else:
        original = torchvision.models.vgg16(num_classes=101).eval()
    pooling = "adaptive" if source == "torchvision" else None
    module = cnn_module("vgg16", replace(FULL, height=side, width=side, pooling=pooling))
    load_cnn(module, "vgg16", original.state_dict())
    assert _differences_years(module.network, original, side) < 1e-3


@pytest.mark.slow
def test_full_size_resnet50_with_other_strides_and_pooling() -> None:
    torch.manual_seed(0)
    original = torchvision.models.resnet50(num_classes=101).eval()
    for stage in (original.layer2, original.layer3, original.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    original.maxpool = nn.MaxPool2d(3, 2, padding=0, ceil_mode=True)
    strange = cnn_module("resnet50", replace(FULL, stride_on="1x1", pooling="caffe"))
    usual = cnn_module("resnet50", FULL)
    for module in (strange, usual):
        load_cnn(module, "resnet50", original.state_dict())
    assert _differences_years(strange.network, original, 224) < 1e-3
    assert _differences_years(usual.network, original, 224) > 1e-2


def test_keys_of_torchvision_vgg_are_recognized() -> None:
    with torch.device("meta"):
        theirs = torchvision.models.vgg16(num_classes=101).state_dict()
        module = cnn_module("vgg16", FULL)
        load_cnn(module, "vgg16", {f"module.{k}": v for k, v in theirs.items()})


@pytest.mark.parametrize("architecture", ["vgg16", "resnet50"])
def test_wrapped_checkpoints_load_exactly(architecture: str) -> None:
    original, loaded = small_module(architecture, seed=1), small_module(architecture, seed=2)
    state = {f"module.backbone.{k}": v for k, v in original.network.state_dict().items()}
    load_cnn(loaded, architecture, state)
    face = torch.randint(0, 256, (2, SIDE, SIDE, 3), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(loaded(face)[0], original(face)[0])


def test_counters_of_batches_may_be_missing() -> None:
    module = small_module("resnet50")
    state = module.network.state_dict()
    load_cnn(module, "resnet50", {k: v for k, v in state.items() if "num_batches" not in k})


def test_a_checkpoint_of_another_network_is_rejected_with_all_mismatches() -> None:
    module = small_module("resnet50")
    state = dict(module.network.state_dict())
    state["fc.weight"] = torch.zeros(7, 3)
    state["extra"] = torch.zeros(1)
    del state["conv1.weight"]
    with pytest.raises(CheckpointError) as caught:
        load_cnn(module, "resnet50", state)
    text = str(caught.value)
    assert "1 missing: conv1.weight" in text
    assert "1 unexpected: extra" in text
    assert "fc.weight is (7, 3)" in text
    assert "Check `architecture`, `head` and `age_grid`" in text


def test_random_weights_do_not_touch_the_global_seed() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    first = cnn_module("resnet50", small_settings(), seed=3)
    assert torch.equal(torch.rand(1), wanted)
    second = cnn_module("resnet50", small_settings(), seed=3)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


def test_settled_networks_distinguish_faces() -> None:
    module = cnn_module("resnet50", small_settings())
    generator = torch.Generator().manual_seed(0)
    faces = torch.randint(0, 256, (16, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)
    faces[:8] //= 3
    settle(module, faces)
    with torch.inference_mode():
        ages = module(faces)[0]
    assert ages.std() > 1.0
    assert (ages > 5).all()
    assert (ages < 95).all()


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_normalization_against_numpy(order: str) -> None:
    rng = np.random.default_rng(0)
    face = rng.integers(0, 256, (2, 5, 4, 3), np.uint8)
    n = Normalization(scale=0.5, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), color_order=order)
    wanted = np.empty((2, 3, 5, 4))
    for channel in range(3):
        source = channel if order == "RGB" else 2 - channel
        wanted[:, channel] = (face[..., source] * 0.5 - n.mean[channel]) / n.std[channel]
    found = Normalize(n)(torch.from_numpy(face)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_expectation_against_numpy() -> None:
    grid = (3.0, 10.0, 50.0)
    logits = np.array([[0.0, 1.0, 2.0], [5.0, -5.0, 0.0]])
    exponentials = np.exp(logits)
    wanted = exponentials / exponentials.sum(axis=1, keepdims=True)
    years, probabilities = Readout(AgeHead(age_grid=grid))(torch.tensor(logits))
    np.testing.assert_allclose(probabilities.numpy(), wanted, rtol=1e-6)
    np.testing.assert_allclose(years.numpy(), wanted @ np.array(grid), rtol=1e-6)


def test_regression_scales_and_offsets() -> None:
    head = AgeHead("regression", years_per_unit=95.0, years_offset=48.0)
    (years,) = Readout(head)(torch.tensor([[0.1], [-0.2]]))
    torch.testing.assert_close(years, torch.tensor([57.5, 29.0]))
    assert Readout(head).age_grid is None
    assert Readout(head).outputs == ("age_years",)


def test_checkpoint_shape_hints_at_the_grid(tmp_path: Path) -> None:
    del tmp_path
    module = small_module("resnet50", "regression")
    state = small_module("resnet50", "expectation").network.state_dict()
    with pytest.raises(CheckpointError, match=r"fc\.weight is \(101, "):
        load_cnn(module, "resnet50", state)
