"""The table `[detector]` of experts.toml: the network that finds faces in photographs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DETECTOR = "detector"
"""Name of the table, and the detector's in the place of an expert's name."""
DETECTOR_KINDS = ("centerface",)
DETECTOR_KEYS = ("kind", "checkpoint", "sha256", "license")


@dataclass(frozen=True, slots=True)
class DetectorConfig:
    """The detector of an engines folder."""

    kind: str
    """One of `DETECTOR_KINDS`."""
    checkpoint: str
    """A location of the given ONNX file, as in `export.checkpoints.sources`."""
    sha256: str | Mapping[str, str] | None = None
    """The only file to accept; None accepts any."""
    license: str | None = None
    """Of the file; None if none is stated."""
