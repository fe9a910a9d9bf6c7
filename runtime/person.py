"""One estimate from several pictures of one person, as of a video, a burst or several tries.

    person = combine([moe.predict(frame) for frame in frames])

Without a known correlation of the errors, the interval stays as wide as that of one picture. The
errors on pictures of one sitting (the same light, pose and camera) are nearly the same error, and
more such pictures show no more of the age.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runtime.errors import AgeMoEError, NoUsablePictureError
from runtime.pooling import Agreement, effective, together
from runtime.printing import MOST_LINE, Readable, counted, printable
from runtime.results import AgeEstimate, ResidualQuantiles, result_dict, result_text


@dataclass(frozen=True, slots=True, repr=False)
class FrameResult(Readable):
    """One of several pictures of a person."""

    result: AgeEstimate | AgeMoEError
    """The estimate from this picture alone, or the error instead of it."""
    weight: float = 0.0
    """Share in the person's age; the shares add up to 1."""
    left_out: str | None = None
    """Why an estimate has no share, as one that is far from the others; None if it has, and for an
    error."""

    def to_dict(self, *, gender: bool = False) -> dict[str, Any]:
        """Returns numbers, strings, lists and dicts, ready for JSON.

        Args:
            gender: include the perceived gender, if an expert predicts one.
        """
        values = result_dict(self.result, gender=gender)
        return {"weight": self.weight, "left_out": self.left_out, **values}

    def __str__(self) -> str:
        """Returns the picture's own estimate, or error, and its share in one line."""
        why = "" if self.left_out is None else f", left out: {printable(self.left_out, MOST_LINE)}"
        return f"{result_text(self.result)} (weight {self.weight:.2f}{why})"


@dataclass(frozen=True, slots=True, repr=False)
class PersonEstimate(Readable):
    """The age of one person from several pictures."""

    estimate: AgeEstimate
    """All pictures together. An expert that did not answer for every picture with a weight is among
    the missing ones."""
    frames: tuple[FrameResult, ...]
    """The pictures, in the order in which they were given."""
    effective_frames: float
    """Number of equally weighted pictures with the same spread of weights; it allows for no
    correlation."""
    stability_years: float | None
    """Spread of the pictures' own estimates, outliers included: 1.4826 times their median absolute
    deviation. None for one picture."""
    correlation: float | None = None
    """Correlation of the pictures' errors by which the interval was narrowed; None: it was not."""
    disagreement: str | None = None
    """Set where no majority of the pictures agrees. The age is the middle of ages that do not
    belong together then, and the interval spans those of all pictures."""

    def __str__(self) -> str:
        """Returns the estimate and how many of the pictures it is from, in one line."""
        used, count = len(self.used), len(self.frames)
        pictures = (
            f"{used} of {counted(count, 'picture')}" if used < count else counted(count, "picture")
        )
        doubt = "" if self.disagreement is None else ", which disagree"
        return f"{self.estimate}, {pictures}{doubt}"

    @property
    def age_years(self) -> float:
        """The age."""
        return self.estimate.age_years

    @property
    def residuals(self) -> ResidualQuantiles | None:
        """Source of the interval; None without calibration."""
        return self.estimate.residuals

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of the pictures with a weight, and the number of outliers."""
        return self.estimate.notes

    @property
    def low_years(self) -> float | None:
        """Lower end of the 90 % interval; None without calibration."""
        return self.estimate.low_years

    @property
    def high_years(self) -> float | None:
        """Upper end of the 90 % interval; None without calibration."""
        return self.estimate.high_years

    @property
    def used(self) -> tuple[AgeEstimate, ...]:
        """The estimates from the pictures with a weight."""
        results = (frame.result for frame in self.frames if frame.weight > 0.0)
        return tuple(result for result in results if isinstance(result, AgeEstimate))

    @property
    def outliers(self) -> dict[int, str]:
        """Why estimates have no weight, by the index of their picture, from 0."""
        return {i: f.left_out for i, f in enumerate(self.frames) if f.left_out is not None}

    def interval(self, level: float) -> tuple[float, float]:
        """As `AgeEstimate.interval`."""
        return self.estimate.interval(level)

    def probability_at_least(self, threshold_years: float) -> float:
        """As `AgeEstimate.probability_at_least`."""
        return self.estimate.probability_at_least(threshold_years)

    def probability_bounds(self, threshold_years: float) -> tuple[float, float]:
        """As `AgeEstimate.probability_bounds`."""
        return self.estimate.probability_bounds(threshold_years)

    def to_dict(self, *, gender: bool = False) -> dict[str, Any]:
        """Returns numbers, strings, lists and dicts, ready for JSON.

        Args:
            gender: include the perceived gender, if an expert predicts one.
        """
        return {
            **self.estimate.to_dict(gender=gender),
            "stability_years": self.stability_years,
            "effective_frames": self.effective_frames,
            "correlation": self.correlation,
            "disagreement": self.disagreement,
            "frames": [frame.to_dict(gender=gender) for frame in self.frames],
        }


def combine(
    results: Sequence[AgeEstimate | AgeMoEError], correlation: float | None = None
) -> PersonEstimate:
    """Combines estimates from several pictures of one person; their order does not matter.

    Args:
        results: of the same `AgeMoE`; an error stays in its place, without a weight.
        correlation: of the errors on any two of the pictures, 0..1; None, as for pictures of one
            sitting, leaves the interval as wide as that of one picture.

    Returns:
        The person's estimate; for one usable picture exactly the estimate from it.

    Raises:
        NoUsablePictureError: there is no estimate of a finite age among the results.
        ValueError: the correlation is out of range, or the estimates are from different tables.
    """
    if correlation is not None and not 0.0 <= correlation <= 1.0:
        raise ValueError(f"correlation must be within 0..1, or None, got {correlation}.")
    left_out = _unusable(results)
    usable = {
        index: result
        for index, result in enumerate(results)
        if isinstance(result, AgeEstimate) and index not in left_out
    }
    if not usable:
        raise NoUsablePictureError(
            [left_out.get(index) or str(result) for index, result in enumerate(results)]
        )
    estimates = list(usable.values())
    _check_tables(estimates)
    agreement = Agreement.of(estimates)
    weights = dict(zip(usable, agreement.weights, strict=True))
    left_out |= {
        index: agreement.outlier(usable[index]) for index, w in weights.items() if w == 0.0
    }
    frames = tuple(
        FrameResult(result, weights.get(index, 0.0), left_out.get(index))
        for index, result in enumerate(results)
    )
    narrowed = None if agreement.problem else correlation
    return PersonEstimate(
        together(estimates, agreement, narrowed, _left_out_note(len(left_out), len(results))),
        frames,
        effective(agreement.weights),
        agreement.stability_years,
        narrowed,
        agreement.problem,
    )


def _unusable(results: Sequence[AgeEstimate | AgeMoEError]) -> dict[int, str]:
    """Returns why estimates cannot be combined with the others, by index."""
    estimates = {i: r for i, r in enumerate(results) if isinstance(r, AgeEstimate)}
    found = {
        index: f"the estimated age is {estimate.age_years}, no number"
        for index, estimate in estimates.items()
        if not math.isfinite(estimate.age_years)
    }
    rest = {index: e for index, e in estimates.items() if index not in found}
    if any(estimate.residuals is not None for estimate in rest.values()):
        found |= {
            index: f"there is no interval for the experts that answered ({', '.join(e.experts)})"
            for index, e in rest.items()
            if e.residuals is None
        }
    return found


def _check_tables(estimates: Sequence[AgeEstimate]) -> None:
    levels = {e.residuals.levels for e in estimates if e.residuals is not None}
    if len(levels) > 1 or len({e.age_range for e in estimates}) > 1:
        raise ValueError(
            "The estimates are from different fusion tables. Combine those of one AgeMoE."
        )


def _left_out_note(left_out: int, pictures: int) -> tuple[str, ...]:
    if not left_out:
        return ()
    return (f"{left_out} of {pictures} pictures left out: outliers, or without an interval",)
