"""Inputs and results of a prediction: `Face`, `ExpertAge`, `AgeEstimate`."""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from runtime.errors import AgeMoEError, NotCalibratedError
from runtime.printing import MOST_LINE, Readable, counted, printable
from runtime.program import command_line
from runtime.quality import FaceQuality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    ImageSource = str | os.PathLike[str] | bytes | IO[bytes] | Image | NDArray[np.uint8]
    """A picture: a path, encoded bytes, a binary file, a PIL image or uint8 RGB (H, W, 3)."""

Box = tuple[float, float, float, float]
"""x, y, width, height in pixels of the upright picture (EXIF orientation applied)."""

Point = tuple[float, float]
"""x, y in pixels of the upright picture."""

Landmarks = tuple[Point, Point, Point, Point, Point]
"""Left eye, right eye, nose, left and right mouth corner; left and right as seen in the picture
where the face is upright. 0, 0 is the center of the first pixel."""

INTERVAL_LEVEL = 0.9
"""Probability that the true age lies within `low_years` … `high_years`."""

OLDEST_VERIFIED_YEARS = 123.0
"""Nobody is known to have been older: the oldest person whose age was verified, Jeanne Calment,
died at 122 years and 164 days."""


def box_text(box: Box) -> str:
    """Returns size and place of a box, for people."""
    x, y, width, height = box
    return f"{width:.0f}×{height:.0f} pixels at {x:.0f}, {y:.0f}"


@dataclass(frozen=True, slots=True)
class Face:
    """One person in one picture."""

    image: ImageSource
    """The picture the face is in."""
    box: Box | None = None
    """The face; None means that the whole picture is the face."""
    person_box: Box | None = None
    """The whole person, for experts that use it; None means not visible."""
    landmarks: Landmarks | None = None
    """Five points of the face, for experts that align it; None means unknown."""
    score: float | None = None
    """Confidence of the detector that found the face; None if none did, or it has none."""
    limited: bool = True
    """Whether the quality limits and the liveness check of `AgeMoE` apply to this face."""


if TYPE_CHECKING:
    FaceLike = ImageSource | Face
    """A picture of a face, or a face in a picture."""


@dataclass(frozen=True, slots=True, repr=False)
class ExpertAge(Readable):
    """The prediction of one expert for one face."""

    age_years: float
    """The raw prediction."""
    corrected_years: float
    """The prediction corrected for the expert's own bias."""
    weight: float
    """The expert's share in the fused age; the shares of one estimate add up to 1."""
    answer_mass: float | None = None
    """Probability that the expert answers with an age at all; None if it has no such output."""
    gender_probs: tuple[float, float] | None = None
    """Male, female, as perceived by the expert; unused in fusion; None without such an output."""

    def __str__(self) -> str:
        """Returns raw age, corrected age and share: `24.3 years, corrected 25.1, weight 0.82`."""
        return (
            f"{self.age_years:.1f} years, corrected {self.corrected_years:.1f}, "
            f"weight {self.weight:.2f}"
        )


@dataclass(frozen=True, slots=True)
class ResidualQuantiles:
    """Distribution of (true age - fused age) at one age, for the experts that answered."""

    levels: tuple[float, ...]
    """Increasing, within (0, 1)."""
    years: tuple[float, ...]
    """At each level: quantile of (true age - fused age); never decreasing."""

    def at(self, level: float) -> float:
        """Returns the residual in years at a level, interpolated linearly."""
        return _interpolate(level, self.levels, self.years)

    def level_of(self, residual_years: float) -> float:
        """Returns the probability that (true age - fused age) is below a residual.

        Outside the table this is the outermost tabulated level, which is then only a bound:
        `level_bounds` tells.
        """
        return _interpolate(residual_years, self.years, self.levels)

    def level_bounds(self, residual_years: float) -> tuple[float, float]:
        """Returns bounds of `level_of`: equal within the table, 0 or 1 at one end outside it."""
        if residual_years < self.years[0]:
            return 0.0, self.levels[0]
        if residual_years > self.years[-1]:
            return self.levels[-1], 1.0
        level = self.level_of(residual_years)
        return level, level


@dataclass(frozen=True, slots=True, repr=False)
class AgeEstimate(Readable):
    """The fused age of one face and everything it derives from."""

    age_years: float
    """The fused age."""
    experts: Mapping[str, ExpertAge]
    """Predictions of the experts that answered, by name."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Reason for each expert that did not answer, by name."""
    age_range: tuple[float, float] = (0.0, 100.0)
    """First and last year of the age grid; ages and intervals are clipped to it."""
    residuals: ResidualQuantiles | None = None
    """Source of the interval; None without calibration."""
    notes: tuple[str, ...] = ()
    """What was replaced on the way to this estimate, as landmarks by a box's average ones."""
    quality: FaceQuality | None = None
    """Quality of the face; None if only a person is visible."""

    @property
    def low_years(self) -> float | None:
        """Lower end of the 90 % interval; None without calibration."""
        return None if self.residuals is None else self.interval(INTERVAL_LEVEL)[0]

    @property
    def high_years(self) -> float | None:
        """Upper end of the 90 % interval; None without calibration."""
        return None if self.residuals is None else self.interval(INTERVAL_LEVEL)[1]

    def __str__(self) -> str:
        """Returns age, 90 % interval and experts: `24.3 years (17.9 to 31.0), 4 experts`."""
        low, high = self.low_years, self.high_years
        ends = "no interval" if low is None or high is None else f"{low:.1f} to {high:.1f}"
        asked = len(self.experts) + len(self.missing)
        answered = f"{len(self.experts)} of " if self.missing else ""
        notes = f", {counted(len(self.notes), 'note')}" if self.notes else ""
        experts = f"{answered}{counted(asked, 'expert')}"
        return f"{self.age_years:.1f} years ({ends}), {experts}{notes}"

    def interval(self, level: float) -> tuple[float, float]:
        """Returns the central interval that holds the true age with a given probability.

        Args:
            level: probability within (0, 1), limited by the outermost levels of the tables.

        Returns:
            Lower and upper end in years.

        Raises:
            NotCalibratedError: there are no tables for the experts that answered.
            ValueError: the level is outside the tables.
        """
        residuals = self._calibrated("An interval")
        tail = (1.0 - level) / 2.0
        if not 0.0 < level < 1.0 or tail < residuals.levels[0] - 1e-9:
            widest = 1.0 - 2.0 * residuals.levels[0]
            raise ValueError(f"level must be within (0, {widest:.3g}], got {level}.")
        return (
            self._clipped(self.age_years + residuals.at(tail)),
            self._clipped(self.age_years + residuals.at(1.0 - tail)),
        )

    def probability_at_least(self, threshold_years: float) -> float:
        """Returns the probability that the true age is `threshold_years` or more.

        No more certainty is claimed than was measured: beyond the outermost levels of the tables
        (2.5 % and 97.5 %, or as they say) it is that level, and the probability is at most or at
        least that; `probability_bounds` tells. At 0 years and less it is 1, above
        `OLDEST_VERIFIED_YEARS` it is 0.

        Raises:
            NotCalibratedError: there are no tables for the experts that answered.
            ValueError: the threshold is no finite number.
        """
        low, high = self.probability_bounds(threshold_years)
        return high if low == 0.0 else low

    def probability_bounds(self, threshold_years: float) -> tuple[float, float]:
        """Returns bounds of the probability that the true age is `threshold_years` or more.

        Returns:
            Lower and upper bound. They are equal where the tables state the probability. Where the
            threshold is so far from the estimate that they do not, the lower one is 0 or the upper
            one is 1.

        Raises:
            NotCalibratedError: there are no tables for the experts that answered.
            ValueError: the threshold is no finite number.
        """
        residuals = self._calibrated("A probability")
        if not math.isfinite(threshold_years):
            raise ValueError(f"threshold_years must be a finite number, got {threshold_years}.")
        if threshold_years <= 0.0:
            return 1.0, 1.0
        if threshold_years > OLDEST_VERIFIED_YEARS:
            return 0.0, 0.0
        low, high = residuals.level_bounds(threshold_years - self.age_years)
        return 1.0 - high, 1.0 - low

    def to_dict(self, *, gender: bool = False) -> dict[str, Any]:
        """Returns numbers, strings and dicts, ready for JSON.

        Args:
            gender: include the perceived gender, if an expert predicts one.
        """
        return {
            "age_years": self.age_years,
            "low_years": self.low_years,
            "high_years": self.high_years,
            "interval_level": None if self.residuals is None else INTERVAL_LEVEL,
            "experts": {
                name: _expert_dict(expert, gender=gender) for name, expert in self.experts.items()
            },
            "missing": dict(self.missing),
            "notes": list(self.notes),
            "quality": None if self.quality is None else self.quality.to_dict(),
        }

    def _calibrated(self, wanted: str) -> ResidualQuantiles:
        if self.residuals is None:
            answered = ", ".join(self.experts)
            raise NotCalibratedError(
                f"{wanted} needs residual quantiles for the experts that answered ({answered}); "
                f"fusion.json holds none. Fit them: {command_line('calibrate --help')}."
            )
        return self.residuals

    def _clipped(self, years: float) -> float:
        return min(max(years, self.age_range[0]), self.age_range[1])


def result_text(result: AgeEstimate | AgeMoEError) -> str:
    """Returns an estimate, or the error instead of it, in one line."""
    if isinstance(result, AgeEstimate):
        return str(result)
    return f"{type(result).__name__}: {printable(result, MOST_LINE)}"


def result_dict(result: AgeEstimate | AgeMoEError, *, gender: bool = False) -> dict[str, Any]:
    """Returns an estimate, or the error instead of it under the key `error`, ready for JSON."""
    if isinstance(result, AgeEstimate):
        return result.to_dict(gender=gender)
    return {"error": str(result)}


def _expert_dict(expert: ExpertAge, *, gender: bool) -> dict[str, Any]:
    values: dict[str, Any] = {
        "age_years": expert.age_years,
        "corrected_years": expert.corrected_years,
        "weight": expert.weight,
    }
    if expert.answer_mass is not None:
        values["answer_mass"] = expert.answer_mass
    if gender and expert.gender_probs is not None:
        values["gender_probs"] = list(expert.gender_probs)
    return values


def _interpolate(x: float, xs: tuple[float, ...], ys: tuple[float, ...]) -> float:
    """Piecewise linear through (xs, ys), flat outside; xs never decrease."""
    if x <= xs[0]:
        return ys[0]
    if x >= xs[-1]:
        return ys[-1]
    right = bisect_left(xs, x)
    left = right - 1
    return ys[left] + (ys[right] - ys[left]) * (x - xs[left]) / (xs[right] - xs[left])
