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
Readings = dict[str, NDArray[np.float32]]
"""By output name: float32 (N, …)."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What goes in and what comes out of an expert's graph."""

    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    age_grid: tuple[float, ...] | None = None
    """Ages of the columns of `age_probs`, in years."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the manifest should remember of this architecture."""


class BuiltExpert(Protocol):
    """An expert with its weights, ready to be exported."""

    @property
    def signature(self) -> Signature:
        """What goes in and what comes out."""
        ...

    def write_onnx(self, path: Path) -> None:
        """Writes the FP32 graph that honours the contract."""
        ...

    def reference(self, images: Images) -> Readings:
        """What the graph has to compute, by other means."""
        ...
