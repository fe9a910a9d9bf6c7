"""VGG16 and ResNet50 on timm, full size or shrunk, with an age head."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.checkpoints.loading import describe_mismatch, load_checkpoint
from export.checkpoints.state import plain_state
from export.config.contract import Signature
from export.errors import CheckpointError
from export.experts.cnn.settings import CnnSettings
from export.faces.verification import verification_images
from export.graph.preprocessing import Normalize, Readout
from export.graph.torch_expert import TorchExpert
from runtime.geometry import Geometry
from runtime.manifest import InputSpec

_VGG16_CHANNELS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
_VGG16_POOL_AFTER = (1, 3, 6, 9, 12)
_VGG16_STRIDE = 2 ** len(_VGG16_POOL_AFTER)
_TORCHVISION_VGG = {
    "classifier.0": "pre_logits.fc1",
    "classifier.3": "pre_logits.fc2",
    "classifier.6": "head.fc",
}
"""timm has 1×1 and 7×7 convolutions and a linear head for torchvision's fully connected layers."""
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
        self.normalize = Normalize(settings.normalization)
        self.readout = Readout(settings.head)
        self.network = _NETWORKS[architecture](settings, self.readout.classes)

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
    """Loads a checkpoint of timm or torchvision, with or without wrappers.

    Raises:
        CheckpointError: keys or shapes do not fit; all of them are listed.
    """
    plain = dict(plain_state(state))
    if architecture == "vgg16":
        plain = _timm_vgg(plain)
    wanted = module.network.state_dict()
    mismatch = describe_mismatch(architecture, plain, wanted)
    if mismatch:
        raise CheckpointError(
            f"{mismatch}\nCheck `architecture`, `head` and `age_grid` of this expert."
        )
    module.network.load_state_dict(plain, strict=False)  # counters are left out


def build_cnn(
    architecture: str, settings: CnnSettings, geometry: Geometry, checkpoint: Path | None
) -> TorchExpert:
    """Builds the expert with the weights of a checkpoint, or with seeded random ones.

    Raises:
        CheckpointError: the weights cannot be loaded or do not fit.
    """
    module = cnn_module(architecture, settings)
    expert = cnn_expert(module, settings, geometry)
    if checkpoint is None:
        images = verification_images(expert.signature.inputs)
        settle(module, torch.from_numpy(images["face"]))
    else:
        load_cnn(module, architecture, load_checkpoint(checkpoint).state)
    return expert


def count_cnn_parameters(architecture: str, settings: CnnSettings) -> int:
    """Counts the weights without creating them."""
    with torch.device("meta"):
        module = cnn_module(architecture, settings)
    return sum(parameter.numel() for parameter in module.parameters())


def cnn_expert(module: CnnExpert, settings: CnnSettings, geometry: Geometry) -> TorchExpert:
    """Returns the module as an expert of the pipeline."""
    inputs = (InputSpec("face", settings.height, settings.width, geometry),)
    readout = module.readout
    return TorchExpert(module, Signature(inputs, readout.outputs, readout.age_grid))


def _timm_vgg(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        layer, _, kind = key.rpartition(".")
        name = _TORCHVISION_VGG.get(layer, layer)
        shaped = value
        if kind == "weight" and name == "pre_logits.fc1" and value.ndim == 2:
            shaped = value.reshape(len(value), -1, 7, 7)
        if kind == "weight" and name == "pre_logits.fc2" and value.ndim == 2:
            shaped = value.reshape(*value.shape, 1, 1)
        renamed[f"{name}.{kind}"] = shaped
    return renamed


def _vgg16(settings: CnnSettings, classes: int) -> nn.Module:
    from timm.layers.classifier import ClassifierHead
    from timm.models.vgg import VGG, ConvMlp

    layers: list[Any] = []
    for index, channels in enumerate(_VGG16_CHANNELS):
        layers.append(_shrunk(channels, settings.width_factor))
        if index in _VGG16_POOL_AFTER:
            layers.append("M")
    network = VGG(layers, num_classes=classes)
    if settings.width_factor < 1.0:
        # timm's hidden layers have 4096 channels over 7×7 positions; these follow the shrunk sizes.
        hidden = _shrunk(4096, settings.width_factor)
        positions = min(settings.height, settings.width) // _VGG16_STRIDE
        network.pre_logits = ConvMlp(layers[-2], hidden, positions)
        network.head = ClassifierHead(hidden, classes, pool_type="avg")
    network.head.global_pool = _MeanPool()
    return network


def _resnet50(settings: CnnSettings, classes: int) -> nn.Module:
    from timm.models.resnet import Bottleneck, ResNet

    factor = settings.width_factor
    network = ResNet(
        Bottleneck,  # type: ignore[arg-type]
        (3, 4, 6, 3),
        num_classes=classes,
        stem_width=_shrunk(64, factor),
        channels=tuple(_shrunk(channels, factor) for channels in (64, 128, 256, 512)),
        zero_init_last=False,
    )
    network.global_pool = _MeanPool()
    return network


class _MeanPool(nn.Module):
    """Mean over all positions, like timm's adaptive pool to 1×1, but a single ONNX node."""

    def forward(self, features: Tensor) -> Tensor:
        """Pools (N, C, H, W) to (N, C)."""
        return features.mean(dim=(2, 3))


_NETWORKS = {"vgg16": _vgg16, "resnet50": _resnet50}


def _shrunk(channels: int, factor: float) -> int:
    return max(round(channels * factor / 8) * 8, 8)
