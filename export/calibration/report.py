"""The report as data: everything `report.json` holds and `report.md` tells.

Figures come in one shape everywhere: `mae.fused`, `mae.<expert>.raw`, `mae.<expert>.corrected`,
`mae.mean.raw`, `mae.mean.corrected`, and so for `median`, `bias`, `rmse`, `cs5` and `spread`;
`coverage.90` is the share of true ages within the 90 % interval. The same object stands under
`groups.<column>.<value>`, `age_bands.<band>` and `estimated_age_bands.<band>`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from export.calibration.labeled_predictions import Strings
from export.calibration.metrics import (
    Resamples,
    Rows,
    error_figures,
    largest_gap,
    rate,
    reliability,
)
from export.calibration.scores import Scores
from runtime.fusion import Floats

Report = dict[str, Any]

BAND_EDGES = (0, 13, 18, 25, 35, 50, 65)
"""Where age bands begin, in years; the last is open."""
ENOUGH_IN_GROUP = 30
"""Smaller groups are shown, but no gap is claimed for them."""
_COVERAGES = (0.5, 0.8, 0.9, 0.95)
_CHALLENGES_YEARS = (0, 2, 3, 5, 7, 10, 12)
_NEAR_BELOW_YEARS, _NEAR_ABOVE_YEARS = 4, 12


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What a report is about."""

    thresholds_years: tuple[float, ...] = (18.0,)
    """Ages a policy asks for."""
    challenges_years: tuple[float, ...] = ()
    """Challenge ages to judge; none means a few at and above each threshold."""
    resamples: int = 1000
    """Bootstrap resamples."""
    seed: int = 0
    """Of the bootstrap."""


def report_of(scores: Scores, options: ReportOptions) -> Report:
    """The whole report of some scores."""
    faces = scores.faces
    resamples = Resamples.draw(len(faces), faces.subjects, options.resamples, options.seed)
    whole = np.ones(len(faces), dtype=bool)
    by_age, by_estimate, *by_group = (
        {name: _figures(scores, resamples, rows) for name, rows in parts.items()}
        for parts in parts_of(scores).values()
    )
    groups = dict(zip(faces.groups, by_group, strict=True))
    return {
        "experts": list(faces.names),
        **_figures(scores, resamples, whole),
        "age_bands": by_age,
        "estimated_age_bands": by_estimate,
        "groups": groups,
        "fairness": {
            "age_bands": _gap(by_age),
            "groups": {column: _gap(sections) for column, sections in groups.items()},
        },
        "gain": _gain(scores, resamples),
        "without": _without(scores, resamples),
        "policy": {f"{t:g}": _policy(scores, t, options) for t in options.thresholds_years},
        "reliability": {f"{t:g}": _reliability(scores, t) for t in options.thresholds_years},
    }


def parts_of(scores: Scores) -> dict[str, dict[str, Rows]]:
    """The rows of every part that is reported: bands by label, by estimate, and each group."""
    return {
        "labeled age": _bands(scores.faces.age_years),
        "estimated age": _bands(scores.fused_years),
        **{column: _values(values) for column, values in scores.faces.groups.items()},
    }


def age_band_names() -> list[str]:
    """The names of all age bands, youngest first."""
    ends = [f"{low}-{high - 1}" for low, high in itertools.pairwise(BAND_EDGES)]
    return [*ends, f"{BAND_EDGES[-1]}+"]


def _methods(scores: Scores) -> dict[tuple[str, ...], Floats]:
    """(N,) ages said by each method, by its place in the report."""
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


def _figures(scores: Scores, resamples: Resamples, rows: Rows) -> Report:
    """The object that stands at the top and under every band and group."""
    methods = _methods(scores)
    errors = np.stack(list(methods.values()), axis=1) - scores.faces.age_years[:, None]
    figures = {
        name: _nested(methods, values.tolist())
        for name, values in error_figures(errors, rows, resamples).items()
    }
    return {"faces": int(rows.sum()), **figures, **_coverage(scores, rows)}


def _nested(places: Iterable[tuple[str, ...]], values: Sequence[Any]) -> Report:
    nested: Report = {}
    for place, value in zip(places, values, strict=True):
        if len(place) == 1:
            nested[place[0]] = value
        else:
            nested.setdefault(place[0], {})[place[1]] = value
    return nested


def _coverage(scores: Scores, rows: Rows) -> Report:
    """How often central intervals hold the true age, and how wide they are."""
    quantiles = scores.quantiles
    coverage, intervals, widths = {}, {}, {}
    for level in _COVERAGES:
        covered = scores.covered(level)
        if covered is None or quantiles is None:
            continue
        name, found = f"{100 * level:g}", rate(covered[rows])
        low, high = scores.interval(quantiles, level)
        coverage[name], intervals[name] = found["rate"], found["interval"]
        widths[name] = float((high - low)[rows].mean())
    return {
        "coverage": coverage,
        "coverage_interval": intervals,
        "interval_width_years": widths,
    }


def _bands(ages: Floats) -> dict[str, Rows]:
    upper = (*BAND_EDGES[1:], np.inf)
    return _filled(
        {
            name: (ages >= low) & (ages < high)
            for name, low, high in zip(age_band_names(), BAND_EDGES, upper, strict=True)
        }
    )


def _values(values: Strings) -> dict[str, Rows]:
    return _filled({str(value) or "(empty)": values == value for value in np.unique(values)})


def _filled(parts: Mapping[str, Rows]) -> dict[str, Rows]:
    return {name: rows for name, rows in parts.items() if rows.any()}


def _gap(sections: Mapping[str, Any]) -> dict[str, object] | None:
    large = {n: s["mae"]["fused"] for n, s in sections.items() if s["faces"] >= ENOUGH_IN_GROUP}
    return largest_gap(large)


def _gain(scores: Scores, resamples: Resamples) -> Report:
    """How much smaller the fused error is than that of the best corrected expert."""
    ages = scores.faces.age_years
    experts = np.abs(scores.corrected_years - ages[:, None])
    best = int(np.argmin(experts.mean(axis=0)))
    gained = experts[:, best] - np.abs(scores.fused_years - ages)
    interval = resamples.mean_intervals(gained[:, None], np.ones(len(ages), dtype=bool))[0]
    return {
        "over": scores.faces.names[best],
        "years": float(gained.mean()),
        "interval": interval.tolist(),
    }


def _without(scores: Scores, resamples: Resamples) -> Report:
    """The fused error when one expert is missing, and what it adds to the error of all."""
    whole = np.ones(len(scores.faces), dtype=bool)
    ages = scores.faces.age_years
    together = np.abs(scores.fused_years - ages)
    result: Report = {}
    for name, fused in scores.without_years.items():
        alone = np.abs(fused - ages)
        mae, added = resamples.mean_intervals(np.stack([alone, alone - together], axis=1), whole)
        result[name] = {
            "mae": float(alone.mean()),
            "mae_interval": mae.tolist(),
            "added_years": float((alone - together).mean()),
            "added_interval": added.tolist(),
        }
    return result


def _policy(scores: Scores, threshold: float, options: ReportOptions) -> list[Report]:
    """Error rates of "let pass whoever is estimated at least as old as the challenge age"."""
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
