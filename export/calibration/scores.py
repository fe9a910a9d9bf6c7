"""What a fusion says of labeled faces, ready to be judged.

The same `Scores` come from held-out faces during calibration and from new faces in evaluation,
so that both get the same report.
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
        """(N,) residuals at a level, linear between the tabulated ones, flat outside."""
        position = float(np.interp(level, self.levels, np.arange(len(self.levels))))
        left = min(int(position), len(self.levels) - 2)
        share = position - left
        return np.asarray((1.0 - share) * self.years[:, left] + share * self.years[:, left + 1])

    def level_of(self, residual_years: Floats) -> Floats:
        """(N,) probability that (true age - fused age) stays below (N,) residuals."""
        pairs = zip(residual_years, self.years, strict=True)
        return np.array([np.interp(residual, row, self.levels) for residual, row in pairs])


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """N labeled faces and every age that was said of them."""

    faces: LabeledPredictions
    corrected_years: Floats
    """(N, E)"""
    fused_years: Floats
    """(N,)"""
    without_years: Mapping[str, Floats]
    """(N,) fused ages when one expert is missing, by that expert."""
    quantiles: Quantiles | None
    """None when no intervals were fitted."""
    age_range: tuple[float, float]
    """First and last year of the age grid; no interval leaves it."""

    def covered(self, level: float) -> Rows | None:
        """(N,) whether the central interval of a level holds the true age; None without one."""
        if self.quantiles is None or (1.0 - level) / 2.0 < self.quantiles.levels[0] - 1e-9:
            return None
        low, high = self.interval(self.quantiles, level)
        # A label beyond the grid counts as covered where the interval reaches the grid's end.
        ages = np.clip(self.faces.age_years, *self.age_range)
        return np.asarray((ages >= low) & (ages <= high))

    def interval(self, quantiles: Quantiles, level: float) -> tuple[Floats, Floats]:
        """(N,) lower and upper ends of the central interval."""
        tail = (1.0 - level) / 2.0
        return (
            np.clip(self.fused_years + quantiles.at(tail), *self.age_range),
            np.clip(self.fused_years + quantiles.at(1.0 - tail), *self.age_range),
        )

    def probability_at_least(self, threshold_years: float) -> Floats | None:
        """(N,) probability that the true age is at least the threshold; None without intervals."""
        if self.quantiles is None:
            return None
        return 1.0 - self.quantiles.level_of(threshold_years - self.fused_years)


def scores_of_calibration(faces: LabeledPredictions, calibration: Calibration) -> Scores:
    """The held-out scores of the very faces that were calibrated on."""
    held_out, everyone = calibration.held_out, frozenset(faces.names)
    fused, levels = held_out.fused_years[everyone], levels_for(len(faces))
    years = held_out_quantiles(fused, faces.age_years, held_out.folds, levels)
    return Scores(
        faces,
        held_out.corrected_years,
        fused,
        {name: held_out.fused_years[everyone - {name}] for name in _spare(faces)},
        Quantiles(levels, years),
        _range(calibration.tables),
    )


def scores_of_tables(faces: LabeledPredictions, tables: FusionTables) -> Scores:
    """The scores of finished tables on faces they were not fitted on."""
    fused, everyone = tables.fuse(faces.names, faces.predictions_years), frozenset(faces.names)
    quantiles = None
    if tables.spread is not None and everyone in tables.spread.quantiles_years:
        table = tables.spread.quantiles_years[everyone]
        years = quantiles_at(table, tables.age_grid, fused.age_years)
        quantiles = Quantiles(tables.spread.levels, years)
    return Scores(
        faces,
        fused.corrected_years,
        fused.age_years,
        {name: fuse_subset(tables, faces, everyone - {name}) for name in _spare(faces)},
        quantiles,
        _range(tables),
    )


def _spare(faces: LabeledPredictions) -> tuple[str, ...]:
    """The experts without which another one still answers."""
    return faces.names if len(faces.names) > 1 else ()


def _range(tables: FusionTables) -> tuple[float, float]:
    return float(tables.age_grid[0]), float(tables.age_grid[-1])
