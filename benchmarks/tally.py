"""What came of many requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from benchmarks.measuring import distribution
from runtime import AgeEstimate, AgeMoEError, DeadlineError

OUTCOMES = ("right", "degraded", "late", "wrong", "failed")
"""As a serial run; right, but experts were late; no expert in time; another age; an error."""
_BACKLOG_SHARE = 0.05
_BACKLOG_LEAST = 4


@dataclass(slots=True)
class Tally:
    """What came of the requests of one run, or of several."""

    seconds: float
    """From the first request to the end of requests, or to the last answer if that was later."""
    latencies: list[float] = field(default_factory=list)
    """Seconds of every answer."""
    right: int = 0
    degraded: int = 0
    late: int = 0
    wrong: int = 0
    failed: int = 0
    backlog: int = 0
    """Requests without an answer when the last was made, of the fullest run."""
    abandoned: int = 0
    """Requests that were given up long after."""

    @property
    def answers(self) -> int:
        """Requests that got an age."""
        return self.right + self.degraded + self.wrong

    @property
    def requests(self) -> int:
        """All of them."""
        return self.answers + self.late + self.failed + self.abandoned

    @property
    def answers_per_second(self) -> float:
        """Throughput."""
        return self.answers / self.seconds

    @property
    def kept_up(self) -> bool:
        """Whether requests were answered as fast as they came: none pile up, none is too late."""
        most = max(_BACKLOG_LEAST, _BACKLOG_SHARE * self.requests)
        return self.backlog <= most and self.late + self.abandoned <= _BACKLOG_SHARE * self.requests

    def count(self, outcome: str, latency: float) -> None:
        """A request has come to its end."""
        setattr(self, outcome, getattr(self, outcome) + 1)
        if outcome in ("right", "degraded", "wrong"):
            self.latencies.append(latency)

    def __add__(self, other: Tally) -> Tally:
        """Both together."""
        added = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return Tally(**{**added, "backlog": max(self.backlog, other.backlog)})

    def as_json(self) -> dict[str, object]:
        """Plain values; the latency is None where nothing was answered."""
        counts = {name: getattr(self, name) for name in (*OUTCOMES, "backlog", "abandoned")}
        return {
            "seconds": self.seconds,
            "requests": self.requests,
            "answers_per_second": self.answers_per_second,
            "kept_up": self.kept_up,
            **counts,
            "latency": distribution(self.latencies).as_json() if self.latencies else None,
        }


def outcome_of(
    result: AgeEstimate | BaseException, serial: AgeEstimate, tolerance_years: float
) -> str:
    """One of `OUTCOMES`.

    Args:
        result: an estimate, or what was raised instead.
        serial: what the same face got when nothing else was under way.
        tolerance_years: by which they may differ.
    """
    if isinstance(result, DeadlineError):
        return "late"
    if isinstance(result, AgeMoEError) or not isinstance(result, AgeEstimate):
        return "failed"
    if not _alike(result, serial, tolerance_years):
        return "wrong"
    return "degraded" if result.missing else "right"


def _alike(result: AgeEstimate, serial: AgeEstimate, tolerance_years: float) -> bool:
    """Whether every expert that spoke said the same, and the fused age too where all did."""
    pairs = [(e.age_years, serial.experts[n].age_years) for n, e in result.experts.items()]
    if not result.missing:
        pairs.append((result.age_years, serial.age_years))
    return largest_difference(pairs) <= tolerance_years


def largest_difference(pairs: Sequence[tuple[float, float]]) -> float:
    """Of the two numbers of each pair."""
    return float(np.abs(np.subtract(*np.array(pairs).T)).max())
