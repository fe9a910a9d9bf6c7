"""The record that describes an architecture, and the configuration of one expert of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export.config.contract import BuiltExpert
from runtime.geometry import Geometry, Pixels
from runtime.json_reader import JsonReader

if TYPE_CHECKING:
    from torch import Tensor

CPU_VARIANTS = {"fp32": "onnx", "fp16": "onnx", "bf16": "openvino", "int8": "openvino"}
"""Backend of each precision variant of an ordinary network, before any TensorRT engine.

OpenVINO multiplies in bfloat16, and in INT8 with ranges measured beforehand. ONNX Runtime lacks the
former and gains little from the latter."""


@dataclass(frozen=True, slots=True)
class ExpertConfig:
    """One expert to build."""

    name: str
    architecture: str
    """A key of `export.experts.registry.ARCHITECTURES`."""
    checkpoint: str | None
    """A location, as in `export.checkpoints.sources`; a path is absolute or from the current
    folder."""
    geometry: Geometry
    settings: Any
    """The settings dataclass of its architecture."""
    views: tuple[str, ...] = ()
    """Views besides the picture itself that the graph averages over, some of `VIEWS`."""
    sha256: str | Mapping[str, str] | None = None
    """The only checkpoint to accept, as in `export.checkpoints.pins`; None accepts any."""
    license: str | None = None
    """Of the checkpoint; None if none is stated."""
    keep_fp32: tuple[str, ...] = ()
    """Layers that stay in FP32 in the FP16 variant, besides those that always do."""

    def described(self) -> dict[str, Any]:
        """Returns all that shapes the FP32 graph but the weights, ready for a fingerprint."""
        origin = ("checkpoint", "sha256", "license", "keep_fp32")
        return {key: value for key, value in asdict(self).items() if key not in origin}


@dataclass(frozen=True, slots=True)
class Architecture:
    """Everything the exporter knows about one architecture.

    The callables import PyTorch only when called, so that options are validated without it.
    """

    revision: int
    """To be raised with every change of the graphs that are written."""
    read_settings: Callable[[JsonReader], Any]
    """Reads an expert's table of experts.toml and validates it."""
    build: Callable[[ExpertConfig, Path | None], BuiltExpert]
    """Builds the expert from a checkpoint, or from seeded random weights where that is None."""
    count_parameters: Callable[[ExpertConfig, Path | None], int]
    """Counts the weights of the graph without creating them."""
    geometry: Geometry = field(default_factory=Geometry)
    """Geometry of an expert whose table does not give it."""
    variants: Mapping[str, str] = field(default_factory=lambda: CPU_VARIANTS)
    """Backend of every precision variant it can have, by precision."""
    fit_demo: FitDemo | None = None
    """Fits demo weights."""
    demo_revision: int = 1
    """To be raised with every change of the demo weights."""
    checkpoint_is_folder: bool = False
    """The checkpoint is a folder: weights and other files."""
    checkpoint_kind: str = "checkpoint"
    """Kind of `runtime.manifest.Source` for an expert built from a checkpoint; an architecture of
    kind `onnx` has no placeholder weights."""

    @property
    def reference(self) -> str:
        """What a built file is compared with, for messages."""
        return "the given ONNX file" if self.checkpoint_kind == "onnx" else "PyTorch"

    @property
    def has_placeholders(self) -> bool:
        """Whether there are random and demo weights."""
        return self.checkpoint_kind != "onnx"


FitDemo = Callable[[ExpertConfig, Path, Pixels, NDArray[np.float64]], "Mapping[str, Tensor]"]
"""From the configuration, a folder for files other than weights, faces uint8 (N, size, size, 3) RGB
and their ages in years (N,) to the weights of a demo checkpoint."""
