"""Faces of a new source: every source is left out of the fit once, and intervals that allow for it.

Photographs of one source (a data set, a camera, a country) are more alike than those of two. Splits
at random have every source on both sides, and their figures hold for new faces of the same sources.
Here everything is fitted again without each source and scored on it.

Robust intervals are the widest of several: at each fused age and level, the outermost of the
ordinary residual quantile and of those of every source, from predictions by the tables that were
fitted without it. Each left-out source is then covered as the level claims. If sources are
exchangeable, so that a new one is as likely as any of the K given ones to have the outermost
quantile, its own lies within with a probability of K / (K + 1) at each end (the rank argument of
conformal prediction, applied to sources instead of faces).
"""

from __future__ import annotations

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


def leave_sources_out(faces: LabeledPredictions, refit: Refit) -> LeftOut:
    """Fits without each source, choices of models included, and scores the source.

    Faces of the source's people are left out of the fit too. Faces without a source are part of
    every fit. A source of fewer than `FEWEST_FACES` faces is not left out.

    Raises:
        LabelsError: the faces have no sources.
    """
    if faces.sources is None:
        raise LabelsError("The labeled data", ["there is no column of sources"])
    people = faces.people
    sources: dict[str, LeftOutSource] = {}
    skipped: dict[str, str] = {}
    for source in np.unique(faces.sources[faces.sources != ""]).tolist():
        within = faces.sources == source
        rest = faces.take(~np.isin(people, people[within]))
        held = faces.take(within)
        if len(held) < FEWEST_FACES:
            skipped[source] = f"it has {len(held)} faces, and {FEWEST_FACES} are required"
        elif problem := size_problem(rest):
            skipped[source] = f"of the others, {problem}"
        else:
            tables = refit(rest)
            fused = {names: fuse_subset(tables, held, names) for names in subsets_of(faces.names)}
            sources[source] = LeftOutSource(scores_of_tables(held, tables), fused)
    return LeftOut(sources, skipped)


def robust_tables(tables: FusionTables, left_out: LeftOut) -> FusionTables:
    """Returns tables whose intervals cover every left-out source, for every set of experts.

    Raises:
        LabelsError: fewer than `FEWEST_SOURCES` sources were left out, or there are no intervals.
    """
    _check_sources(left_out)
    if tables.spread is None:
        raise LabelsError("The fusion", ["it has no intervals that could be widened"])
    levels = tables.spread.levels
    widened = {
        names: np.round(
            _outermost(
                [
                    quantiles,
                    *(s.quantiles(names, levels, tables.age_grid) for s in _sources(left_out)),
                ],
                levels,
            ),
            3,
        )
        for names, quantiles in tables.spread.quantiles_years.items()
    }
    return replace(tables, spread=Spread(levels, widened))


def robust_scores(scores: Scores, left_out: LeftOut, age_grid: Floats) -> Scores:
    """Returns scores with intervals widened in the same way."""
    _check_sources(left_out)
    if scores.quantiles is None:
        return scores
    names, levels = frozenset(scores.faces.names), scores.quantiles.levels
    found = [
        quantiles_at(source.quantiles(names, levels, age_grid), age_grid, scores.fused_years)
        for source in _sources(left_out)
    ]
    years = _outermost([scores.quantiles.years, *found], levels)
    return replace(scores, quantiles=Quantiles(levels, years))


def left_out_report(
    left_out: LeftOut, options: ReportOptions, robust: FusionTables | None = None
) -> Report:
    """Builds the report on left-out sources.

    Args:
        left_out: the sources.
        options: for the bootstrap.
        robust: tables with robust intervals, to report their coverage, too.
    """
    report: Report = {"sources": {}, "skipped": dict(left_out.skipped)}
    for name, source in left_out.sources.items():
        scores = source.scores
        bootstrap = Bootstrap(scores.faces.people, options.resamples, options.seed)
        figures = figures_of(scores, bootstrap, all_rows(scores))
        if robust is not None and robust.spread is not None:
            table = robust.spread.quantiles_years[frozenset(scores.faces.names)]
            years = quantiles_at(table, robust.age_grid, scores.fused_years)
            wider = replace(scores, quantiles=Quantiles(robust.spread.levels, years))
            figures["robust"] = coverage_of(wider, all_rows(wider))
        report["sources"][name] = figures
    return report


def _sources(left_out: LeftOut) -> list[LeftOutSource]:
    return list(left_out.sources.values())


def _check_sources(left_out: LeftOut) -> None:
    if len(left_out.sources) < FEWEST_SOURCES:
        found = ", ".join(left_out.sources) or "none"
        skipped = "".join(f"; {name}: {reason}" for name, reason in left_out.skipped.items())
        problem = (
            f"robust intervals need {FEWEST_SOURCES} sources that can be left out, found "
            f"{found}{skipped}"
        )
        raise LabelsError("The labeled data", [problem])


def _outermost(tables: Sequence[Floats], levels: Sequence[float]) -> Floats:
    """Returns the outermost of (…, L) quantiles: below the median the least, above the largest.

    The median itself is the first one's, which no other can cross.
    """
    first, stacked, below = tables[0], np.stack(tables), np.asarray(levels) < 0.5
    above = np.asarray(levels) > 0.5
    outer = np.where(above, stacked.max(axis=0), first)
    return np.asarray(np.where(below, stacked.min(axis=0), outer))
