"""Fusion tables with a pivot gate, written down expert by expert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from runtime.fusion import AGE_GRID, ExpertTable, FusionTables, PivotGate, Spread


class Row(NamedTuple):
    """One expert; scalars hold for all ages."""

    bias_years: ArrayLike = 0.0
    gate_logit: ArrayLike = 0.0
    base_logit: float = 0.0
    source_sha256: str | None = None


def pivot_tables(
    experts: Mapping[str, Row],
    *,
    grid: Sequence[float] | None = None,
    spread: Spread | None = None,
    provenance: Mapping[str, object] | None = None,
) -> FusionTables:
    """Tables on one age grid, by default 0 to 100."""
    ages = AGE_GRID if grid is None else np.array(grid)

    def column(values: ArrayLike) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.broadcast_to(np.asarray(values, np.float64), ages.shape).copy()

    tables = {
        name: ExpertTable(ages, column(row.bias_years), row.source_sha256)
        for name, row in experts.items()
    }
    gate = PivotGate(
        tuple(experts),
        ages,
        np.stack([column(row.gate_logit) for row in experts.values()]),
        np.array([row.base_logit for row in experts.values()]),
    )
    return FusionTables(ages, tables, gate, spread, provenance=provenance or {})
