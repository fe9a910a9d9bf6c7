"""Counts and durations of an `AgeMoE`."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any

from runtime.backends import Times
from runtime.errors import AgeMoEError
from runtime.printing import Readable, counted
from runtime.results import AgeEstimate

STAGES = ("decode", "geometry", "stack", "experts", "fuse")
"""Stages of `AgeMoE.predict`, in order; `experts` covers all experts together."""
BUCKETS_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Upper bounds of the buckets of `Durations.at_most`."""
_RECENT = 1024


@dataclass(frozen=True, slots=True, repr=False)
class Durations(Readable):
    """Durations of a repeated operation."""

    count: int
    """Number of repetitions."""
    total_seconds: float
    """Sum of all durations."""
    p50_seconds: float
    """Median of the latest 1,024; this and the next three are 0 if there are none."""
    p90_seconds: float
    """90 % quantile of the latest 1,024."""
    p99_seconds: float
    """99 % quantile of the latest 1,024."""
    max_seconds: float
    """Longest of the latest 1,024."""
    at_most: tuple[int, ...]
    """Number of repetitions that took at most each of `BUCKETS_SECONDS`."""

    def __str__(self) -> str:
        """Returns number and median in one line."""
        median = f", median {self.p50_seconds * 1000.0:.3g} ms" if self.count else ""
        return f"{counted(self.count, 'time')}{median}"

    def to_dict(self) -> dict[str, Any]:
        """Returns numbers by name, and the list `at_most`, ready for JSON."""
        return {**asdict(self), "at_most": list(self.at_most)}


@dataclass(frozen=True, slots=True)
class ExpertStats:
    """Counts and durations of one expert."""

    answers: int
    """Faces with an answer."""
    late: int
    """Faces whose answer was late."""
    failed: int
    """Faces on which it failed."""
    queue: Durations
    """Per batch: from being enqueued to being started."""
    copy: Durations
    """Per batch: copies to the device and back."""
    execute: Durations
    """Per batch."""

    def to_dict(self) -> dict[str, Any]:
        """Returns numbers, lists and dicts, ready for JSON."""
        return {
            "answers": self.answers,
            "late": self.late,
            "failed": self.failed,
            "queue": self.queue.to_dict(),
            "copy": self.copy.to_dict(),
            "execute": self.execute.to_dict(),
        }


@dataclass(frozen=True, slots=True, repr=False)
class Stats(Readable):
    """Counts and durations since an `AgeMoE` was opened."""

    estimates: int
    """Faces with an age."""
    degraded: int
    """Faces with an age for which an expert was missing."""
    refused: int
    """Faces with an error."""
    stages: Mapping[str, Durations]
    """By stage of `predict`, see `STAGES`."""
    experts: Mapping[str, ExpertStats]
    """By expert."""

    def __str__(self) -> str:
        """Returns the counts, and the median time of the experts, in one line."""
        degraded = f" ({self.degraded:,} without all experts)" if self.degraded else ""
        text = f"{counted(self.estimates, 'estimate')}{degraded}, {counted(self.refused, 'error')}"
        batches = self.stages["experts"]
        if not batches.count:
            return text
        median = f"{batches.p50_seconds * 1000.0:.3g} ms"
        return f"{text}; experts: median {median} per batch"

    def to_dict(self) -> dict[str, Any]:
        """Returns numbers, lists and dicts, ready for JSON; durations in seconds."""
        return {
            "estimates": self.estimates,
            "degraded": self.degraded,
            "refused": self.refused,
            "stages": {name: spent.to_dict() for name, spent in self.stages.items()},
            "experts": {name: expert.to_dict() for name, expert in self.experts.items()},
        }


class Statistics:
    """Collects counts and durations; safe to use from many threads."""

    def __init__(self, experts: Iterable[str]) -> None:
        """Starts at zero, for experts of these names."""
        self._names = tuple(experts)
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Resets everything to zero."""
        with self._lock:
            self._estimates = self._degraded = self._refused = 0
            self._stages = {stage: _Stopwatch() for stage in STAGES}
            self._experts = {name: _ExpertRecord() for name in self._names}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Times a stage of a prediction."""
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            with self._lock:
                self._stages[stage].add(seconds)

    def answered(self, expert: str, faces: int, times: Times) -> None:
        """Counts the answer of an expert for a batch."""
        with self._lock:
            record = self._experts[expert]
            record.answers += faces
            record.queue.add(times.queue)
            record.copy.add(times.copy)
            record.execute.add(times.execute)

    def missed(self, expert: str, faces: int, *, late: bool) -> None:
        """Counts a batch for which an expert was late, or on which it failed."""
        with self._lock:
            record = self._experts[expert]
            record.late += faces if late else 0
            record.failed += 0 if late else faces

    def predicted(self, results: Sequence[AgeEstimate | AgeMoEError]) -> None:
        """Counts the results of a prediction."""
        estimates = [result for result in results if isinstance(result, AgeEstimate)]
        with self._lock:
            self._estimates += len(estimates)
            self._degraded += sum(bool(estimate.missing) for estimate in estimates)
            self._refused += len(results) - len(estimates)

    def refused(self, faces: int) -> None:
        """Counts the faces of a prediction that failed as a whole."""
        with self._lock:
            self._refused += faces

    def snapshot(self) -> Stats:
        """Returns the counts and durations so far."""
        with self._lock:
            return Stats(
                self._estimates,
                self._degraded,
                self._refused,
                {stage: durations.summary() for stage, durations in self._stages.items()},
                {name: record.stats() for name, record in self._experts.items()},
            )


class _Stopwatch:
    """The sum of all durations, and the latest ones individually."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.recent: deque[float] = deque(maxlen=_RECENT)
        self.buckets = [0] * (len(BUCKETS_SECONDS) + 1)

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total += seconds
        self.recent.append(seconds)
        self.buckets[bisect_left(BUCKETS_SECONDS, seconds)] += 1

    def summary(self) -> Durations:
        ranked = sorted(self.recent) or [0.0]
        p50, p90, p99 = (
            ranked[min(int(share * len(ranked)), len(ranked) - 1)] for share in (0.5, 0.9, 0.99)
        )
        at_most = tuple(accumulate(self.buckets[:-1]))
        return Durations(self.count, self.total, p50, p90, p99, ranked[-1], at_most)


@dataclass(slots=True)
class _ExpertRecord:
    answers: int = 0
    late: int = 0
    failed: int = 0
    queue: _Stopwatch = field(default_factory=_Stopwatch)
    copy: _Stopwatch = field(default_factory=_Stopwatch)
    execute: _Stopwatch = field(default_factory=_Stopwatch)

    def stats(self) -> ExpertStats:
        durations = (watch.summary() for watch in (self.queue, self.copy, self.execute))
        return ExpertStats(self.answers, self.late, self.failed, *durations)
