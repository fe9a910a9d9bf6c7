"""Settings of the timm networks with an age head, read without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field

from export.config.settings import (
    COMMON_KEYS,
    HEAD_KEYS,
    NORMALIZATION_KEYS,
    AgeHead,
    Normalization,
    optional,
    read_age_head,
    read_input_size,
    read_normalization,
)
from runtime.json_reader import JsonReader

VGG16_POOLINGS = ("average", "adaptive")
RESNET50_POOLINGS = ("padded", "caffe")
STRIDES = ("3x3", "1x1")
_DESCRIBED_KEYS = ("input_size", "scale", "mean", "std")
"""Keys that determine whether a description is followed; `geometry.interpolation` is another."""


@dataclass(frozen=True, slots=True)
class CnnSettings:
    """A timm network with an age head: `vgg16` and `resnet50`."""

    height: int
    width: int
    normalization: Normalization
    head: AgeHead
    width_factor: float
    """Share of the channels of the full-size network; the demo experts are shrunk."""
    pooling: str | None = None
    """VGG16, of the last map: `average` over all positions of the first dense layer (timm), or
    `adaptive` to 7×7 before it (torchvision). ResNet50, 3×3 after the first convolution: `padded`
    by 1, or `caffe`, without padding and with incomplete windows at the end. None: by the
    checkpoint's names, else the first."""
    stride_on: str | None = None
    """ResNet50: the convolution of a block that reduces the map, `3x3` (torchvision) or the first
    `1x1` (Caffe). None: by the checkpoint's names, else `3x3`."""
    weights_key: str | None = None
    """Name of the set of weights in a file that holds several, as `model_ema_state_dict`."""
    head_layer: str | None = None
    """Name of the last layer in the checkpoint, where it is not the architecture's own."""
    given: tuple[str, ...] = field(default=(), compare=False)
    """Keys that experts.toml gives, of those that a checkpoint's config.json may give."""


def read_vgg16(entry: JsonReader) -> CnnSettings:
    """Reads the table of a VGG16."""
    return _read_cnn(entry, VGG16_POOLINGS)


def read_resnet50(entry: JsonReader) -> CnnSettings:
    """Reads the table of a ResNet50."""
    return _read_cnn(entry, RESNET50_POOLINGS, strides=True)


def _read_cnn(
    entry: JsonReader, poolings: tuple[str, ...], *, strides: bool = False
) -> CnnSettings:
    own = ["input_size", "width_factor", "pooling", "weights_key", "head_layer"]
    own += ["stride_on"] if strides else []
    entry.only((*COMMON_KEYS, *own, *NORMALIZATION_KEYS, *HEAD_KEYS))
    height, width = read_input_size(entry)
    factor = optional(entry, "width_factor", JsonReader.number, 1.0)
    if not 0.0 < factor <= 1.0:
        entry.child("width_factor").problem(f"must be within (0, 1], got {factor}")
    stride_on = strides and entry.has("stride_on")
    return CnnSettings(
        height,
        width,
        read_normalization(entry),
        read_age_head(entry),
        factor,
        entry.child("pooling").choice(poolings) if entry.has("pooling") else None,
        entry.child("stride_on").choice(STRIDES) if stride_on else None,
        entry.child("weights_key").string() if entry.has("weights_key") else None,
        entry.child("head_layer").string() if entry.has("head_layer") else None,
        _given(entry),
    )


def _given(entry: JsonReader) -> tuple[str, ...]:
    keys = [key for key in _DESCRIBED_KEYS if entry.has(key)]
    if entry.has("geometry") and entry.child("geometry").has("interpolation"):
        keys.append("interpolation")
    return tuple(keys)
