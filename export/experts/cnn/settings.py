"""Settings of the timm networks with an age head, read without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class CnnSettings:
    """A timm network with an age head: `vgg16` and `resnet50`."""

    height: int
    width: int
    normalization: Normalization
    head: AgeHead
    width_factor: float
    """Share of the channels of the full-size network; the demo experts are shrunk."""


def read_cnn(entry: JsonReader) -> CnnSettings:
    """Reads the table of a timm network."""
    entry.only((*COMMON_KEYS, "input_size", "width_factor", *NORMALIZATION_KEYS, *HEAD_KEYS))
    height, width = read_input_size(entry)
    factor = optional(entry, "width_factor", JsonReader.number, 1.0)
    if not 0.0 < factor <= 1.0:
        entry.child("width_factor").problem(f"must be within (0, 1], got {factor}")
    return CnnSettings(height, width, read_normalization(entry), read_age_head(entry), factor)
