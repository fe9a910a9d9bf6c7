"""Stand-in until several pictures of one person are combined: the picture with the median age."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from runtime.errors import AgeMoEError, PredictionError
from runtime.results import AgeEstimate


@dataclass(frozen=True, slots=True)
class FrameResult:
    """One of several pictures of a person."""

    result: AgeEstimate | AgeMoEError
    weight: float = 0.0
    """Share in the person's age; the shares add up to 1."""
    left_out: str | None = None
    """Why an estimate has no share; None if it has, and for an error."""


@dataclass(frozen=True, slots=True)
class PersonEstimate(AgeEstimate):
    """The age of one person from several pictures."""

    frames: tuple[FrameResult, ...] = ()
    effective_frames: float = 1.0
    stability_years: float | None = None
    correlation: float | None = None
    disagreement: str | None = None

    def to_dict(self, *, gender: bool = False) -> dict[str, Any]:
        """Returns numbers, strings, lists and dicts, ready for JSON."""
        return {
            **AgeEstimate.to_dict(self, gender=gender),
            "stability_years": self.stability_years,
            "effective_frames": self.effective_frames,
            "correlation": self.correlation,
            "disagreement": self.disagreement,
        }


def combine(
    results: Sequence[AgeEstimate | AgeMoEError], correlation: float | None = None
) -> PersonEstimate:
    """Combines estimates from several pictures of one person.

    Raises:
        PredictionError: there is no estimate of a finite age among the results.
    """
    del correlation
    usable = [r for r in results if isinstance(r, AgeEstimate) and math.isfinite(r.age_years)]
    if not usable:
        raise PredictionError({f"picture {i}": str(r) for i, r in enumerate(results, 1)})
    ordered = sorted(usable, key=lambda estimate: estimate.age_years)
    middle = ordered[len(ordered) // 2]
    values = {field.name: getattr(middle, field.name) for field in fields(AgeEstimate)}
    frames = tuple(FrameResult(r, 1.0 / len(usable) if r in usable else 0.0) for r in results)
    return PersonEstimate(**values, frames=frames, effective_frames=float(len(usable)))
