"""Decisions: from an estimated age to pass, refer or fail, by a `Policy`.

A person passes whose estimated age reaches the *challenge age*, which lies above the *threshold*,
the age that is required (as in the challenge-T policies of NIST IR 8525, FATE AEV). Everyone else
is referred to another proof of age. The distance of the two is the buffer for the errors of the
estimate: a *false positive* is a person younger than the threshold who passes. Optionally a person
estimated younger than the *floor* fails without a referral.

    policy = read_policy("engines")
    decisions = [policy.decide(face.result) for face in moe.predict_photo("photo.jpg")]

Every doubt refers: no face, a missing expert, no calibration, a wide interval, a poor picture.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, NamedTuple

from runtime.errors import AgeMoEError, LivenessError, ManyFacesError, QualityError
from runtime.person import PersonEstimate
from runtime.policy_terms import Terms
from runtime.printing import Readable
from runtime.quality import FaceQuality, QualityLimits
from runtime.results import INTERVAL_LEVEL, AgeEstimate

Outcome = Literal["pass", "refer", "fail"]
_ID_DIGITS = 16


class Reason(NamedTuple):
    """Why a decision was made."""

    code: str
    """Stable, for programs: `challenge_met`, `below_challenge`, …"""
    sentence: str
    """For people."""


@dataclass(frozen=True, slots=True, repr=False)
class Decision(Readable):
    """The outcome for one person."""

    outcome: Outcome
    """`pass`: old enough; `refer`: ask for another proof of age; `fail`: too young."""
    reasons: tuple[Reason, ...]
    """At least one; the first is the weightiest."""
    policy: str
    """Id of the policy."""
    threshold: float
    """The required age in years."""
    challenge: float
    """The challenge age in years."""
    age_years: float | None = None
    """The estimated age; None without an estimate."""
    interval: tuple[float, float] | None = None
    """Ends of the 90 % interval in years; None without calibration."""
    probability: float | None = None
    """Calibrated probability of being at least `threshold` years old, as
    `AgeEstimate.probability_at_least`; None without calibration."""
    probability_bounds: tuple[float, float] | None = None
    """As `AgeEstimate.probability_bounds`; None without calibration."""

    def to_dict(self) -> dict[str, Any]:
        """Returns numbers, strings and dicts, ready for JSON."""
        values = asdict(self)
        values["reasons"] = [reason._asdict() for reason in self.reasons]
        for name in ("interval", "probability_bounds"):
            values[name] = None if values[name] is None else list(values[name])
        return values

    def __str__(self) -> str:
        """Returns the outcome and its reasons in one line."""
        sentences = " ".join(reason.sentence for reason in self.reasons)
        return f"{self.outcome}: {' '.join(sentences.split())} (policy {self.policy})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy(Terms):
    """Rules that turn an estimate into a decision: plain data, equal content has an equal `id`."""

    id: str = field(init=False, compare=False)
    """The first 16 hex digits of the SHA-256 of the content."""

    def __post_init__(self) -> None:
        """Validates the content and computes the id.

        Raises:
            ValueError: a value is out of range; every problem is named.
        """
        if found := [f"{path} {problem}" for path, problem in self.problems()]:
            raise ValueError(f"A policy cannot be used: {'; '.join(found)}.")
        text = json.dumps(self.to_dict(), allow_nan=False)
        content = json.loads(text, parse_int=float)  # 18 and 18.0 are the same content
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        object.__setattr__(self, "id", hashlib.sha256(text.encode()).hexdigest()[:_ID_DIGITS])

    def to_dict(self) -> dict[str, Any]:
        """Returns the content without the id, ready for JSON."""
        return asdict(Terms(**{f.name: getattr(self, f.name) for f in fields(Terms)}))

    def decide(self, result: AgeEstimate | PersonEstimate | AgeMoEError) -> Decision:
        """Decides on one person.

        Args:
            result: an estimate, from one picture or several, or the error in its place, which
                refers.

        Returns:
            The decision; pass only for a finite age of at least the challenge age without doubts.
        """
        if isinstance(result, AgeMoEError):
            return self._decision("refer", _reasons_of_error(result))
        if not math.isfinite(result.age_years):
            sentence = f"The estimated age is {result.age_years}, no number."
            return self._decision("refer", [Reason("no_estimate", sentence)])
        doubts = list(dict.fromkeys(self._doubts(result)))
        outcome, reason = self._by_age(result.age_years)
        calibrated = result.residuals is not None
        low, high = result.low_years, result.high_years
        return self._decision(
            "refer" if doubts else outcome,
            [*doubts, reason],
            age_years=result.age_years,
            interval=None if low is None or high is None else (low, high),
            probability=result.probability_at_least(self.threshold) if calibrated else None,
            probability_bounds=result.probability_bounds(self.threshold) if calibrated else None,
        )

    def _decision(self, outcome: Outcome, reasons: list[Reason], **of_estimate: Any) -> Decision:  # noqa: ANN401
        return Decision(
            outcome, tuple(reasons), self.id, self.threshold, self.challenge, **of_estimate
        )

    def _by_age(self, age: float) -> tuple[Outcome, Reason]:
        if age >= self.challenge:
            years = _apart(age, self.challenge)
            sentence = f"{years} years reach the challenge age of {self.challenge:g}."
            return "pass", Reason("challenge_met", sentence)
        if self.floor is not None and age < self.floor:
            years = _apart(age, self.floor)
            sentence = f"{years} years are below the floor of {self.floor:g}."
            return "fail", Reason("below_floor", sentence)
        years = _apart(age, self.challenge)
        sentence = f"{years} years are below the challenge age of {self.challenge:g}."
        return "refer", Reason("below_challenge", sentence)

    def _doubts(self, result: AgeEstimate | PersonEstimate) -> Iterator[Reason]:
        """Yields why a result may not decide."""
        if isinstance(result, PersonEstimate):
            if result.disagreement is not None:
                yield Reason("disagreement", result.disagreement)
            else:
                yield from _apart_doubts(result.used)
            yield from reasons_by_picture([_vetoes(frame.result) for frame in result.frames])
            yield from self._doubts_of(result.estimate)
        else:
            yield from self._doubts_of(result)
        if self.quality is not None:  # every picture that counts has to meet the limits
            for picture in result.used if isinstance(result, PersonEstimate) else (result,):
                yield from _quality_doubts(self.quality, picture.quality)

    def _doubts_of(self, estimate: AgeEstimate) -> Iterator[Reason]:
        asked = {*estimate.experts, *estimate.missing}
        if self.binding is not None and asked != set(self.binding.experts):
            known = ", ".join(self.binding.experts)
            sentence = (
                f"It is an estimate of {', '.join(sorted(asked))}; the policy is for {known}."
            )
            yield Reason("other_experts", sentence)
        needed = len(asked) if self.min_experts is None else self.min_experts
        if len(estimate.experts) < needed:
            sentence = f"{len(estimate.experts)} experts answered, {needed} are required."
            yield Reason("missing_experts", sentence)
        if estimate.residuals is None:
            if not self.uncalibrated or self.max_width is not None:
                yield Reason("uncalibrated", "The estimate is not calibrated: it has no interval.")
        elif self.max_width is not None:
            low, high = estimate.interval(INTERVAL_LEVEL)
            if not high - low <= self.max_width:
                sentence = (
                    f"The 90 % interval is {high - low:.1f} years wide, over {self.max_width:g}."
                )
                yield Reason("wide_interval", sentence)
        if estimate.notes and not self.noted:
            yield Reason("noted", f"The estimate has notes: {'; '.join(estimate.notes)}.")


def reasons_by_picture(found: Sequence[Iterable[Reason]]) -> Iterator[Reason]:
    """Yields the reasons of several pictures, each once; one not of all names its pictures.

    Args:
        found: the reasons of each picture.
    """
    pictures: dict[Reason, list[int]] = {}
    for number, reasons in enumerate(found, 1):
        for reason in reasons:
            pictures.setdefault(reason, []).append(number)
    for (code, sentence), numbers in pictures.items():
        name = f"Picture{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}: "
        yield Reason(code, sentence if len(numbers) == len(found) else name + sentence)


def _vetoes(result: AgeEstimate | AgeMoEError) -> list[Reason]:
    """Returns why one picture refers a person, whatever the others show."""
    if isinstance(result, LivenessError | ManyFacesError):
        return _reasons_of_error(result)
    return []


def _apart(age: float, limit: float) -> str:
    """Formats an age with as many digits as tell on which side of a limit it lies."""
    texts = (f"{age:.{digits}f}" for digits in (1, 2, 4))
    return next((t for t in texts if (float(t) >= limit) == (age >= limit)), repr(age))


def _apart_doubts(pictures: Sequence[AgeEstimate]) -> Iterator[Reason]:
    """Yields a doubt if the intervals of two pictures do not meet: these are hardly one person."""
    calibrated = [picture for picture in pictures if picture.residuals is not None]
    if calibrated:
        oldest = max(calibrated, key=lambda picture: picture.interval(INTERVAL_LEVEL)[0])
        youngest = min(calibrated, key=lambda picture: picture.interval(INTERVAL_LEVEL)[1])
        if oldest.interval(INTERVAL_LEVEL)[0] > youngest.interval(INTERVAL_LEVEL)[1]:
            ages = f"{youngest.age_years:.1f} and {oldest.age_years:.1f} years"
            sentence = f"Pictures of {ages} disagree: their 90 % intervals do not meet."
            yield Reason("disagreement", sentence)


def _quality_doubts(limits: QualityLimits, quality: FaceQuality | None) -> Iterator[Reason]:
    if quality is None:
        yield Reason("quality_unknown", "The quality of the picture was not measured.")
        return
    for problem in limits.problems(quality):
        yield Reason("quality", problem)


def _reasons_of_error(error: AgeMoEError) -> list[Reason]:
    """Returns the reasons of a refusal for quality one by one, and other errors as they are."""
    if isinstance(error, QualityError):
        return [Reason("quality", reason) for reason in error.reasons]
    if isinstance(error, ManyFacesError):
        return [Reason("several_faces", str(error))]
    code = "not_live" if isinstance(error, LivenessError) else "no_estimate"
    return [Reason(code, str(error))]
