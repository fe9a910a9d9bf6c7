"""Intervals: quantiles of (true age - fused age) by fused age, for every set of experts.

The residuals come from faces held out of the fit. At each year of the age grid they are weighted
by the distance of their own fused age (tricube over the k nearest, k = 0.6 n^0.8, the usual rate
for kernel smoothing). All quantiles are those of one weighted distribution, so they cannot cross.
Each level is moved outward by (m + 1) / m, where m is the effective number of neighbors, as in
split conformal prediction (Vovk et al., Algorithmic Learning in a Random World): few faces give
wider intervals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from export.calibration.folds import Folds
from runtime.fusion import AGE_GRID, Floats, Spread

FEWEST_FACES = 30
"""Fewer do not support the 5 % and 95 % quantiles."""
_LEVELS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
_NEIGHBORS, _FEWEST_NEIGHBORS = 0.6, 60
_TRICUBE_EFFICIENCY = 0.7
"""Effective number of neighbors under tricube weights, as a share of their number."""
_EVERY_SUBSET_UP_TO = 6


def subsets_of(names: Sequence[str]) -> list[frozenset[str]]:
    """Returns the sets of experts with an interval, the full set first.

    Up to six experts: every set. More, as their sets double with each one: all experts, all but
    one, all but two, pairs and singles.
    """
    count = len(names)
    sizes = set(range(1, count + 1))
    if count > _EVERY_SUBSET_UP_TO:
        sizes = {count, count - 1, count - 2, 2, 1}
    return [
        frozenset(chosen)
        for size in sorted(sizes, reverse=True)
        for chosen in combinations(names, size)
    ]


def levels_for(faces: int) -> tuple[float, ...]:
    """Returns the levels that this many faces support: none rarer than one of the neighbors."""
    rarest = 1.0 / (_TRICUBE_EFFICIENCY * _neighbors(faces) + 1.0)
    lower = [level for level in _LEVELS if level >= rarest]
    return (*lower, *(round(1.0 - level, 6) for level in reversed(lower[:-1])))


def fit_spread(
    fused_years: Mapping[frozenset[str], Floats], age_years: Floats, age_grid: Floats = AGE_GRID
) -> Spread:
    """Fits residual quantiles to (N,) fused ages of held-out faces, by set of experts."""
    levels = levels_for(len(age_years))
    return Spread(
        levels,
        {
            names: np.round(quantile_table(fused, age_years - fused, levels, age_grid), 3)
            for names, fused in fused_years.items()
        },
    )


def held_out_quantiles(
    fused_years: Floats, age_years: Floats, folds: Folds, levels: Sequence[float]
) -> Floats:
    """Returns (N, L) residual quantiles of each face, from the residuals of the other folds."""
    quantiles = np.zeros((len(age_years), len(levels)))
    residuals = age_years - fused_years
    for fold in np.unique(folds):
        held = folds == fold
        table = quantile_table(fused_years[~held], residuals[~held], levels)
        quantiles[held] = quantiles_at(table, AGE_GRID, fused_years[held])
    return quantiles


def quantile_table(
    fused_years: Floats,
    residual_years: Floats,
    levels: Sequence[float],
    age_grid: Floats = AGE_GRID,
) -> Floats:
    """Returns (G, L) residual quantiles by fused age, on the age grid."""
    order = np.argsort(fused_years, kind="stable")
    fused, residuals = fused_years[order], residual_years[order]
    count = _neighbors(len(fused))
    rows = []
    for age in age_grid:
        reach = np.maximum(age - fused[: len(fused) - count + 1], fused[count - 1 :] - age)
        near = slice(start := int(np.argmin(reach)), start + count)
        distance = np.abs(fused[near] - age) / (float(reach[start]) + 1e-6)
        rows.append(_weighted_quantiles(residuals[near], (1.0 - distance**3) ** 3, levels))
    return np.stack(rows)


def quantiles_at(table: Floats, age_grid: Floats, age_years: Floats) -> Floats:
    """Returns (N, L) values of a (G, L) table at (N,) ages; linear, and flat outside the grid."""
    return np.stack([np.interp(age_years, age_grid, column) for column in table.T], axis=1)


def _neighbors(faces: int) -> int:
    return min(faces, max(_FEWEST_NEIGHBORS, int(_NEIGHBORS * math.pow(faces, 0.8))))


def _weighted_quantiles(values: Floats, weights: Floats, levels: Sequence[float]) -> Floats:
    order = np.argsort(values, kind="stable")
    share = weights[order] / weights.sum()
    effective = 1.0 / float((share**2).sum())
    outward = 0.5 + (np.asarray(levels) - 0.5) * (effective + 1.0) / effective
    return np.interp(outward, np.cumsum(share) - 0.5 * share, values[order])
