"""VGG16 and ResNet50 in their published layouts, computed from weights by their published names.

Written from the hyperparameters of the publications, with PyTorch's functions alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]
Forward = Callable[[Mapping[str, Tensor], Tensor], Tensor]
"""From weights and normalized pixels (N, 3, H, W) to logits (N, 101)."""

VGG16_BLOCKS = ((1, 2), (1, 2), (1, 2, 3), (1, 2, 3), (1, 2, 3))
RESNET50_BLOCKS = {2: 3, 3: 4, 4: 6, 5: 3}
CLASSES = 101


def dex_vgg16(channels: tuple[int, ...], hidden: int, seed: int = 0) -> State:
    """Random weights in pytorch-DEX's layout; `channels` of the five blocks."""
    g = torch.Generator().manual_seed(seed)
    state: State = {}
    before = 3
    for block, (numbers, width) in enumerate(zip(VGG16_BLOCKS, channels, strict=True)):
        for number in numbers:
            state |= _weights(f"conv.{block}.conv{number}", (width, before, 3, 3), g)
            before = width
    state |= _weights("fc1.0", (hidden, before * 49), g)
    state |= _weights("fc2.0", (hidden, hidden), g)
    return state | _weights("cls", (CLASSES, hidden), g)


def dex_forward(state: Mapping[str, Tensor], pixels: Tensor) -> Tensor:
    """3×3 convolutions with ReLU, 2×2 pooling after each block, three dense layers."""
    x = pixels
    for block, numbers in enumerate(VGG16_BLOCKS):
        for number in numbers:
            x = F.relu(F.conv2d(x, *_of(state, f"conv.{block}.conv{number}"), padding=1))
        x = F.max_pool2d(x, 2)
    x = F.relu(F.linear(x.flatten(1), *_of(state, "fc1.0")))
    x = F.relu(F.linear(x, *_of(state, "fc2.0")))
    return F.linear(x, *_of(state, "cls"))


def torchvision_vgg16(dex: State) -> State:
    """The same weights under torchvision's names."""
    indices = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    layers = [f"conv.{b}.conv{n}" for b, numbers in enumerate(VGG16_BLOCKS) for n in numbers]
    names = {layer: f"features.{i}" for layer, i in zip(layers, indices, strict=True)}
    names |= {"fc1.0": "classifier.0", "fc2.0": "classifier.3", "cls": "classifier.6"}
    return {
        f"{names[layer]}.{kind}": dex[f"{layer}.{kind}"]
        for layer in names
        for kind in ("weight", "bias")
    }


def adaptive_forward(state: Mapping[str, Tensor], pixels: Tensor) -> Tensor:
    """torchvision's VGG16 on weights with pytorch-DEX's names: the last map averaged to 7×7."""
    x = pixels
    for block, numbers in enumerate(VGG16_BLOCKS):
        for number in numbers:
            x = F.relu(F.conv2d(x, *_of(state, f"conv.{block}.conv{number}"), padding=1))
        x = F.max_pool2d(x, 2)
    x = F.adaptive_avg_pool2d(x, 7).flatten(1)
    x = F.relu(F.linear(x, *_of(state, "fc1.0")))
    return F.linear(F.relu(F.linear(x, *_of(state, "fc2.0"))), *_of(state, "cls"))


def caffe_resnet50(channels: tuple[int, ...], seed: int = 0, identities: int = 13) -> State:
    """Random weights in VGGFace2's Caffe layout; `channels` within the blocks of four stages."""
    g = torch.Generator().manual_seed(seed)
    state = _normalized("conv1_7x7_s2", (64, 3, 7, 7), g)
    before = 64
    for (stage, blocks), width in zip(RESNET50_BLOCKS.items(), channels, strict=True):
        for block in range(1, blocks + 1):
            unit = f"conv{stage}_{block}"
            state |= _normalized(f"{unit}_1x1_reduce", (width, before, 1, 1), g)
            state |= _normalized(f"{unit}_3x3", (width, width, 3, 3), g)
            state |= _normalized(f"{unit}_1x1_increase", (4 * width, width, 1, 1), g, gain=0.3)
            if block == 1:
                state |= _normalized(f"{unit}_1x1_proj", (4 * width, before, 1, 1), g)
            before = 4 * width
    state |= _weights("classifier", (identities, before, 1, 1), g)
    return state | _weights("classage", (CLASSES, before, 1, 1), g)


def caffe_forward(state: Mapping[str, Tensor], pixels: Tensor) -> Tensor:
    """Stride 2 in the first 1×1 convolution of stages 3 to 5 and in their projection."""

    def layer(x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        x = F.conv2d(x, state[f"{name}.weight"], stride=stride, padding=padding)
        mean, variance = state[f"{name}_bn.running_mean"], state[f"{name}_bn.running_var"]
        return F.batch_norm(x, mean, variance, *_of(state, f"{name}_bn"), eps=1e-5)

    x = F.relu(layer(pixels, "conv1_7x7_s2", stride=2, padding=3))
    x = F.max_pool2d(x, 3, 2, padding=0, ceil_mode=True)
    for stage, blocks in RESNET50_BLOCKS.items():
        for block in range(1, blocks + 1):
            unit, stride = f"conv{stage}_{block}", 2 if block == 1 and stage > 2 else 1
            inner = F.relu(layer(x, f"{unit}_1x1_reduce", stride=stride))
            inner = F.relu(layer(inner, f"{unit}_3x3", padding=1))
            inner = layer(inner, f"{unit}_1x1_increase")
            shortcut = layer(x, f"{unit}_1x1_proj", stride=stride) if block == 1 else x
            x = F.relu(shortcut + inner)
    x = F.avg_pool2d(x, 7, stride=1)
    return F.conv2d(x, *_of(state, "classage")).flatten(1)


def torchvision_resnet50(caffe: State) -> State:
    """The age network of a Caffe state under torchvision's names, its head a dense layer."""
    kinds = {"1x1_reduce": "1", "3x3": "2", "1x1_increase": "3"}
    renamed: State = {}
    for key, value in caffe.items():
        layer, kind = key.rsplit(".", 1)
        if layer == "classage":
            renamed[f"fc.{kind}"] = value.reshape(value.shape[:2]) if kind == "weight" else value
        elif layer.startswith("conv1_"):
            renamed[f"{'bn1' if layer.endswith('_bn') else 'conv1'}.{kind}"] = value
        elif layer != "classifier":
            norm = layer.endswith("_bn")
            stage, block, part = layer.removesuffix("_bn").removeprefix("conv").split("_", 2)
            name = f"{'bn' if norm else 'conv'}{kinds.get(part)}"
            if part == "1x1_proj":
                name = f"downsample.{int(norm)}"
            renamed[f"layer{int(stage) - 1}.{int(block) - 1}.{name}.{kind}"] = value
    return renamed


def spread(state: State, head: str, forward: Forward, pixels: Tensor) -> State:
    """Scales the last layer so that logits have a standard deviation of 2 over classes."""
    with torch.inference_mode():
        logits = forward(state, pixels)
    scaled = dict(state)
    factor = 2.0 / float(logits.std(dim=0).mean())
    scaled[f"{head}.weight"] = state[f"{head}.weight"] * factor
    scaled[f"{head}.bias"] = (state[f"{head}.bias"] - logits.mean(dim=0)) * factor
    return scaled


def expectation(logits: Tensor) -> NDArray[np.float64]:
    """Expected age in years over the classes 0..100, (N,), in float64."""
    probabilities = torch.softmax(logits.double(), dim=1)
    return (probabilities * torch.arange(CLASSES, dtype=torch.float64)).sum(dim=1).numpy()


def _of(state: Mapping[str, Tensor], layer: str) -> tuple[Tensor, Tensor]:
    return state[f"{layer}.weight"], state[f"{layer}.bias"]


def _weights(layer: str, shape: tuple[int, ...], g: torch.Generator) -> State:
    inputs = int(np.prod(shape[1:]))
    weight = torch.randn(shape, generator=g) * (2.0 / inputs) ** 0.5
    return {f"{layer}.weight": weight, f"{layer}.bias": 0.1 * torch.randn(shape[0], generator=g)}


def _normalized(layer: str, shape: tuple[int, ...], g: torch.Generator, gain: float = 1.0) -> State:
    width = shape[0]
    return {
        f"{layer}.weight": _weights(layer, shape, g)[f"{layer}.weight"],
        f"{layer}_bn.weight": gain * (1.0 + 0.2 * torch.randn(width, generator=g)),
        f"{layer}_bn.bias": 0.2 * torch.randn(width, generator=g),
        f"{layer}_bn.running_mean": 0.2 * torch.randn(width, generator=g),
        f"{layer}_bn.running_var": 0.5 + torch.rand(width, generator=g),
        f"{layer}_bn.num_batches_tracked": torch.tensor(7),
    }
