"""Predictions of a fusion for labeled faces, as input of a report.

Held-out faces of a calibration and new faces of an evaluation give the same `Scores`, and so the
same report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from export.calibration.fit import Calibration, fuse_subset
from export.calibration.intervals import held_out_quantiles, levels_for, quantiles_at
from export.calibration.labeled_predictions import LabeledPredictions
from export.calibration.metrics import Rows
from runtime.fusion import Floats, FusionTables


@dataclass(frozen=True, slots=True, eq=False)
class Quantiles:
    """Residual quantiles of N faces."""

    levels: tuple[float, ...]
    """(L,)"""
    years: Floats
    """(N, L) of (true age - fused age)."""

    def at(self, level: float) -> Floats:
        """Returns (N,) residuals at a level, linear between the tabulated ones, flat outside."""
        position = float(np.interp(level, self.levels, np.arange(len(self.levels))))
        left = min(int(position), len(self.levels) - 2)
        share = position - left
        return np.asarray((1.0 - share) * self.years[:, left] + share * self.years[:, left + 1])

    def level_of(self, residual_years: Floats) -> Floats:
        """Returns (N,) probabilities that (true age - fused age) is below (N,) residuals."""
        pairs = zip(residual_years, self.years, strict=True)
        return np.array([np.interp(residual, row, self.levels) for residual, row in pairs])


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """N labeled faces and their predictions by every method."""

    faces: LabeledPredictions
    corrected_years: Floats
    """(N, E)"""
    fused_years: Floats
    """(N,)"""
    without_years: Mapping[str, Floats]
    """(N,) fused ages without one expert, by that expert."""
    quantiles: Quantiles | None
    """None when no intervals were fitted."""
    age_range: tuple[float, float]
    """First and last year of the age grid, to which intervals are clipped."""

    def covered(self, level: float) -> Rows | None:
        """Returns (N,) whether the central interval of a level holds the true age.

        None where there are no intervals, or none of that level.
        """
        if self.quantiles is None or (1.0 - level) / 2.0 < self.quantiles.levels[0] - 1e-9:
            return None
        low, high = self.interval(self.quantiles, level)
        # A label beyond the grid counts as covered where the interval reaches the grid's end.
        ages = np.clip(self.faces.age_years, *self.age_range)
        return np.asarray((ages >= low) & (ages <= high))

    def interval(self, quantiles: Quantiles, level: float) -> tuple[Floats, Floats]:
        """Returns (N,) lower and (N,) upper ends of the central interval."""
        tail = (1.0 - level) / 2.0
        return (
            np.clip(self.fused_years + quantiles.at(tail), *self.age_range),
            np.clip(self.fused_years + quantiles.at(1.0 - tail), *self.age_range),
        )

    def probability_at_least(self, threshold_years: float) -> Floats | None:
        """Returns (N,) probabilities that the true age reaches it; None without intervals."""
        if self.quantiles is None:
            return None
        return 1.0 - self.quantiles.level_of(threshold_years - self.fused_years)


def scores_of_calibration(faces: LabeledPredictions, calibration: Calibration) -> Scores:
    """Returns the held-out scores of the faces that were calibrated on."""
    held_out = calibration.held_out
    fused, levels = held_out.fused_years, levels_for(len(faces))
    together = fused[frozenset(faces.names)]
    years = held_out_quantiles(together, faces.age_years, held_out.folds, levels)
    return Scores(
        faces,
        held_out.corrected_years,
        together,
        {name: fused[others] for name, others in _others(faces).items()},
        Quantiles(levels, years),
        _range(calibration.tables),
    )


def scores_of_tables(faces: LabeledPredictions, tables: FusionTables) -> Scores:
    """Returns the scores of finished tables on faces they were not fitted on."""
    fused, quantiles = tables.fuse(faces.names, faces.predictions_years), None
    spread, names = tables.spread, frozenset(faces.names)
    if spread is not None and (table := spread.quantiles_years.get(names)) is not None:
        years = quantiles_at(table, tables.age_grid, fused.age_years)
        quantiles = Quantiles(spread.levels, years)
    return Scores(
        faces,
        fused.corrected_years,
        fused.age_years,
        {name: fuse_subset(tables, faces, others) for name, others in _others(faces).items()},
        quantiles,
        _range(tables),
    )


def _others(faces: LabeledPredictions) -> dict[str, frozenset[str]]:
    """Returns all other experts, by each expert that can be left out."""
    names = faces.names if len(faces.names) > 1 else ()
    return {name: frozenset(faces.names) - {name} for name in names}


def _range(tables: FusionTables) -> tuple[float, float]:
    return float(tables.age_grid[0]), float(tables.age_grid[-1])
