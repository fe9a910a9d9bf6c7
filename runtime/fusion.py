"""Fuses the experts' ages: bias correction, gate and interval, from tables. NumPy only.

For one face and the set S of experts that answered with ages a_i, on the age grid g:

1. correct  c_i = a_i + interp(a_i; g, bias_i)       the expert's own systematic error
2. pivot    p   = sum_i v_i c_i,  v = softmax over S of base_i
3. gate     w   = softmax over S of interp(p; g, gate_i)
4. fuse     age = sum_i w_i c_i, clipped to the grid
5. spread   residual quantiles of S at age give the interval and P(true age >= t)

Bias and gate are the paper's mini-MLP and gating network (AgeMoE, MVA 2025), each a function of
one number and therefore tabulated. Interpolation is linear, and flat outside the grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from runtime.json_reader import SHA256
from runtime.results import ResidualQuantiles

Floats = NDArray[np.float64]

AGE_GRID: Floats = np.arange(101.0)
"""The standard age grid, in years."""


@dataclass(frozen=True, slots=True, eq=False)
class ExpertTable:
    """The tables of one expert."""

    bias_years: Floats
    """(G,) added to the raw prediction, by the raw prediction."""
    gate_logit: Floats
    """(G,) logit of the expert's weight, by the pivot age."""
    base_logit: float = 0.0
    """Logit of the expert's weight in the pivot."""
    source_sha256: SHA256 | None = None
    """Of the checkpoint the table was fitted for; None if fitted on predictions alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """Quantiles of (true age - fused age) for every set of experts that may answer."""

    levels: tuple[float, ...]
    """(L,) increasing, within (0, 1)."""
    quantiles_years: Mapping[frozenset[str], Floats]
    """By the set of experts that answered: (G, L), by fused age, non-decreasing along L."""


@dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """The fused ages of N faces."""

    age_years: Floats
    """(N,)"""
    corrected_years: Floats
    """(N, E); NaN for experts that did not answer."""
    weights: Floats
    """(N, E); each row adds up to 1; 0 for experts that did not answer."""


@dataclass(frozen=True, slots=True, eq=False)
class FusionTables:
    """The content of `fusion.json`."""

    age_grid: Floats
    """(G,) increasing, in years."""
    experts: Mapping[str, ExpertTable]
    """By name."""
    spread: Spread | None = None
    """None if no intervals were fitted."""
    provenance: Mapping[str, object] = field(default_factory=dict)
    """Origin of the tables: faces, sources, cross-validated errors."""

    @classmethod
    def identity(cls, names: Iterable[str]) -> FusionTables:
        """Returns neutral tables: zero bias, equal weights, no interval."""
        zeros = np.zeros_like(AGE_GRID)
        return cls(AGE_GRID, {name: ExpertTable(zeros, zeros) for name in names})

    def fuse(self, names: Sequence[str], ages_years: Floats) -> Fused:
        """Steps 1 to 4 for a batch.

        Args:
            names: the E experts, in the order of the columns.
            ages_years: (N, E) raw predictions; NaN for experts that did not answer. Every row has
                at least one prediction.

        Returns:
            Fused ages, corrected predictions and weights.
        """
        tables = [self.experts[name] for name in names]
        answered = np.isfinite(ages_years)
        corrected, gates = ages_years.copy(), np.empty(ages_years.shape)
        for column, table in enumerate(tables):
            corrected[:, column] += np.interp(
                ages_years[:, column], self.age_grid, table.bias_years
            )
        bases = np.array([table.base_logit for table in tables])
        pivot = _weighted_sum(_softmax(bases, answered), corrected)
        for column, table in enumerate(tables):
            gates[:, column] = np.interp(pivot, self.age_grid, table.gate_logit)
        weights = _softmax(gates, answered)
        fused = np.clip(_weighted_sum(weights, corrected), self.age_grid[0], self.age_grid[-1])
        return Fused(fused, corrected, weights)

    def residuals_at(self, answered: frozenset[str], age_years: float) -> ResidualQuantiles | None:
        """Returns the residual quantiles of a set of experts at a fused age (step 5).

        Args:
            answered: names of the experts that answered.
            age_years: the fused age.

        Returns:
            The quantiles; None if none were fitted for exactly this set.
        """
        if self.spread is None or answered not in self.spread.quantiles_years:
            return None
        table = self.spread.quantiles_years[answered]
        position = float(np.interp(age_years, self.age_grid, np.arange(len(self.age_grid))))
        row = min(int(position), len(self.age_grid) - 2)
        share = position - row
        years = (1.0 - share) * table[row] + share * table[row + 1]
        return ResidualQuantiles(self.spread.levels, tuple(years.tolist()))


def _softmax(logits: Floats, answered: NDArray[np.bool_]) -> Floats:
    """Returns (N, E), row by row over the experts that answered, 0 for the others.

    The logits may be (E,) or (N, E).
    """
    masked = np.where(answered, logits, -np.inf)
    exponentials = np.exp(masked - masked.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def _weighted_sum(weights: Floats, values: Floats) -> Floats:
    """Returns the (N,) sums over the experts, ignoring NaN at zero weight."""
    return np.asarray(np.sum(weights * np.where(weights > 0.0, values, 0.0), axis=1))
