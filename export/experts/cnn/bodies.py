"""The bodies of VGG16 and ResNet50: timm's networks, full size or shrunk, and their variants."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from export.experts.cnn.settings import CnnSettings

_VGG16_CHANNELS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
_VGG16_POOL_AFTER = (1, 3, 6, 9, 12)
VGG16_STRIDE = 2 ** len(_VGG16_POOL_AFTER)
_VGG16_KERNEL = 7
"""Side in positions of the first fully connected layer."""


def vgg16_map(settings: CnnSettings) -> tuple[int, int]:
    """Height and width of the last map, in positions."""
    return settings.height // VGG16_STRIDE, settings.width // VGG16_STRIDE


def vgg16_kernel(settings: CnnSettings) -> int:
    """Returns the side of the first dense layer in positions; a shrunk network's fits its map."""
    full = settings.width_factor == 1.0
    return _VGG16_KERNEL if full else min(_VGG16_KERNEL, *vgg16_map(settings))


def _vgg16(settings: CnnSettings, classes: int) -> nn.Module:
    from timm.layers.classifier import ClassifierHead
    from timm.models.vgg import VGG, ConvMlp

    layers: list[Any] = []
    for index, channels in enumerate(_VGG16_CHANNELS):
        layers.append(_shrunk(channels, settings.width_factor))
        if index in _VGG16_POOL_AFTER:
            layers.append("M")
    network = VGG(layers, num_classes=classes)
    kernel = vgg16_kernel(settings)
    if settings.width_factor < 1.0:
        hidden = _shrunk(4096, settings.width_factor)
        network.pre_logits = ConvMlp(layers[-2], hidden, kernel)
        network.head = ClassifierHead(hidden, classes, pool_type="avg")
    network.head.global_pool = _MeanPool()
    size = vgg16_map(settings)
    adaptive = settings.pooling == "adaptive"
    target = (kernel, kernel) if adaptive else (max(kernel, size[0]), max(kernel, size[1]))
    if size != target:
        network.features.append(AdaptivePool(size, target))
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
    if settings.pooling == "caffe":
        network.add_module("maxpool", nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True))
    if settings.stride_on == "1x1":
        for stage in ("layer2", "layer3", "layer4"):
            first: Any = network.get_submodule(f"{stage}.0")
            first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
    return network


class AdaptivePool(nn.Module):
    """PyTorch's adaptive average pooling of maps of a known size, as two products.

    Output i is the mean of the inputs from floor(i * size / target) up to, without,
    ceil((i + 1) * size / target) (aten/src/ATen/native/AdaptivePooling.h). Adaptive pooling itself
    has no counterpart in ONNX unless the sizes divide one another.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, size: tuple[int, int], target: tuple[int, int]) -> None:
        """Prepares the means from maps of `size` to maps of `target`, height and width."""
        super().__init__()
        self.register_buffer("rows", _means(size[0], target[0]), persistent=False)
        self.register_buffer("columns", _means(size[1], target[1]).T, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Pools (N, C, *size) to (N, C, *target)."""
        return self.rows @ (features @ self.columns)


def _means(size: int, target: int) -> Tensor:
    """Returns float32 (target, size): the share of every input in every output."""
    weights = torch.zeros(target, size)
    for i in range(target):
        start, end = i * size // target, -(-(i + 1) * size // target)
        weights[i, start:end] = 1.0 / (end - start)
    return weights


class _MeanPool(nn.Module):
    """Mean over all positions, like timm's adaptive pool to 1×1, but a single ONNX node."""

    def forward(self, features: Tensor) -> Tensor:
        """Pools (N, C, H, W) to (N, C)."""
        return features.mean(dim=(2, 3))


NETWORKS = {"vgg16": _vgg16, "resnet50": _resnet50}


def _shrunk(channels: int, factor: float) -> int:
    return max(round(channels * factor / 8) * 8, 8)
