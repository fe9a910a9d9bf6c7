"""Published namings of the CNNs' weights, recognized by their keys.

| layout | VGG16 | ResNet50 |
|---|---|---|
| timm | `pre_logits.fc1` … | torchvision's names |
| torchvision | `classifier.0` … | `layer1.0.conv1` … |
| pytorch-DEX | `conv.0.conv1` … `conv.4.conv3`, `fc1.0`, `fc2.0`, `cls` | |
| Caffe (VGGFace2) | | `conv1_7x7_s2`, `conv2_1_1x1_reduce`, …, `classage` |

A layout stands for one network, so names may also determine a pooling and where strides are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from export.errors import CheckpointError
from export.experts.cnn.settings import CnnSettings

_VGG16_CONVOLUTIONS = (2, 2, 3, 3, 3)
"""In each of VGG16's five blocks; each is followed by a ReLU, each block by a pooling."""
_TORCHVISION_VGG16 = {
    "classifier.0": "pre_logits.fc1",
    "classifier.3": "pre_logits.fc2",
    "classifier.6": "head.fc",
}
"""timm has 7×7 and 1×1 convolutions and a linear head for torchvision's fully connected layers."""
_DEX_VGG16 = {"fc1.0": "pre_logits.fc1", "fc2.0": "pre_logits.fc2", "cls": "head.fc"}
_CAFFE_UNIT = re.compile(r"conv([2-5])_(\d+)_(1x1_reduce|3x3|1x1_increase|1x1_proj)(_bn)?")
_CAFFE_LAYERS = {
    "1x1_reduce": ("conv1", "bn1"),
    "3x3": ("conv2", "bn2"),
    "1x1_increase": ("conv3", "bn3"),
    "1x1_proj": ("downsample.0", "downsample.1"),
}
"""timm's names of a block's convolution and its normalization."""
_CAFFE_STEM = {"conv1_7x7_s2": "conv1", "conv1_7x7_s2_bn": "bn1"}
_CAFFE_HEADS = ("classage", "classifier")
"""The age head is a layer beside the one that recognized identities, or in its place."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A naming of one architecture's weights."""

    name: str
    mark: str
    """A key that only this layout has; empty for the last one."""
    rename: Callable[[str], str]
    """From the name of a layer to timm's."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Settings that the names determine."""
    one_position: bool = False
    """The first dense layer covers the whole last map, so that only one map size fits."""
    heads: tuple[str, ...] = ("fc",)
    """Names of the last layer; the first one present is used, the others are left out."""


def find_layout(architecture: str, keys: Sequence[str]) -> Layout:
    """Returns the layout of a checkpoint by its keys; timm's if they are of none.

    Args:
        architecture: `vgg16` or `resnet50`.
        keys: of the weights, without wrappers' prefixes.
    """
    present = set(keys)
    marked = (layout for layout in LAYOUTS[architecture] if layout.mark in present)
    return next(marked, LAYOUTS[architecture][-1])


def timm_names(layout: Layout, keys: Sequence[str]) -> dict[str, str]:
    """Returns the keys in the checkpoint by timm's keys; unused heads are left out.

    Raises:
        CheckpointError: two keys are of the same layer.
    """
    unused = unused_heads(layout, keys)
    names: dict[str, str] = {}
    for key in keys:
        layer, _, kind = key.rpartition(".")
        if layer in unused:
            continue
        name = f"{layout.rename(layer)}.{kind}" if layer else key
        if name in names:
            raise CheckpointError(
                f"The checkpoint mixes two layouts: {names[name]!r} and {key!r} are both "
                f"{name!r}. Save the weights of one network alone."
            )
        names[name] = key
    return names


def unused_heads(layout: Layout, keys: Sequence[str]) -> list[str]:
    """Returns the names of last layers beside the one that is used."""
    return [head for head in layout.heads if f"{head}.weight" in keys][1:]


def settings_for(layout: Layout, settings: CnnSettings) -> CnnSettings:
    """Completes settings by what a layout determines.

    Raises:
        CheckpointError: experts.toml contradicts the layout.
    """
    for key, fact in layout.facts.items():
        given = getattr(settings, key)
        if given not in (None, fact):
            raise CheckpointError(
                f"experts.toml has {key} = {given!r}, but the checkpoint's names are those of "
                f"{layout.name}, whose network has {key} = {fact!r}. Leave {key} out."
            )
    return replace(
        settings,
        pooling=layout.facts.get("pooling", settings.pooling),
        stride_on=layout.facts.get("stride_on", settings.stride_on),
    )


def _same(layer: str) -> str:
    return layer


def _from_torchvision_vgg16(layer: str) -> str:
    return _TORCHVISION_VGG16.get(layer, layer)


def _dex_vgg16_layers() -> dict[str, str]:
    layers, index = dict(_DEX_VGG16), 0
    for block, convolutions in enumerate(_VGG16_CONVOLUTIONS):
        for number in range(1, convolutions + 1):
            layers[f"conv.{block}.conv{number}"] = f"features.{index}"
            index += 2
        index += 1
    return layers


def _from_dex_vgg16(layer: str) -> str:
    return _DEX_LAYERS.get(layer, layer)


def _from_caffe_resnet50(layer: str) -> str:
    if layer in _CAFFE_HEADS:
        return "fc"
    unit = _CAFFE_UNIT.fullmatch(layer)
    if unit is None:
        return _CAFFE_STEM.get(layer, layer)
    stage, block, kind, norm = unit.groups()
    name = _CAFFE_LAYERS[kind][norm is not None]
    return f"layer{int(stage) - 1}.{int(block) - 1}.{name}"


_DEX_LAYERS = _dex_vgg16_layers()
LAYOUTS: Mapping[str, tuple[Layout, ...]] = {
    "vgg16": (
        Layout(
            "pytorch-DEX",
            "conv.0.conv1.weight",
            _from_dex_vgg16,
            one_position=True,
            heads=("cls",),
        ),
        Layout(
            "torchvision",
            "classifier.0.weight",
            _from_torchvision_vgg16,
            {"pooling": "adaptive"},
            heads=("classifier.6",),
        ),
        Layout("timm", "", _same, heads=("head.fc",)),
    ),
    "resnet50": (
        Layout(
            "VGGFace2 in Caffe",
            "conv1_7x7_s2.weight",
            _from_caffe_resnet50,
            {"pooling": "caffe", "stride_on": "1x1"},
            heads=_CAFFE_HEADS,
        ),
        Layout("timm and torchvision", "", _same),
    ),
}
"""By architecture; the last one is taken where no mark is present."""
