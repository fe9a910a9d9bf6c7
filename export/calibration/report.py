"""The report as data: the content of `report.json` and `report.md`.

Figures have one shape everywhere: `mae.fused`, `mae.<expert>.raw`, `mae.<expert>.corrected`,
`mae.mean.raw`, `mae.mean.corrected`, and so for `median`, `bias`, `rmse`, `cs5` and `spread`;
`coverage.90` is the share of true ages within the 90 % interval. The same object stands under
`groups.<column>.<value>`, `age_bands.<band>`, `estimated_age_bands.<band>` and
`left_out.sources.<source>`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from export.calibration.metrics import Bootstrap, Rows, error_figures, rate, reliability
from export.calibration.scores import Scores
from runtime.fusion import Floats

Report = dict[str, Any]

BAND_EDGES = (0, 13, 18, 25, 35, 50, 65)
"""First years of the age bands; the last band is open."""
ENOUGH_IN_GROUP = 30
"""Smaller groups are reported, but do not count for gaps."""
_COVERAGES = (0.5, 0.8, 0.9, 0.95)
_CHALLENGES_YEARS = (0, 2, 3, 5, 7, 10, 12)
_NEAR_BELOW_YEARS, _NEAR_ABOVE_YEARS = 4, 12


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """The options of a report."""

    thresholds_years: tuple[float, ...] = (18.0,)
    """Age limits to report on."""
    challenges_years: tuple[float, ...] = ()
    """Challenge ages to report on; none means a few from each threshold upward."""
    resamples: int = 1000
    """Bootstrap resamples."""
    seed: int = 0
    """Of the bootstrap."""


def report_of(scores: Scores, options: ReportOptions) -> Report:
    """Builds the report of some scores."""
    bootstrap = bootstrap_of(scores, options)
    by_age, by_estimate, *by_group = (
        {name: figures_of(scores, bootstrap, rows) for name, rows in parts.items()}
        for parts in parts_of(scores).values()
    )
    groups = dict(zip(scores.faces.groups, by_group, strict=True))
    return {
        "experts": list(scores.faces.names),
        **figures_of(scores, bootstrap, all_rows(scores)),
        "age_bands": by_age,
        "estimated_age_bands": by_estimate,
        "groups": groups,
        "fairness": {
            "age_bands": _gap(by_age),
            "groups": {column: _gap(sections) for column, sections in groups.items()},
        },
        "gain": _gain(scores, bootstrap),
        "without": _without(scores, bootstrap),
        "policy": {f"{t:g}": _policy(scores, t, options) for t in options.thresholds_years},
        "reliability": {f"{t:g}": _reliability(scores, t) for t in options.thresholds_years},
    }


def bootstrap_of(scores: Scores, options: ReportOptions) -> Bootstrap:
    """Builds the bootstrap of the faces that were scored."""
    return Bootstrap(scores.faces.people, options.resamples, options.seed)


def all_rows(scores: Scores) -> Rows:
    """Returns (N,) True for every face."""
    return np.ones(len(scores.faces), dtype=bool)


def parts_of(scores: Scores) -> dict[str, dict[str, Rows]]:
    """Returns the rows of every part of the report: bands by label, by estimate, and groups."""
    parts = {
        "labeled age": bands_of(scores.faces.age_years),
        "estimated age": bands_of(scores.fused_years),
        **{
            column: {str(value): values == value for value in np.unique(values) if value}
            for column, values in scores.faces.groups.items()
        },
    }
    return {
        place: {name: rows for name, rows in sections.items() if rows.any()}
        for place, sections in parts.items()
    }


def bands_of(ages: Floats) -> dict[str, Rows]:
    """Returns (N,) the rows of each band of (N,) ages in years, empty ones too."""
    bands = {f"{a}-{b - 1}": (ages >= a) & (ages < b) for a, b in pairwise(BAND_EDGES)}
    return {**bands, f"{BAND_EDGES[-1]}+": ages >= BAND_EDGES[-1]}


def _methods(scores: Scores) -> dict[tuple[str, ...], Floats]:
    """Returns (N,) ages of each method, by its place in the report."""
    raw, corrected = scores.faces.predictions_years, scores.corrected_years
    methods: dict[tuple[str, ...], Floats] = {
        ("fused",): scores.fused_years,
        ("mean", "raw"): raw.mean(axis=1),
        ("mean", "corrected"): corrected.mean(axis=1),
    }
    for index, name in enumerate(scores.faces.names):
        methods[name, "raw"] = raw[:, index]
        methods[name, "corrected"] = corrected[:, index]
    return methods


def figures_of(scores: Scores, bootstrap: Bootstrap, rows: Rows) -> Report:
    """Builds the object that stands at the top and under every band and group."""
    methods = _methods(scores)
    errors = np.stack(list(methods.values()), axis=1) - scores.faces.age_years[:, None]
    figures = {
        name: _nested(methods, values.tolist())
        for name, values in error_figures(errors, rows, bootstrap).items()
    }
    return {"faces": int(rows.sum()), **figures, **coverage_of(scores, rows)}


def _nested(places: Iterable[tuple[str, ...]], values: Sequence[Any]) -> Report:
    nested: Report = {}
    for place, value in zip(places, values, strict=True):
        if len(place) == 1:
            nested[place[0]] = value
        else:
            nested.setdefault(place[0], {})[place[1]] = value
    return nested


def coverage_of(scores: Scores, rows: Rows) -> Report:
    """Builds the coverage and the width of central intervals, by level in percent."""
    coverage, intervals, widths = {}, {}, {}
    for level in _COVERAGES:
        covered = scores.covered(level)
        if covered is None or scores.quantiles is None:
            continue
        name, found = f"{100 * level:g}", rate(covered[rows])
        low, high = scores.interval(scores.quantiles, level)
        coverage[name], intervals[name] = found["rate"], found["interval"]
        widths[name] = float((high - low)[rows].mean())
    return {"coverage": coverage, "coverage_interval": intervals, "interval_width_years": widths}


def _gap(sections: Mapping[str, Any]) -> Report | None:
    """Builds the gap between the worst and the best part; None for fewer than two parts."""
    errors = {n: s["mae"]["fused"] for n, s in sections.items() if s["faces"] >= ENOUGH_IN_GROUP}
    if len(errors) < 2:
        return None
    best, *_, worst = sorted(errors, key=errors.__getitem__)
    return {"years": errors[worst] - errors[best], "worst": worst, "best": best}


def _gain(scores: Scores, bootstrap: Bootstrap) -> Report:
    """Builds the error of the best corrected expert minus the fused error."""
    ages = scores.faces.age_years
    experts = np.abs(scores.corrected_years - ages[:, None])
    best = int(np.argmin(experts.mean(axis=0)))
    gained = experts[:, best] - np.abs(scores.fused_years - ages)
    interval = bootstrap.mean_intervals(gained[:, None], all_rows(scores))[0].tolist()
    name = scores.faces.names[best]
    return {"over": name, "years": float(gained.mean()), "interval": interval}


def _without(scores: Scores, bootstrap: Bootstrap) -> Report:
    """Builds the fused error without each expert, and its difference from that of all experts."""
    ages = scores.faces.age_years
    together = np.abs(scores.fused_years - ages)
    result: Report = {}
    for name, fused in scores.without_years.items():
        alone = np.abs(fused - ages)
        columns = np.stack([alone, alone - together], axis=1)
        mae, added = bootstrap.mean_intervals(columns, all_rows(scores)).tolist()
        result[name] = {
            "mae": float(alone.mean()),
            "mae_interval": mae,
            "added_years": float((alone - together).mean()),
            "added_interval": added,
        }
    return result


def _policy(scores: Scores, threshold: float, options: ReportOptions) -> list[Report]:
    """Builds the error rates of passing everyone estimated at or above each challenge age."""
    ages, fused = scores.faces.age_years, scores.fused_years
    under, over = ages < threshold, ages >= threshold
    near_under = under & (ages >= threshold - _NEAR_BELOW_YEARS)
    near_over = over & (ages <= threshold + _NEAR_ABOVE_YEARS)
    challenges = options.challenges_years or tuple(threshold + c for c in _CHALLENGES_YEARS)
    return [
        {
            "challenge_age": challenge,
            "false_positive": rate(fused[under] >= challenge),
            "false_positive_near": rate(fused[near_under] >= challenge),
            "false_negative": rate(fused[over] < challenge),
            "false_negative_near": rate(fused[near_over] < challenge),
            "near_ages": [threshold - _NEAR_BELOW_YEARS, threshold + _NEAR_ABOVE_YEARS],
        }
        for challenge in challenges
    ]


def _reliability(scores: Scores, threshold: float) -> Report | None:
    probability = scores.probability_at_least(threshold)
    if probability is None:
        return None
    happened = scores.faces.age_years >= threshold
    return {
        "claimed_mean": float(probability.mean()),
        "came_true_mean": float(happened.mean()),
        "brier": float(((probability - happened) ** 2).mean()),
        "bins": reliability(probability, happened),
    }
