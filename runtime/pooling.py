"""The statistics of `runtime.person`: agreement of several estimates, and their common error.

For N pictures with fused ages a_i, on which the estimate made the errors true age - a_i:

1. scale      s = half the width of the 90 % interval in standard deviations of a normal
              distribution, the median of the pictures: from calibration, not from the few pictures
2. agreement  w_i = 1 up to 2 s from the median, from there falling to 0 at 3 s, linearly (Hampel's
              three-part weights); beyond, the picture is an outlier
3. location   age = sum w_i a_i / sum w_i
4. spread     quantiles of the error: the same weighted mean of the pictures' own quantiles, which
              is exact where their errors rise and fall together; then shrunk toward the median by
              sqrt(rho + (1 - rho) / n), the standard deviation of the mean of n errors that
              correlate by rho, relative to that of one. n = (sum w)^2 / sum w^2, Kish's size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import median

from runtime.results import INTERVAL_LEVEL, AgeEstimate, ExpertAge, ResidualQuantiles

_FULL_SCALES, _OUTLIER_SCALES = 2.0, 3.0
"""Up to so many scales from the median, an age counts in full; from so many on, not at all.
Smoother weights, as Tukey's, cost coverage where errors are independent (0.87 instead of 0.89)."""
_ENDS_SCALES = 1.645
"""Distance of the ends of a normal distribution's 90 % interval from its middle, in standard
deviations."""
_LEAST_SCALE_YEARS = 0.5
_UNCALIBRATED_SCALE_YEARS = 6.0
"""Without calibration: about that of networks with a mean absolute error of 5 years."""
_MAD_SCALES = 1.4826
"""Standard deviation of a normal distribution as a multiple of its median absolute deviation."""


@dataclass(frozen=True, slots=True)
class Correlation:
    """Correlation of the errors on two pictures of one person, taken on separate occasions."""

    value: float
    """Estimate, 0..1."""
    low: float
    """Lower end of its 95 % interval, from resampling people."""
    high: float
    """Upper end; intervals of several pictures are narrowed by this one."""
    people: int
    """With at least two pictures."""
    pairs: int
    """Of pictures of one person."""
    years_apart: float
    """Largest difference of the person's ages on a pair."""
    data: str
    """Name of the labeled data."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the path and text of each inconsistency."""
        if not 0.0 <= self.low <= self.value <= self.high <= 1.0:
            yield "value", "must lie between low and high, all within 0..1"
        if self.people < 1 or self.pairs < self.people:
            yield "pairs", "must be at least one for each of the people"


def shrinkage(correlation: float, pictures: float) -> float:
    """Returns the standard deviation of the mean of n correlated errors, relative to that of one.

    Var(mean) = (n sigma^2 + n (n - 1) rho sigma^2) / n^2 = sigma^2 (rho + (1 - rho) / n).

    Args:
        correlation: rho, of any two of the errors.
        pictures: n, 1 or more.
    """
    return math.sqrt(correlation + (1.0 - correlation) / pictures)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well the ages of several pictures agree."""

    weights: tuple[float, ...]
    """They add up to 1."""
    center: float
    """The median."""
    stability_years: float | None
    problem: str | None
    """Set where no majority agrees; the weights are equal then."""

    @classmethod
    def of(cls, estimates: Sequence[AgeEstimate]) -> Agreement:
        """Weighs estimates of finite ages; one alone agrees with itself."""
        ages = [estimate.age_years for estimate in estimates]
        center, scale = median(ages), _scale(estimates)
        spread = _MAD_SCALES * median(abs(age - center) for age in ages)
        problem = _disagreement(ages, _OUTLIER_SCALES * scale)
        raw = [1.0 if problem else _weight((age - center) / scale) for age in ages]
        total = math.fsum(raw)
        weights = tuple(weight / total for weight in raw)
        return cls(weights, center, spread if len(ages) > 1 else None, problem)

    def outlier(self, estimate: AgeEstimate) -> str:
        """Returns why an estimate has no weight."""
        apart = abs(estimate.age_years - self.center)
        return (
            f"{estimate.age_years:.1f} years are {apart:.1f} from the median of all pictures: "
            f"another person, or a failure"
        )


def _scale(estimates: Sequence[AgeEstimate]) -> float:
    """Returns the standard deviation in years of the error on one picture."""
    tail = (1.0 - INTERVAL_LEVEL) / 2.0
    widths = [e.residuals.at(1.0 - tail) - e.residuals.at(tail) for e in estimates if e.residuals]
    if not widths:
        return _UNCALIBRATED_SCALE_YEARS
    return max(median(widths) / (2.0 * _ENDS_SCALES), _LEAST_SCALE_YEARS)


def _weight(scales: float) -> float:
    """Returns the weight of an age so many scales from the median."""
    rest = (_OUTLIER_SCALES - abs(scales)) / (_OUTLIER_SCALES - _FULL_SCALES)
    return min(max(rest, 0.0), 1.0)


def _disagreement(ages: Sequence[float], reach: float) -> str | None:
    """Returns what is wrong if no majority of the ages lies within less than `reach` years.

    Otherwise that majority, and so the median, is less than `reach` from the median: outliers are
    always a minority.
    """
    ordered, majority = sorted(ages), len(ages) // 2 + 1
    spans = (last - first for first, last in zip(ordered, ordered[majority - 1 :], strict=False))
    if min(spans) < reach:
        return None
    return (
        f"The ages of {len(ages)} pictures lie between {ordered[0]:.1f} and {ordered[-1]:.1f} "
        f"years: no majority of them agrees within {reach:.1f} years."
    )


def effective(weights: Sequence[float]) -> float:
    """Returns Kish's effective size; for equal weights exactly their number."""
    if len(set(weights)) == 1:
        return float(len(weights))
    return math.fsum(weights) ** 2 / math.fsum(weight * weight for weight in weights)


def together(
    estimates: Sequence[AgeEstimate],
    agreement: Agreement,
    correlation: float | None,
    notes: tuple[str, ...],
) -> AgeEstimate:
    """Combines estimates; one alone stays as it is."""
    pairs = zip(estimates, agreement.weights, strict=True)
    used = [(estimate, weight) for estimate, weight in pairs if weight > 0.0]
    first, (kept, weights) = used[0][0], zip(*used, strict=True)
    if len(used) == 1:
        return replace(first, notes=(*first.notes, *notes))
    notes = (*sorted({note for estimate in kept for note in estimate.notes}), *notes)
    low, high = first.age_range
    age = min(max(_mean([e.age_years for e in kept], weights), low), high)
    experts, missing = _experts(kept, weights)
    residuals = _residuals(kept, weights, age if agreement.problem else None)
    if residuals is not None and correlation is not None:
        residuals = _shrunk(residuals, shrinkage(correlation, effective(weights)))
    return AgeEstimate(age, experts, missing, first.age_range, residuals, notes)


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Returns the weighted mean; exactly the value where all are equal, in whatever order."""
    least = min(values)
    terms = (w * (value - least) for value, w in zip(values, weights, strict=True))
    return least + math.fsum(terms) / math.fsum(weights)


def _experts(
    estimates: Sequence[AgeEstimate], weights: Sequence[float]
) -> tuple[dict[str, ExpertAge], dict[str, str]]:
    """Returns the experts that answered for every picture, and the missing ones."""
    reasons: dict[str, list[str]] = {}
    for estimate in estimates:
        for name, reason in estimate.missing.items():
            reasons.setdefault(name, []).append(reason)
    experts = {
        name: _expert([e.experts[name] for e in estimates], weights)
        for name in estimates[0].experts
        if name not in reasons and all(name in e.experts for e in estimates)
    }
    missing = {
        name: found[0]
        if len(found) == len(estimates) and len(set(found)) == 1
        else f"in {len(found)} of {len(estimates)} pictures: {'; '.join(sorted(set(found)))}"
        for name, found in reasons.items()
    }
    return experts, missing


def _expert(ages: Sequence[ExpertAge], weights: Sequence[float]) -> ExpertAge:
    masses = [a.answer_mass for a in ages if a.answer_mass is not None]
    genders = [a.gender_probs for a in ages if a.gender_probs is not None]
    mass, probs = None, None
    if len(masses) == len(ages):
        mass = _mean(masses, weights)
    if len(genders) == len(ages):
        male, female = zip(*genders, strict=True)
        probs = _mean(male, weights), _mean(female, weights)
    return ExpertAge(
        _mean([a.age_years for a in ages], weights),
        _mean([a.corrected_years for a in ages], weights),
        _mean([a.weight for a in ages], weights),
        mass,
        probs,
    )


def _residuals(
    estimates: Sequence[AgeEstimate], weights: Sequence[float], apart: float | None
) -> ResidualQuantiles | None:
    """Returns the quantiles of the error of the common age.

    Args:
        estimates: all with residuals, or all without.
        weights: of the estimates.
        apart: the common age, if the estimates disagree: then the outermost quantiles of all of
            them count.
    """
    found = [estimate.residuals for estimate in estimates if estimate.residuals is not None]
    if not found:
        return None
    levels = found[0].levels
    years = []
    for level, column in zip(levels, zip(*(r.years for r in found), strict=True), strict=True):
        if apart is None:
            years.append(_mean(column, weights))
            continue
        ends = [e.age_years + y - apart for e, y in zip(estimates, column, strict=True)]
        years.append(min(ends) if level < 0.5 else max(ends) if level > 0.5 else median(ends))
    return ResidualQuantiles(levels, tuple(accumulate(years, max)))


def _shrunk(residuals: ResidualQuantiles, factor: float) -> ResidualQuantiles:
    middle = residuals.at(0.5)
    years = (y if factor == 1.0 else middle + factor * (y - middle) for y in residuals.years)
    return ResidualQuantiles(residuals.levels, tuple(accumulate(years, max)))
