"""The content of a policy: its rules, what it is bound to, and the measurement behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from runtime.errors import PolicyError
from runtime.json_reader import SHA256, not_empty, within
from runtime.program import build_command
from runtime.quality import QualityLimits

if TYPE_CHECKING:
    from runtime.fusion import FusionTables
    from runtime.manifest import Expert

OLDEST_YEARS = 120.0
"""Upper limit of thresholds and challenge ages."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What a policy was fitted for; it is refused for anything else."""

    experts: Annotated[Mapping[str, SHA256], not_empty]
    """Fingerprint of each expert, by its name, as `Expert.fingerprint`; the SHA-256 of its
    checkpoint in folders without fingerprints."""
    fusion_sha256: SHA256 | None = None
    """SHA-256 of the file of the fusion tables; None: the experts are averaged."""
    detector: str | None = None
    """Provenance of the detector that found the labeled faces; None where it is not known."""

    @classmethod
    def of(cls, experts: Mapping[str, Expert], tables: FusionTables | None) -> Binding:
        """Returns the binding of experts and fusion tables, without a detector.

        Raises:
            PolicyError: nothing identifies an expert.
        """
        found = {
            name: expert.fingerprint or expert.source.sha256 for name, expert in experts.items()
        }
        if absent := [name for name, sha256 in found.items() if sha256 is None]:
            problem = f"the manifest states no fingerprint of {', '.join(absent)}"
            raise PolicyError("manifest.json", [problem], f"Rebuild: {build_command()}")
        known = {name: sha256 for name, sha256 in found.items() if sha256 is not None}
        return cls(known, None if tables is None else tables.sha256)

    def differences(self, other: Binding) -> Iterator[tuple[str, str]]:
        """Yields the path and text of each difference to another binding, except detectors."""
        for name in sorted({*self.experts, *other.experts}):
            here, there = self.experts.get(name), other.experts.get(name)
            if here != there:
                yield f"binding.experts.{name}", _difference(here, there)
        if self.fusion_sha256 != other.fusion_sha256:
            yield "binding.fusion_sha256", "the policy was fitted with other fusion tables"


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something happened in a group of labeled people, with its interval."""

    group: str
    """`all`, `sex=female`, or a band of ages, `18-20`."""
    people: int
    events: int
    low: Annotated[float, within(0.0, 1.0)]
    """Lower end of the two-sided 95 % Clopper–Pearson interval."""
    high: Annotated[float, within(0.0, 1.0)]

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the path and text of each inconsistency."""
        if not 0 <= self.events <= self.people:
            yield "events", f"must be within 0..{self.people}, the number of people"


@dataclass(frozen=True, slots=True)
class Evidence:
    """The measurement behind a policy."""

    data: str
    """Name of the labeled data."""
    threshold: float
    """The required age in years for which it was measured."""
    challenge: float
    """The challenge age in years at which it was measured; a claim holds for higher ones, too."""
    claimed: bool
    """Whether the data shows that the rate of false positives stays under `max_false_positive`."""
    bound: Annotated[float, within(0.0, 1.0)]
    """Upper confidence bound on the rate of false positives: the largest of all groups that the
    claim covers."""
    worst: str
    """The group of that bound."""
    younger: tuple[Rate, ...]
    """People younger than the threshold who pass: all, then by group and age."""
    older: tuple[Rate, ...]
    """People of at least the threshold who do not pass: all, then by group and age."""
    youngest: float = 0.0
    """Younger people below this age did not count."""
    failed: Rate | None = None
    """People of at least the threshold who fail; None without a floor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The content of a policy, before it is validated."""

    threshold: float = 18.0
    """Age in years that is required."""
    challenge: float = 25.0
    """Estimated age in years from which a person passes."""
    floor: float | None = None
    """Estimated age in years below which a person fails; None: everyone is referred instead."""
    max_false_positive: float | None = None
    """The rate of false positives that the challenge age was chosen for; None: it was not."""
    confidence: float | None = None
    """Confidence of the claim that the rate stays under `max_false_positive`."""
    min_experts: int | None = None
    """So many experts must have answered; None: all."""
    max_width: float | None = None
    """Largest width in years of the 90 % interval; None: any."""
    uncalibrated: bool = False
    """Whether an estimate without interval may pass or fail."""
    noted: bool = False
    """Whether an estimate with notes, as of replaced landmarks, may pass or fail."""
    quality: QualityLimits | None = None
    """Limits on the picture's quality; None: any."""
    binding: Binding | None = None
    """What the policy was fitted for; None for one that is not from a file."""
    evidence: Evidence | None = None
    """The measurement behind it; None if the challenge age was chosen without one."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the path and text of each inconsistency."""
        for name, low, high in self._ranges():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:  # NaN, too
                yield name, f"must be within {low:g}..{high:g}, got {value}"
        if (self.max_false_positive is None) != (self.confidence is None):
            yield "confidence", "must be given exactly if max_false_positive is"
        count = None if self.binding is None else len(self.binding.experts)
        if count is not None and (self.min_experts or 0) > count:
            yield "min_experts", f"must be at most {count}, the number of experts"
        if self.evidence is not None and self.evidence.claimed:
            if self.max_false_positive is None:
                yield "evidence.claimed", "needs max_false_positive"
            elif self.evidence.bound > self.max_false_positive:
                yield "evidence.bound", "is above max_false_positive, which is claimed"
            if self.evidence.threshold != self.threshold:
                yield "evidence.threshold", "is not the policy's, for which the rate is claimed"
            if self.challenge < self.evidence.challenge:
                yield "evidence.challenge", "is above the policy's, for which the rate is claimed"

    def _ranges(self) -> Iterator[tuple[str, float, float]]:
        threshold = self.threshold
        yield "threshold", 1.0, OLDEST_YEARS
        yield "challenge", max(threshold, 0.0), OLDEST_YEARS
        yield "floor", 0.0, threshold
        yield "max_false_positive", 1e-6, 0.5
        yield "confidence", 0.5, 0.999999
        yield "min_experts", 1, 1000
        yield "max_width", 0.1, 1000.0


def _difference(here: str | None, there: str | None) -> str:
    if here is None:
        return "the policy was fitted without this expert"
    if there is None:
        return "the policy was fitted with this expert, which is not in use"
    return "the policy was fitted for other weights, settings or another geometry"
