"""Differences between the values of a layer in a variant and in the FP32 graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.diagnosis.layers import Layer
from export.variants.fp16 import LARGEST_HALF


@dataclass(frozen=True, slots=True)
class LayerError:
    """Differences of one layer from the FP32 graph."""

    layer: Layer
    dtype: str
    """Of the variant's values."""
    max_error: float
    mean_error: float
    """Of the absolute differences, in the layer's own unit."""
    relative_error: float
    """Norm of the differences by the norm of the exact values; infinite where values are lost."""
    largest: float
    """Largest exact magnitude."""
    lost: int
    """Number of values that are NaN or infinite and should not be."""
    saturated: int
    """Number of values at the largest half-precision number."""

    @property
    def snr_db(self) -> float:
        """Signal-to-noise ratio in decibels."""
        if self.relative_error == 0:
            return math.inf
        return (
            -20 * math.log10(self.relative_error) if self.relative_error < math.inf else -math.inf
        )


def measured(layer: Layer, found: NDArray[Any], exact: NDArray[Any]) -> LayerError:
    """Compares the values of a layer, of equal size."""
    true = exact.astype(np.float64).ravel()
    values = found.astype(np.float64).ravel()
    known = np.isfinite(true)
    lost = int((known & ~np.isfinite(values)).sum())
    known &= np.isfinite(values)
    differences = np.abs(values[known] - true[known])
    norm, noise = np.linalg.norm(true[known]), np.linalg.norm(differences)
    relative = 0.0 if noise == 0 else float(noise / norm) if norm else math.inf
    sizes = np.abs(true[np.isfinite(true)])
    half = found.dtype == np.float16
    return LayerError(
        layer=layer,
        dtype=str(found.dtype),
        max_error=math.inf if lost else float(differences.max(initial=0.0)),
        mean_error=math.inf if lost else float(differences.mean()) if differences.size else 0.0,
        relative_error=math.inf if lost else relative,
        largest=float(sizes.max(initial=0.0)),
        lost=lost,
        saturated=int((np.abs(values) == LARGEST_HALF).sum()) if half else 0,
    )
