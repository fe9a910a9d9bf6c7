"""Fusion of the experts' ages: bias correction, gate and interval, from tables. NumPy only.

For one face and the set S of experts with a usable prediction a_i, on the age grid g:

1. correct  c_i = a_i + interp(a_i; knots_i, bias_i)      the expert's own systematic error
2. gate     w_i, a softmax over S, in one of two forms:
     pivot    p = sum_i v_i c_i,  v = softmax over S of base_i
              w = softmax over S of interp(p; g, gate_i)
     linear   w = softmax over S of (A x + b)_i,  x_i = a_i, or 0 for experts not in S
3. fuse     age = sum_i w_i c_i, clipped to the grid
4. spread   residual quantiles of S at age give the interval and P(true age >= t)

The linear form is the one that AgeMoE's authors published: their corrector, a small network of one
number with ReLU, is piecewise linear and therefore exact in a table on knots of its own, and a
softmax over S equals theirs over all experts, masked and divided by its sum. The pivot form makes
the gate a function of the age alone. Interpolation is linear, and constant outside the knots.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from runtime.pooling import Correlation
from runtime.results import ResidualQuantiles

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

AGE_GRID: Floats = np.arange(101.0)
"""Default grid of the tables, in years."""


@dataclass(frozen=True, slots=True, eq=False)
class ExpertTable:
    """Bias correction of one expert."""

    knots_years: Floats
    """(K,) raw predictions, increasing."""
    bias_years: Floats
    """(K,) years added to a raw prediction, at the knots."""
    source_sha256: str | None = None
    """The checkpoint the table was fitted for; None when fitted on predictions alone."""
    fingerprint: str | None = None
    """Of the expert the table was fitted for, as `Expert.fingerprint`; None when unknown."""


@dataclass(frozen=True, slots=True, eq=False)
class PivotGate:
    """Weights as a function of one age, the pivot."""

    names: tuple[str, ...]
    """The E experts, in the order of the rows."""
    age_grid: Floats
    """(G,) pivot ages, increasing, in years."""
    logit: Floats
    """(E, G) logits by pivot age."""
    base_logit: Floats
    """(E,) logits of the pivot's own weights."""

    def weights(self, names: Sequence[str], raw_years: Floats, corrected_years: Floats) -> Floats:
        """Returns the weights of N faces; see `Gate`."""
        rows = [self.names.index(name) for name in names]
        answered = np.isfinite(raw_years)
        pivot = _weighted_sum(_softmax(self.base_logit[rows], answered), corrected_years)
        logits = np.empty(raw_years.shape)
        for column, row in enumerate(rows):
            logits[:, column] = np.interp(pivot, self.age_grid, self.logit[row])
        return _softmax(logits, answered)


@dataclass(frozen=True, slots=True, eq=False)
class LinearGate:
    """Weights as a softmax of a linear function of all raw predictions."""

    names: tuple[str, ...]
    """The E experts, in the order of rows and columns."""
    slopes: Floats
    """(E, E) logit of the row's expert per year predicted by the column's expert."""
    bias: Floats
    """(E,) logits at 0 years."""

    def weights(self, names: Sequence[str], raw_years: Floats, corrected_years: Floats) -> Floats:
        """Returns the weights of N faces; see `Gate`."""
        del corrected_years
        rows = [self.names.index(name) for name in names]
        answered = np.isfinite(raw_years)
        slopes = self.slopes[np.ix_(rows, rows)]
        logits = np.where(answered, raw_years, 0.0) @ slopes.T + self.bias[rows]
        return _softmax(logits, answered)


Gate = PivotGate | LinearGate
"""`weights(names, raw_years, corrected_years)` takes (N, E) ages, NaN where an expert has no usable
prediction, and returns (N, E) weights; each row adds up to 1, with 0 where there was NaN."""


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """Residual quantiles (true age - fused age) for every set of experts that may answer."""

    levels: tuple[float, ...]
    """(L,) increasing, within (0, 1)."""
    quantiles_years: Mapping[frozenset[str], Floats]
    """By the set of experts that answered: (G, L), by fused age, never decreasing along L."""


@dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """The fused ages of N faces."""

    age_years: Floats
    """(N,); NaN for a face without a usable prediction."""
    corrected_years: Floats
    """(N, E); NaN where an expert has no usable prediction."""
    weights: Floats
    """(N, E); each row adds up to 1, with 0 where an expert has no usable prediction."""


@dataclass(frozen=True, slots=True, eq=False)
class FusionTables:
    """The contents of `fusion.json`."""

    age_grid: Floats
    """(G,) increasing, in years: range of the fused age, and grid of the spread."""
    experts: Mapping[str, ExpertTable]
    """By name."""
    gate: Gate
    """Of the same experts."""
    spread: Spread | None = None
    """None when no intervals were fitted."""
    largest_raw_years: float = np.inf
    """Raw predictions above it are not usable."""
    detector: str | None = None
    """Provenance of the detector that found the faces; None where boxes or predictions were given.
    """
    provenance: Mapping[str, object] = field(default_factory=dict)
    """Origin of the tables: faces, sources, cross-validated errors."""
    correlation: Correlation | None = None
    """None when it was not fitted."""
    sha256: str | None = None
    """Of the file they were read from; None for tables that are not from a file."""

    @classmethod
    def identity(cls, names: Iterable[str]) -> FusionTables:
        """Tables that change nothing: zero bias, equal weights, no interval."""
        experts = {name: ExpertTable(AGE_GRID, np.zeros_like(AGE_GRID)) for name in names}
        logits = np.zeros((len(experts), len(AGE_GRID)))
        gate = PivotGate(tuple(experts), AGE_GRID, logits, logits[:, 0])
        return cls(AGE_GRID, experts, gate)

    def usable(self, raw_years: Floats) -> Booleans:
        """Returns which raw predictions take part: finite, and not above `largest_raw_years`."""
        return np.isfinite(raw_years) & (raw_years <= self.largest_raw_years)

    def fuse(self, names: Sequence[str], raw_years: Floats) -> Fused:
        """Performs steps 1 to 3 for a batch.

        Args:
            names: the E experts, in the order of the columns.
            raw_years: (N, E) raw predictions; NaN where an expert has none.

        Returns:
            Fused ages, corrected predictions and weights.
        """
        answered = self.usable(raw_years)
        raw = np.where(answered, raw_years, np.nan)
        corrected = raw.copy()
        for column, name in enumerate(names):
            table = self.experts[name]
            corrected[:, column] += np.interp(raw[:, column], table.knots_years, table.bias_years)
        weights = self.gate.weights(names, raw, corrected)
        ages = np.clip(_weighted_sum(weights, corrected), self.age_grid[0], self.age_grid[-1])
        ages[~answered.any(axis=1)] = np.nan
        return Fused(ages, corrected, weights)

    def residuals_at(self, answered: frozenset[str], age_years: float) -> ResidualQuantiles | None:
        """Performs step 4: the residual quantiles of a set of experts at a fused age.

        Args:
            answered: names of the experts with a usable prediction.
            age_years: the fused age.

        Returns:
            The quantiles; None where none were fitted for exactly this set.
        """
        if self.spread is None or answered not in self.spread.quantiles_years:
            return None
        table = self.spread.quantiles_years[answered]
        position = float(np.interp(age_years, self.age_grid, np.arange(len(self.age_grid))))
        row = min(int(position), len(self.age_grid) - 2)
        share = position - row
        years = (1.0 - share) * table[row] + share * table[row + 1]
        return ResidualQuantiles(self.spread.levels, tuple(years.tolist()))


def _softmax(logits: Floats, answered: Booleans) -> Floats:
    """(N, E) row by row over the usable predictions, 0 for the others; logits may be (E,)."""
    masked = np.where(answered, logits, -np.inf)
    largest = masked.max(axis=1, keepdims=True)
    exponentials = np.exp(masked - np.where(np.isfinite(largest), largest, 0.0))
    return np.asarray(exponentials / np.maximum(exponentials.sum(axis=1, keepdims=True), 1e-300))


def _weighted_sum(weights: Floats, values: Floats) -> Floats:
    """(N,) sums over the experts, ignoring NaN where the weight is 0."""
    return np.asarray(np.sum(weights * np.where(weights > 0.0, values, 0.0), axis=1))
