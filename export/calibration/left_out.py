"""Faces of a new source: every source is left out of the fit once, and intervals that allow for it.

Photographs of one source (a data set, a camera, a country) are more alike than those of two. Splits
at random have every source on both sides, and their figures hold for new faces of the same sources.
Here everything is fitted again without each source and scored on it.

Robust intervals are wider by as much as the left-out sources need. The outermost quantiles, at each
fused age and level, are the outermost of the ordinary ones and of those of every source, from its
predictions by the tables that were fitted without it. The robust quantiles lie a share of the way
from the ordinary to the outermost ones: the smallest share with which the 90 % interval covers
every left-out source, each with the finite-sample correction of split conformal prediction (the
ceil(0.9 (n + 1))-th smallest of the shares that its n faces need; nested sets as in Gupta,
Kuchibhotla and Ramdas, Nested conformal prediction, 2022). If sources are exchangeable, so that a
new one is as likely as any of the K given ones to need the largest share, it needs no more with a
probability of K / (K + 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from export.calibration.csv_tables import LabelsError
from export.calibration.fit import fuse_subset, size_problem
from export.calibration.intervals import FEWEST_FACES, quantile_table, quantiles_at, subsets_of
from export.calibration.labeled_predictions import LabeledPredictions
from export.calibration.metrics import Bootstrap
from export.calibration.report import Report, ReportOptions, all_rows, coverage_of, figures_of
from export.calibration.scores import Quantiles, Scores, scores_of_tables
from runtime.fusion import Floats, FusionTables, Spread
from runtime.progress import Report as ProgressReport
from runtime.progress import Steps, unreported
from runtime.results import INTERVAL_LEVEL

FEWEST_SOURCES = 2

Refit = Callable[[LabeledPredictions], FusionTables]
"""Fits tables, with intervals, to some of the faces."""


@dataclass(frozen=True, slots=True, eq=False)
class LeftOutSource:
    """The N faces of one source, predicted by tables that were fitted without it."""

    scores: Scores
    fused_years: Mapping[frozenset[str], Floats]
    """(N,) by set of experts."""

    def quantiles(self, names: frozenset[str], levels: Sequence[float], age_grid: Floats) -> Floats:
        """Returns (G, L) residual quantiles by fused age, for a set of experts."""
        fused = self.fused_years[names]
        residuals = self.scores.faces.age_years - fused
        return quantile_table(fused, residuals, levels, age_grid)


@dataclass(frozen=True, slots=True, eq=False)
class LeftOut:
    """Every source, left out of the fit."""

    sources: Mapping[str, LeftOutSource]
    """By name."""
    skipped: Mapping[str, str]
    """The reason for each source that could not be left out."""


def leave_sources_out(
    faces: LabeledPredictions, refit: Refit, report: ProgressReport = unreported
) -> LeftOut:
    """Fits without each source, choices of models included, and scores the source.

    Faces of the source's people are left out of the fit too. Faces without a source are part of
    every fit. A source of fewer than `FEWEST_FACES` faces is not left out. The items of the
    progress callback are sources.
    """
    splits, skipped = _splits(faces)
    sources, steps = {}, Steps(report)
    steps.expect(len(splits))
    for source, (rest, held) in splits.items():
        tables = refit(rest)
        fused = {names: fuse_subset(tables, held, names) for names in subsets_of(faces.names)}
        sources[source] = LeftOutSource(scores_of_tables(held, tables), fused)
        steps.advance()
    return LeftOut(sources, skipped)


def check_sources(faces: LabeledPredictions) -> None:
    """Verifies, before any fit, that robust intervals are possible.

    Raises:
        LabelsError: fewer than `FEWEST_SOURCES` sources can be left out.
    """
    splits, skipped = _splits(faces)
    if len(splits) < FEWEST_SOURCES:
        reasons = "".join(f"; {name}: {reason}" for name, reason in skipped.items())
        problem = (
            f"robust intervals need {FEWEST_SOURCES} sources that can be left out, found "
            f"{', '.join(splits) or 'none'}{reasons}. A column `source` of the CSV, or the one "
            f"named by --sources, holds them"
        )
        raise LabelsError("The labeled data", [problem])


def _splits(
    faces: LabeledPredictions,
) -> tuple[dict[str, tuple[LabeledPredictions, LabeledPredictions]], dict[str, str]]:
    """Returns the other faces and those of each source, and why sources cannot be left out."""
    splits: dict[str, tuple[LabeledPredictions, LabeledPredictions]] = {}
    skipped: dict[str, str] = {}
    if faces.sources is None:
        return splits, skipped
    people = faces.people
    for source in np.unique(faces.sources[faces.sources != ""]).tolist():
        within = faces.sources == source
        rest, held = faces.take(~np.isin(people, people[within])), faces.take(within)
        if len(held) < FEWEST_FACES:
            skipped[source] = f"it has {len(held)} faces, and {FEWEST_FACES} are required"
        elif problem := size_problem(rest):
            skipped[source] = f"of the others, {problem}"
        else:
            splits[source] = rest, held
    return splits, skipped


@dataclass(frozen=True, slots=True, eq=False)
class Robust:
    """Intervals that cover every left-out source."""

    left_out: LeftOut
    share: float
    """Of the way from the ordinary to the outermost quantiles, 0 to 1."""

    @classmethod
    def of(cls, tables: FusionTables, left_out: LeftOut) -> Robust:
        """Finds the smallest share with which every left-out source is covered.

        There is at least one left-out source, and the tables have intervals.
        """
        if tables.spread is None:
            raise ValueError("There are no intervals that could be widened.")
        levels, widest = tables.spread.levels, cls(left_out, 1.0)
        names = frozenset(next(iter(left_out.sources.values())).scores.faces.names)
        ordinary = tables.spread.quantiles_years[names]
        outermost = widest.widened(ordinary, names, levels, tables.age_grid)
        shares = [
            _share_needed(source.scores, tables, levels, ordinary, outermost)
            for source in left_out.sources.values()
        ]
        return cls(left_out, max(shares))

    @property
    def provenance(self) -> dict[str, object]:
        """Provenance of the widening, for fusion.json."""
        return {"sources": sorted(self.left_out.sources), "share": round(self.share, 4)}

    def widened(
        self, table: Floats, names: frozenset[str], levels: Sequence[float], age_grid: Floats
    ) -> Floats:
        """Returns (G, L) robust quantiles for (G, L) ordinary ones of a set of experts."""
        found = [s.quantiles(names, levels, age_grid) for s in self.left_out.sources.values()]
        return self._between(table, found, levels)

    def tables(self, tables: FusionTables) -> FusionTables:
        """Returns tables with robust intervals, for every set of experts."""
        if tables.spread is None:
            return tables
        levels, grid = tables.spread.levels, tables.age_grid
        widened = {
            names: np.round(self.widened(table, names, levels, grid), 3)
            for names, table in tables.spread.quantiles_years.items()
        }
        return replace(tables, spread=Spread(levels, widened))

    def scores(self, scores: Scores, age_grid: Floats) -> Scores:
        """Returns scores with robust intervals."""
        if scores.quantiles is None:
            return scores
        names, levels = frozenset(scores.faces.names), scores.quantiles.levels
        found = [
            quantiles_at(source.quantiles(names, levels, age_grid), age_grid, scores.fused_years)
            for source in self.left_out.sources.values()
        ]
        years = self._between(scores.quantiles.years, found, levels)
        return replace(scores, quantiles=Quantiles(levels, years))

    def _between(
        self, ordinary: Floats, others: Sequence[Floats], levels: Sequence[float]
    ) -> Floats:
        """Returns (…, L) quantiles between the ordinary and the outermost ones.

        The median stays as it is, so that no two quantiles cross.
        """
        stacked, level = np.stack([ordinary, *others]), np.asarray(levels)
        above = np.where(level > 0.5, stacked.max(axis=0), ordinary)
        outermost = np.where(level < 0.5, stacked.min(axis=0), above)
        return np.asarray(ordinary + self.share * (outermost - ordinary))


def _share_needed(
    scores: Scores,
    tables: FusionTables,
    levels: Sequence[float],
    ordinary: Floats,
    outermost: Floats,
) -> float:
    """Returns the share with which the interval covers a source; at most 1, the outermost."""
    grid, tail = tables.age_grid, (1.0 - INTERVAL_LEVEL) / 2.0
    inner, outer = (
        Quantiles(tuple(levels), quantiles_at(table, grid, scores.fused_years))
        for table in (ordinary, outermost)
    )
    residuals = np.clip(scores.faces.age_years, grid[0], grid[-1]) - scores.fused_years
    needed = np.zeros(len(residuals))
    for level, sign in ((tail, -1.0), (1.0 - tail, 1.0)):
        missing = sign * (residuals - inner.at(level))
        room = sign * (outer.at(level) - inner.at(level))
        share = np.divide(missing, room, out=np.full(len(missing), np.inf), where=room > 0.0)
        needed = np.maximum(needed, np.where(missing > 0.0, share, 0.0))
    rank = math.ceil(INTERVAL_LEVEL * (len(needed) + 1))
    return float(min(1.0, np.sort(needed)[min(rank, len(needed)) - 1]))


def left_out_report(
    left_out: LeftOut, options: ReportOptions, tables: FusionTables, robust: Robust | None
) -> Report:
    """Builds the report on left-out sources.

    Args:
        left_out: the sources.
        options: for the bootstrap.
        tables: the finished ones.
        robust: how their intervals were widened; None if they were not.
    """
    report: Report = {"sources": {}, "skipped": dict(left_out.skipped)}
    if robust is not None:
        report["robust_share"] = robust.share
    for name, source in left_out.sources.items():
        scores = source.scores
        bootstrap = Bootstrap(scores.faces.people, options.resamples, options.seed)
        figures = figures_of(scores, bootstrap, all_rows(scores))
        if robust is not None and tables.spread is not None:
            table = tables.spread.quantiles_years[frozenset(scores.faces.names)]
            years = quantiles_at(table, tables.age_grid, scores.fused_years)
            wider = replace(scores, quantiles=Quantiles(tables.spread.levels, years))
            figures["robust"] = coverage_of(wider, all_rows(wider))
        report["sources"][name] = figures
    return report
