"""Correlation of the errors on several pictures of one person.

The error on a picture is its residual (true age - fused age), less the median and divided by half
the width of the 90 % interval of its fused age: the error that the interval is for. For all pairs
of pictures of one person, whose ages on them differ by no more than `YEARS_APART`,

    rho = sum over people of n mean(z_i z_j) / sum over people of n mean(z_i^2)

with n the person's pictures that are in a pair. Its 95 % interval is from resampling people.

What differs from the usual intraclass correlation, each time so that intervals of several pictures
cover no less:

- Errors are not centered: a common error of all faces of the data, which more pictures cannot
  reduce, counts as correlation.
- The trend is removed by fused age, as in the intervals, and not by true age. That 17-year-olds
  look 20 on average is an error that all pictures of one of them share.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.calibration.csv_tables import LabelsError
from export.calibration.markdown_text import plain
from export.calibration.metrics import CONFIDENCE
from export.calibration.scores import Scores
from runtime.fusion import Floats, FusionTables
from runtime.fusion_file import write_fusion
from runtime.pooling import Correlation
from runtime.results import INTERVAL_LEVEL

_LOGGER = logging.getLogger("agemoe")

YEARS_APART = 2.0
"""Ages of a person on two pictures may differ by this: beyond it, another face has grown."""
FEWEST_PEOPLE = 20
"""With two such pictures; fewer give no useful interval."""
_LEAST_SCALE_YEARS = 0.1
_MOST_PICTURES = 1000
"""Pictures of one person that are used; more only add pairs of the same person."""


def correlation_of(scores: Scores, data: str, resamples: int, seed: int) -> Correlation | None:
    """Fits the correlation.

    Args:
        scores: of faces that the tables were not fitted on, or held-out ones; of people with
            several pictures.
        data: name of the labeled data.
        resamples: of people.
        seed: of the resampling.

    Returns:
        None without intervals, or with fewer than `FEWEST_PEOPLE` people with two pictures.
    """
    errors = standardized_errors(scores)
    if errors is None or scores.faces.subjects is None:
        return None
    sums, pairs = _sums(errors, scores.faces.age_years, scores.faces.people)
    if len(sums) < FEWEST_PEOPLE:
        _LOGGER.info(
            "%d people have two pictures within %g years; the correlation of errors on several "
            "pictures needs %d.",
            len(sums),
            YEARS_APART,
            FEWEST_PEOPLE,
        )
        return None
    random = np.random.default_rng(seed)
    drawn = np.stack(
        [sums[random.integers(len(sums), size=len(sums))].sum(axis=0) for _ in range(resamples)]
    )
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [tail, 1.0 - tail])
    both, own = sums.sum(axis=0)
    value, low, high = (round(float(np.clip(x, 0.0, 1.0)), 4) for x in (both / own, low, high))
    return Correlation(
        value, min(low, value), max(high, value), len(sums), pairs, YEARS_APART, data
    )


def write_correlation(path: Path, tables: FusionTables, found: Correlation | None) -> None:
    """Writes tables with a correlation.

    Raises:
        LabelsError: none was found.
    """
    if found is None:
        problem = (
            f"the correlation needs tables with intervals and {FEWEST_PEOPLE} people with two "
            f"pictures, {YEARS_APART:g} years apart at most; a column `subject` tells them apart"
        )
        raise LabelsError("The labeled data", [problem])
    write_fusion(path, replace(tables, correlation=found))


def correlation_text(found: Correlation) -> str:
    """Returns a paragraph of a report, as Markdown."""
    return (
        "Several pictures of a person: the errors on two of them correlate by "
        f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}] ({found.pairs:,} pairs of "
        f"{found.people:,} people in {plain(found.data)}, at most {found.years_apart:g} years "
        "apart). At 0 the errors are independent and more pictures narrow the interval most, at 1 "
        "they are equal and more pictures tell nothing new. `predict_person` narrows its intervals "
        "by the upper end of the 95 % interval in brackets."
    )


def standardized_errors(scores: Scores) -> Floats | None:
    """Returns (N,) errors, 0 at the median and ±1 at the ends of a symmetric 90 % interval.

    None without intervals.
    """
    quantiles, tail = scores.quantiles, (1.0 - INTERVAL_LEVEL) / 2.0
    if quantiles is None:
        return None
    half = (quantiles.at(1.0 - tail) - quantiles.at(tail)) / 2.0
    residuals = scores.faces.age_years - scores.fused_years
    return np.asarray((residuals - quantiles.at(0.5)) / np.maximum(half, _LEAST_SCALE_YEARS))


def _sums(errors: Floats, age_years: Floats, people: NDArray[np.intp]) -> tuple[Floats, int]:
    """Returns, for P people with a pair, (P, 2) sums of products and of squares; and all pairs."""
    sums, count = [], 0
    order = np.argsort(people, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(people[order])) + 1):
        ages, z = age_years[rows[:_MOST_PICTURES]], errors[rows[:_MOST_PICTURES]]
        near = np.abs(ages[:, None] - ages[None, :]) <= YEARS_APART
        one, other = np.nonzero(np.triu(near, 1))
        if len(one):
            own = np.union1d(one, other)
            sums.append((len(own) * float(np.mean(z[one] * z[other])), float(np.sum(z[own] ** 2))))
            count += len(one)
    return np.array(sums).reshape(-1, 2), count
