"""What the fits share: the age grid, piecewise-linear tables on coarse nodes, the Huber loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.fusion import Floats

AGE_GRID: Floats = np.arange(0.0, 101.0)
"""(101,) the ages of the finished tables, in years."""
NODES: Floats = np.arange(0.0, 101.0, 5.0)
"""(21,) where a fitted table bends; between nodes it is linear."""
_STEP_YEARS = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class NodeWeights:
    """N ages as linear interpolation between nodes: a table's values are (1-s)·t[j] + s·t[j+1]."""

    left: NDArray[np.intp]
    """(N,) the node below each age."""
    share: Floats
    """(N,) the share of the node above, 0 to 1."""
    inside: NDArray[np.bool_]
    """(N,) False where the age lies beyond the nodes, where tables are flat."""

    @classmethod
    def of(cls, ages_years: Floats) -> NodeWeights:
        """Interpolation weights of (N,) ages; ages beyond the nodes take the outermost one."""
        position = np.clip(ages_years, NODES[0], NODES[-1]) / _STEP_YEARS
        left = np.minimum(position.astype(np.intp), len(NODES) - 2)
        inside = (ages_years > NODES[0]) & (ages_years < NODES[-1])
        return cls(left, position - left, inside)

    def values(self, table: Floats) -> Floats:
        """(N,) values of a (21,) table."""
        lower = table[self.left]
        return np.asarray(lower + self.share * (table[self.left + 1] - lower))

    def slopes(self, table: Floats) -> Floats:
        """(N,) slopes of a (21,) table, per year."""
        steps = np.diff(table) / _STEP_YEARS
        return np.asarray(steps[self.left] * self.inside)

    def gather(self, values: Floats) -> Floats:
        """(21,) what flows back into each node: the transpose of `values`."""
        upper = values * self.share
        count = len(NODES)
        return np.asarray(
            np.bincount(self.left, values - upper, count) + np.bincount(self.left + 1, upper, count)
        )

    def normal_matrix(self, weights: Floats) -> Floats:
        """(21, 21) weighted sum of the outer products of the interpolation weights."""
        count, low, high = len(NODES), 1.0 - self.share, self.share
        diagonal = np.bincount(self.left, weights * low * low, count)
        diagonal += np.bincount(self.left + 1, weights * high * high, count)
        beside = np.bincount(self.left, weights * low * high, count)[:-1]
        return np.asarray(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))


def roughness() -> Floats:
    """(21, 21) R with t·R·t = the sum of a table's squared second differences."""
    bends = np.diff(np.eye(len(NODES)), 2, axis=0)
    return np.asarray(bends.T @ bends)


def on_grid(table: Floats) -> Floats:
    """(101,) a (21,) table at every year of the age grid."""
    return np.interp(AGE_GRID, NODES, table)


def corrected(predictions_years: Floats, bias_years: Floats) -> Floats:
    """(N, E) readings plus each expert's bias table, given as (E, 101) on the age grid."""
    columns = [
        column + np.interp(column, AGE_GRID, table)
        for column, table in zip(predictions_years.T, bias_years, strict=True)
    ]
    return np.stack(columns, axis=1)


def huber(errors: Floats, limit: float) -> tuple[Floats, Floats]:
    """Huber's loss and its slope: quadratic up to the limit, linear beyond."""
    slope = np.clip(errors, -limit, limit)
    return slope * (errors - 0.5 * slope), slope


def thinned(count: int, most: int, seed: int) -> NDArray[np.intp]:
    """At most `most` of `count` rows, drawn without regard to order, the same for a seed."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))
