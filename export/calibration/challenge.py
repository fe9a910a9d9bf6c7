"""Fits the challenge age of a policy, with a confidence bound on the rate of false positives.

A false positive is a person younger than the threshold whose estimate reaches the challenge age.
With k of n such people, the true rate is below the one-sided Clopper–Pearson bound, the quantile of
Beta(k + 1, n - k), with the stated confidence (Clopper and Pearson 1934, Biometrika 26).

*Choice among challenge ages.* Candidates, fixed in advance, are tested from the highest downward
until one fails; the last that succeeded is chosen. Testing in a fixed order keeps the confidence
without correction for the number of candidates: an error needs the first candidate whose true rate
is over the limit to succeed (Maurer, Hothorn and Lehmacher 1995; as *fixed sequence testing* in
Angelopoulos et al. 2021, Learn then Test, arXiv 2110.01052).

*Groups.* A candidate succeeds if the bounds of all people and of every group are under the limit.
That needs no correction either: an error needs the test of the one group that is over the limit to
succeed (the intersection-union test, Berger 1982, Technometrics 24).

*Several pictures of one person* are not independent, so people are counted, each by the least
favorable picture: a younger person passes if any picture does, an older one is referred if any is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from export.calibration.labeled_predictions import LabeledPredictions
from export.calibration.metrics import Rows
from runtime.fusion import Floats
from runtime.policy_terms import OLDEST_YEARS, Rate

ALL = "all"
CONFIDENCE = 0.95
STEP_YEARS = 0.5
_HIGHEST_YEARS = 40.0
"""The candidates reach so many years above the threshold."""
_YOUNGER_EDGES = (-8.0, -4.0, -2.0, -1.0, 0.0)
_OLDER_EDGES = (0.0, 3.0, 7.0, 12.0, 22.0, np.inf)
"""Edges of the age bands in tables, in years from the threshold."""


@dataclass(frozen=True, slots=True)
class ChallengeOptions:
    """Requirements on a challenge age, and the people who count."""

    threshold: float = 18.0
    """The required age in years."""
    challenge: float | None = None
    """A given challenge age; None: the smallest that keeps the limit."""
    max_false_positive: float | None = 0.01
    """The limit; None: a given challenge age is only measured."""
    youngest: float = 0.0
    """People below this age do not count; they would dilute the rate."""
    floor: float | None = None
    """Estimated age below which a person fails; only measured."""
    groups: tuple[str, ...] = ()
    """Columns whose every value must keep the limit."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """A challenge age and its error rates on labeled faces."""

    challenge: float
    bound: float
    """The largest upper confidence bound on the false positive rate."""
    worst: str
    """The group of that bound."""
    claimed: bool
    """True if there is a limit and the bound is under it."""
    younger: tuple[Rate, ...]
    older: tuple[Rate, ...]
    failed: Rate | None
    """Older people below the floor; None without a floor."""


@functools.lru_cache(maxsize=1 << 12)  # neighboring candidates have equal counts
def upper_bound(events: int, people: int, confidence: float = CONFIDENCE) -> float:
    """Returns the one-sided upper Clopper–Pearson bound on a rate; 1 without people."""
    from scipy.special import betaincinv

    if events >= people:
        return 1.0
    return float(betaincinv(events + 1, people - events, confidence))


def exact_interval(events: int, people: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Returns the two-sided Clopper–Pearson interval of a rate; 0 and 1 without people."""
    side = (1.0 + confidence) / 2.0
    low = 1.0 - upper_bound(people - events, people, side)
    return low, upper_bound(events, people, side)


def fewest_people(limit: float, confidence: float = CONFIDENCE) -> int:
    """Returns how many people show that a rate is under a limit if none of them is an error."""
    return math.ceil(math.log(1.0 - confidence) / math.log1p(-limit) - 1e-9)


def candidates(threshold: float) -> Floats:
    """Returns the challenge ages that are tried, from the highest to the threshold."""
    highest = min(threshold + _HIGHEST_YEARS, OLDEST_YEARS)
    return np.arange(threshold, highest + 1e-9, STEP_YEARS)[::-1]


def fit_challenge(
    faces: LabeledPredictions, fused_years: Floats, options: ChallengeOptions
) -> Challenge | None:
    """Fits or measures a challenge age.

    Args:
        faces: labeled faces that the fusion was not fitted on.
        fused_years: (N,) their estimated ages; NaN, no estimate, is referred.
        options: the threshold, the limit and who counts.

    Returns:
        The challenge age; None if no candidate keeps the limit.
    """
    sample = _Sample.of(faces, fused_years, options)
    limit, chosen = options.max_false_positive, options.challenge
    if chosen is None:
        if limit is None:
            raise ValueError("either a challenge age or a limit must be given")
        chosen = _smallest(sample, candidates(options.threshold), limit)
        if chosen is None:
            return None
    bound, worst = sample.bound(chosen)
    failed = None
    if options.floor is not None:
        failed = _rate(ALL, sample.estimated < options.floor)
    return Challenge(
        chosen,
        bound,
        worst,
        limit is not None and bound <= limit,
        tuple(_rate(name, found >= chosen) for name, found in sample.shown_younger.items()),
        tuple(_rate(name, found < chosen) for name, found in sample.older.items()),
        failed,
    )


def people_counted(
    faces: LabeledPredictions, fused_years: Floats, options: ChallengeOptions
) -> dict[str, int]:
    """Returns the number of younger people in all and in each group that the limit is for."""
    sample = _Sample.of(faces, fused_years, options)
    return {name: len(found) for name, found in sample.younger.items()}


def _smallest(sample: _Sample, challenges: Floats, limit: float) -> float | None:
    """Tests challenge ages in the given order; returns the last before the first that fails."""
    chosen = None
    for challenge in challenges:
        if sample.bound(float(challenge))[0] > limit:
            break
        chosen = float(challenge)
    return chosen


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """Estimates of people, each by the least favorable picture."""

    younger: Mapping[str, Floats]
    """By group that the limit is for: the highest estimate of each younger person."""
    shown_younger: Mapping[str, Floats]
    """The same, and by group and age band that are only shown."""
    older: Mapping[str, Floats]
    """By group and age band: the lowest estimate of each older person."""
    estimated: Floats
    """The lowest estimate of each older person, over pictures that have one; infinity for people
    without any, as a missing estimate is referred and does not fail."""

    @classmethod
    def of(
        cls, faces: LabeledPredictions, fused_years: Floats, options: ChallengeOptions
    ) -> _Sample:
        ages, people = faces.age_years, faces.people
        estimates = np.where(np.isfinite(fused_years), fused_years, -np.inf)
        young = (ages < options.threshold) & (ages >= options.youngest)
        old = ages >= options.threshold
        grouped = dict(rows_by_group(faces))
        limited = dict(rows_by_group(faces, options.groups))
        lower = {ALL: young, **{name: young & rows for name, rows in grouped.items()}}
        upper = {ALL: old, **{name: old & rows for name, rows in grouped.items()}}
        below = [options.threshold + offset for offset in _YOUNGER_EDGES]
        below = [options.youngest, *(age for age in below if age > options.youngest)]
        above = [options.threshold + offset for offset in _OLDER_EDGES]
        lower |= {name: young & rows for name, rows in _bands(ages, below)}
        upper |= {name: old & rows for name, rows in _bands(ages, above)}
        highest = {n: _by_person(people, estimates, rows) for n, rows in lower.items()}
        known = np.where(np.isfinite(fused_years), fused_years, np.inf)
        return cls(
            {name: highest[name] for name in (ALL, *limited)},
            _not_empty(highest),
            _not_empty({n: -_by_person(people, -estimates, rows) for n, rows in upper.items()}),
            -_by_person(people, -known, old),
        )

    def bound(self, challenge: float) -> tuple[float, str]:
        """Returns the largest bound of the groups that the limit is for, and its group."""
        return max(
            (upper_bound(int((found >= challenge).sum()), len(found)), name)
            for name, found in self.younger.items()
        )


def rows_by_group(
    faces: LabeledPredictions, columns: Sequence[str] | None = None
) -> Iterator[tuple[str, Rows]]:
    """Yields the name, `sex=female`, and the (N,) rows of every group; None: of all columns."""
    for column in faces.groups if columns is None else columns:
        values = faces.groups[column]
        for value in np.unique(values):
            if value:
                yield f"{column}={value}", values == value


def _bands(ages: Floats, edges: Sequence[float]) -> Iterator[tuple[str, Rows]]:
    """Yields the name and the (N,) rows of the bands between ages in years."""
    for low, high in pairwise(edges):
        last = high - 1.0
        name = f"{low:g}+" if np.isinf(high) else f"{low:g}-{last:g}" if last > low else f"{low:g}"
        yield name, (ages >= low) & (ages < high)


def _by_person(people: NDArray[np.intp], estimates: Floats, rows: Rows) -> Floats:
    """Returns the highest estimate of each person with a picture among some rows."""
    number = np.unique(people[rows], return_inverse=True)[1]
    highest = np.full(number.max(initial=-1) + 1, -np.inf)
    np.maximum.at(highest, number, estimates[rows])
    return highest


def _not_empty(values: Mapping[str, Floats]) -> dict[str, Floats]:
    return {name: found for name, found in values.items() if len(found)}


def _rate(group: str, events: Rows) -> Rate:
    count = int(events.sum())
    return Rate(group, len(events), count, *exact_interval(count, len(events)))
