"""Settings of a given ONNX file."""

from __future__ import annotations

from dataclasses import dataclass

from export.config.settings import (
    COMMON_KEYS,
    HEAD_KEYS,
    NORMALIZATION_KEYS,
    AgeHead,
    Normalization,
    choice,
    optional,
    read_age_head,
    read_input_size,
    read_normalization,
)
from runtime.json_reader import JsonReader

LAYOUTS = ("NCHW", "NHWC")
_KEYS = ("input_size", "layout", "output", "probabilities")


@dataclass(frozen=True, slots=True)
class OnnxSettings:
    """A given ONNX file with one float32 image input, wrapped into the contract."""

    height: int
    width: int
    normalization: Normalization
    head: AgeHead
    layout: str
    """`NCHW` or `NHWC`."""
    output: str | None
    """Name of the output with the age; None for a file with only one output."""
    probabilities: bool
    """With an expectation head: the output holds probabilities instead of logits."""


def read_onnx(entry: JsonReader) -> OnnxSettings:
    """Reads the table of a given ONNX file."""
    entry.only((*COMMON_KEYS, *_KEYS, *NORMALIZATION_KEYS, *HEAD_KEYS))
    height, width = read_input_size(entry)
    head = read_age_head(entry)
    probabilities = optional(entry, "probabilities", JsonReader.boolean, default=False)
    if probabilities and head.kind != "expectation":
        entry.child("probabilities").problem("needs head = 'expectation'")
    return OnnxSettings(
        height,
        width,
        read_normalization(entry),
        head,
        layout=optional(entry, "layout", choice(LAYOUTS), "NCHW"),
        output=entry.child("output").string() if entry.has("output") else None,
        probabilities=probabilities,
    )
