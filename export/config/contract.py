"""The contract between experts and the pipeline: a graph to write and a reference to verify it."""

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
"""Usually kept in FP32: squares, sums over many values and exponentials overflow or round badly,
and none of them takes the time that FP16 would save."""


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs of an expert's graph, and how to convert it."""

    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    age_grid: tuple[float, ...] | None = None
    """Ages of the columns of `age_probs`, in years."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Facts about this expert for the manifest."""
    fp32_operators: tuple[str, ...] = FP32_OPERATORS
    """Operators that stay in FP32 in the FP16 variant."""
    fold_weights: bool = False
    """Arithmetic on weights is folded at export, however large they are."""
    whole_years: bool = False
    """`age_years` are whole numbers, so that small differences make them jump: parity is measured
    on the expectation of `age_probs`."""
    half_precision: bool = False
    """The network computes in half precision where it was given so: parity is that of FP16."""
    no_answer: str | None = None
    """Meaning of a NaN in `age_years`; None if it never occurs."""
    few_faces: bool = False
    """A face takes seconds, so parity is verified on a few faces only."""


class BuiltExpert(Protocol):
    """An expert with its weights, ready to be exported."""

    @property
    def signature(self) -> Signature:
        """Inputs and outputs."""
        ...

    def write_onnx(self, path: Path) -> None:
        """Writes the FP32 graph, which meets the contract."""
        ...

    def reference(self, images: Images) -> Outputs:
        """Computes by other means what the graph has to compute."""
        ...
