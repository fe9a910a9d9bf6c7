"""What an `AgeMoE` has done so far, and where the time went."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate

from runtime.backends import Times

STAGES = ("decode", "geometry", "stack", "experts", "fuse")
"""Of `AgeMoE.predict`, in this order; `experts` is all of them together."""
BUCKETS_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Durations that `Durations.at_most` counts up to."""
_RECENT = 1024


@dataclass(frozen=True, slots=True)
class Durations:
    """How long something took, each time it was done."""

    count: int
    """How often, ever."""
    total_seconds: float
    """Altogether, ever."""
    p50_seconds: float
    """Of the latest 1,024; 0 where there are none."""
    p90_seconds: float
    p99_seconds: float
    max_seconds: float
    at_most: tuple[int, ...]
    """How often, ever, it took at most each of `BUCKETS_SECONDS`."""


@dataclass(frozen=True, slots=True)
class ExpertStats:
    """What one expert has done."""

    answers: int
    """Faces it answered for."""
    late: int
    """Faces it did not answer for in time."""
    failed: int
    """Faces it failed on."""
    queue: Durations
    """By batch: between being enqueued and being started."""
    copy: Durations
    """By batch: to the device and back."""
    execute: Durations
    """By batch."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What an `AgeMoE` has done since it was opened."""

    estimates: int
    """Faces that got an age."""
    degraded: int
    """Of these, faces for which an expert was missing."""
    refused: int
    """Faces that got an error."""
    stages: Mapping[str, Durations]
    """By stage of `predict`, see `STAGES`."""
    experts: Mapping[str, ExpertStats]


class Statistics:
    """Collects what happens, from many threads."""

    def __init__(self, experts: Iterable[str]) -> None:
        """Takes the experts' names."""
        self._names = tuple(experts)
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forgets what happened so far."""
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
        """An expert has answered for a batch."""
        with self._lock:
            record = self._experts[expert]
            record.answers += faces
            record.queue.add(times.queue)
            record.copy.add(times.copy)
            record.execute.add(times.execute)

    def missed(self, expert: str, faces: int, *, late: bool) -> None:
        """An expert was late for a batch, or failed on it."""
        with self._lock:
            record = self._experts[expert]
            if late:
                record.late += faces
            else:
                record.failed += faces

    def predicted(self, *, estimates: int, degraded: int, refused: int) -> None:
        """Faces were answered for."""
        with self._lock:
            self._estimates += estimates
            self._degraded += degraded
            self._refused += refused

    def snapshot(self) -> Stats:
        """Everything so far."""
        with self._lock:
            return Stats(
                self._estimates,
                self._degraded,
                self._refused,
                {stage: durations.summary() for stage, durations in self._stages.items()},
                {name: record.stats() for name, record in self._experts.items()},
            )


class _Stopwatch:
    """The sum of all durations, and the latest one by one."""

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
        return ExpertStats(
            self.answers,
            self.late,
            self.failed,
            self.queue.summary(),
            self.copy.summary(),
            self.execute.summary(),
        )
