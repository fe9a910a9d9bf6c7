"""VGG16 and ResNet50 on timm, full size or shrunk, with an age head."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.checkpoints.description import describe
from export.checkpoints.loading import describe_mismatch, load_checkpoint
from export.checkpoints.state import is_counter
from export.config.contract import Signature
from export.errors import CheckpointError
from export.experts.cnn.bodies import NETWORKS, VGG16_STRIDE, vgg16_kernel, vgg16_map
from export.experts.cnn.checkpoint import (
    Described,
    check_architecture,
    describe_settings,
    look_alike,
)
from export.experts.cnn.heads import NamedWeights, name_weights, suggest_head
from export.experts.cnn.layouts import Layout, settings_for, timm_names, unused_heads
from export.experts.cnn.settings import CnnSettings
from export.faces.verification import verification_images
from export.graph.preprocessing import Normalize, Readout
from export.graph.torch_expert import TorchExpert
from runtime.geometry import Geometry
from runtime.manifest import InputSpec

_RANDOM_LOGIT_STD = 2.0
"""Standard deviation of a random network's logits, so that faces get different ages."""
_BRANCH_GAIN = 0.1
"""Gain of the residual branches in a random ResNet. At full gain they dominate the shortcuts,
features hardly differ between faces, and the last layer would amplify rounding errors."""


class CnnExpert(nn.Module):
    """From uint8 (N, H, W, 3) to `age_years` (N,) and, with classes, `age_probs` (N, A)."""

    def __init__(self, architecture: str, settings: CnnSettings) -> None:
        """Builds the network with timm's own initialization."""
        super().__init__()
        self.settings = settings
        self.normalize = Normalize(settings.normalization)
        self.readout = Readout(settings.head)
        self.network = NETWORKS[architecture](settings, self.readout.classes)

    def features(self, face: Tensor) -> Tensor:
        """Returns the inputs of the last layer, float32 (N, F)."""
        features = self.network.forward_features(self.normalize(face))  # type: ignore[operator]
        pooled: Tensor = self.network.forward_head(features, pre_logits=True)  # type: ignore[operator]
        return pooled.flatten(1)

    def forward(self, face: Tensor) -> tuple[Tensor, ...]:
        """Estimates ages in years from pixels."""
        return self.readout(self.network(self.normalize(face)))  # type: ignore[no-any-return]


def cnn_module(architecture: str, settings: CnnSettings, seed: int = 0) -> CnnExpert:
    """Returns a network with seeded random weights; PyTorch's global seed stays untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CnnExpert(architecture, settings).eval()


def settle(module: CnnExpert, images: Tensor, *, seed: int = 0) -> None:
    """Gives random weights the statistics of trained ones, in place.

    Batch normalization takes its statistics from the images, and the last layer is redrawn with
    spread outputs. Otherwise activations would explode, or every face would get the same age.

    Args:
        module: with random weights.
        images: uint8 (N, H, W, 3).
        seed: of the last layer.
    """
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        branch_end = getattr(layer, "bn3", None)
        if isinstance(branch_end, nn.BatchNorm2d):
            nn.init.constant_(branch_end.weight, _BRANCH_GAIN)
    with torch.inference_mode():
        module.features(images)
        module.eval()
        features = module.features(images)
    head = module.network.get_classifier()  # type: ignore[operator]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(head.weight.shape, generator=generator)
    spread = (features.std(dim=0).square().sum().sqrt()).clone()
    with torch.no_grad():
        head.weight.copy_(noise * (_RANDOM_LOGIT_STD / spread))
        head.bias.copy_(-(features.mean(dim=0) @ head.weight.T))


def load_cnn(module: CnnExpert, architecture: str, state: Mapping[str, Tensor]) -> None:
    """Loads a checkpoint of any known layout, with or without wrappers.

    The module has to be built with the settings that the layout determines, as by `build_cnn`.

    Raises:
        CheckpointError: keys or shapes do not fit; all of them are listed.
    """
    wanted = module.network.state_dict()
    named = name_weights(architecture, state, module.settings.head_layer)
    plain, names = named.state, timm_names(named.layout, list(named.state))
    shaped = {key: _shaped(plain[name], wanted.get(key)) for key, name in names.items()}
    mismatch = describe_mismatch(architecture, shaped, wanted)
    if mismatch:
        unexpected = sorted(shaped.keys() - wanted.keys())
        missing = [k for k in wanted.keys() - shaped.keys() if not is_counter(k)]
        raise CheckpointError(
            *mismatch,
            f"Check `architecture`, `head` and `age_grid` of this expert."
            f"{look_alike(unexpected, missing)}{suggest_head(named, names, wanted.keys())}",
        )
    module.network.load_state_dict(shaped, strict=False)  # counters are left out


def build_cnn(
    architecture: str, settings: CnnSettings, geometry: Geometry, checkpoint: Path | None
) -> TorchExpert:
    """Builds the expert with the weights of a checkpoint, or with seeded random ones.

    Settings that experts.toml leaves open follow the checkpoint's names and its config.json. What
    was taken from there is recorded in the manifest, in `details`.

    Raises:
        CheckpointError: the weights cannot be loaded or do not fit, or the checkpoint contradicts
            the settings.
    """
    if checkpoint is None:
        module = cnn_module(architecture, settings)
        expert = cnn_expert(module, settings, geometry)
        images = verification_images(expert.signature.inputs)
        settle(module, torch.from_numpy(images["face"]))
        return expert
    loaded = load_checkpoint(checkpoint, settings.weights_key)
    description = describe(checkpoint, loaded.metadata)
    check_architecture(architecture, description)
    described = describe_settings(settings, geometry, description)
    named = name_weights(architecture, loaded.state, settings.head_layer)
    layout = named.layout
    settings = settings_for(layout, described.settings)
    _check_size(layout, settings)
    module = cnn_module(architecture, settings)
    load_cnn(module, architecture, loaded.state)
    facts = _facts(named, described)
    return cnn_expert(module, settings, described.geometry, {**facts, **loaded.facts})


def count_cnn_parameters(architecture: str, settings: CnnSettings) -> int:
    """Counts the weights without creating them."""
    with torch.device("meta"):
        module = cnn_module(architecture, settings)
    return sum(parameter.numel() for parameter in module.parameters())


def cnn_expert(
    module: CnnExpert,
    settings: CnnSettings,
    geometry: Geometry,
    facts: Mapping[str, Any] | None = None,
) -> TorchExpert:
    """Returns the module as an expert of the pipeline.

    Args:
        module: the network.
        settings: of the network.
        geometry: of its input.
        facts: about the checkpoint, for the manifest.
    """
    inputs = (InputSpec("face", settings.height, settings.width, geometry),)
    readout = module.readout
    signature = Signature(
        inputs,
        readout.outputs,
        readout.age_grid,
        facts or {},
        whole_years=settings.head.round_years,
    )
    return TorchExpert(module, signature)


def _facts(named: NamedWeights, described: Described) -> dict[str, Any]:
    """Returns what the checkpoint determined, for the manifest."""
    unused = [*unused_heads(named.layout, list(named.state)), *named.unused_heads]
    entries = {"from_config_json": described.taken, "overruled": described.overruled}
    facts: dict[str, Any] = {"unused_heads": unused} if unused else {}
    if named.head_layer:
        facts["head_layer"] = named.head_layer
    name = named.layout.name
    return {"layout": name, **facts, **{key: dict(v) for key, v in entries.items() if v}}


def _shaped(value: Tensor, wanted: Tensor | None) -> Tensor:
    """Turns a dense layer's weights into those of the convolution that computes it, or back."""
    same = wanted is not None and value.numel() == wanted.numel() and len(value) == len(wanted)
    if wanted is not None and same and {value.ndim, wanted.ndim} == {2, 4}:
        return value.reshape(wanted.shape)
    return value


def _check_size(layout: Layout, settings: CnnSettings) -> None:
    """Raises an error if the pictures' size does not suit a layout's dense layer."""
    kernel = vgg16_kernel(settings)
    if layout.one_position and vgg16_map(settings) != (kernel, kernel):
        low = kernel * VGG16_STRIDE
        raise CheckpointError(
            f"{layout.name}'s VGG16 takes pictures of {low} to {low + VGG16_STRIDE - 1} pixels, "
            f"because its first dense layer covers the whole map; input_size is "
            f"{settings.height}x{settings.width}. Give input_size = {low}."
        )
