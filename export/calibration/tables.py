"""Piecewise-linear tables on coarse nodes, and the Huber loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.fusion import AGE_GRID, Floats

NODES: Floats = np.arange(0.0, 101.0, 5.0)
"""(21,) ages at which a fitted table is defined; it is linear between them."""
_STEP_YEARS = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class NodeWeights:
    """Interpolation of a table t at N ages: (1-s)·t[j] + s·t[j+1]."""

    left: NDArray[np.intp]
    """(N,) index j of the node below each age."""
    share: Floats
    """(N,) share s of the node above, 0 to 1."""
    inside: NDArray[np.bool_]
    """(N,) whether the age lies within the nodes; tables are flat beyond."""

    @classmethod
    def of(cls, ages_years: Floats) -> NodeWeights:
        """Builds the weights of (N,) ages; ages beyond the nodes take the outermost one."""
        position = np.clip(ages_years, NODES[0], NODES[-1]) / _STEP_YEARS
        left = np.minimum(position.astype(np.intp), len(NODES) - 2)
        inside = (ages_years > NODES[0]) & (ages_years < NODES[-1])
        return cls(left, position - left, inside)

    def values(self, table: Floats) -> Floats:
        """Returns (N,) values of a (21,) table."""
        lower = table[self.left]
        return np.asarray(lower + self.share * (table[self.left + 1] - lower))

    def slopes(self, table: Floats) -> Floats:
        """Returns (N,) slopes of a (21,) table, per year."""
        steps = np.diff(table) / _STEP_YEARS
        return np.asarray(steps[self.left] * self.inside)

    def gather(self, values: Floats) -> Floats:
        """Returns (21,) sums over the ages by node: the transpose of `values`."""
        upper = values * self.share
        count = len(NODES)
        return np.asarray(
            np.bincount(self.left, values - upper, count) + np.bincount(self.left + 1, upper, count)
        )

    def normal_matrix(self, weights: Floats) -> Floats:
        """Returns (21, 21) weighted sums of the outer products of the interpolation weights."""
        count, low, high = len(NODES), 1.0 - self.share, self.share
        diagonal = np.bincount(self.left, weights * low * low, count)
        diagonal += np.bincount(self.left + 1, weights * high * high, count)
        beside = np.bincount(self.left, weights * low * high, count)[:-1]
        return np.asarray(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))


def roughness() -> Floats:
    """Returns (21, 21) R such that t·R·t is the sum of a table's squared second differences."""
    bends = np.diff(np.eye(len(NODES)), 2, axis=0)
    return np.asarray(bends.T @ bends)


def on_grid(table: Floats) -> Floats:
    """Returns (101,) values of a (21,) table on the age grid."""
    return np.interp(AGE_GRID, NODES, table)


def corrected(predictions_years: Floats, bias_years: Floats) -> Floats:
    """Adds each expert's bias, (E, 101) on the age grid, to (N, E) raw predictions."""
    columns = [
        column + np.interp(column, AGE_GRID, table)
        for column, table in zip(predictions_years.T, bias_years, strict=True)
    ]
    return np.stack(columns, axis=1)


def huber(errors: Floats, limit: float) -> tuple[Floats, Floats]:
    """Returns Huber's loss and its slope: quadratic up to the limit, linear beyond."""
    slope = np.clip(errors, -limit, limit)
    return slope * (errors - 0.5 * slope), slope


def thinned(count: int, most: int, seed: int) -> NDArray[np.intp]:
    """Returns at most `most` of `count` rows, drawn at random with a seed, in order."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))
