"""What every expert is to the pipeline: a graph that can be written and a reference to trust."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.manifest import InputSpec

Images = Mapping[str, NDArray[np.uint8]]
"""By input name: uint8 (N, H, W, 3), RGB."""
Outputs = dict[str, NDArray[np.float32]]
"""By output name: float32 (N, …)."""


FP32_OPERATORS = (
    "LayerNormalization",
    "Softmax",
    "Pow",
    "ReduceMean",
    "ReduceSum",
    "Sqrt",
    "Div",
    "Exp",
    "Log",
    "Resize",
)
"""Usually kept in FP32 wherever they stand: squares, sums over many values and exponentials
overflow or round badly, and none of them takes the time that FP16 is for."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What goes in and what comes out of an expert's graph."""

    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    age_grid: tuple[float, ...] | None = None
    """Ages of the columns of `age_probs`, in years."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the manifest should remember of this architecture."""
    fp32_operators: tuple[str, ...] = FP32_OPERATORS
    """Operators that FP16 leaves in FP32."""
    fold_weights: bool = False
    """Arithmetic on weights is done once, at export, however large they are."""
    few_faces: bool = False
    """A face costs seconds, so that parity is proven on a few of them only."""


class BuiltExpert(Protocol):
    """An expert with its weights, ready to be exported."""

    @property
    def signature(self) -> Signature:
        """What goes in and what comes out."""
        ...

    def write_onnx(self, path: Path) -> None:
        """Writes the FP32 graph that honors the contract."""
        ...

    def reference(self, images: Images) -> Outputs:
        """What the graph has to compute, by other means."""
        ...
