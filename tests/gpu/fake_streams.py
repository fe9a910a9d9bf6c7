"""Streams of the simulated device: queues that run late and in any interleaving.

Enforces: work is ordered only by its own stream and by the events that the stream waits for. Two
pieces of work of different streams that access the same memory, one of them writing, race unless
ordered by events or the first is done. Pinned memory must not change between enqueuing and running
an upload; the target of a download holds 0xFF until it has run.

Vector clocks track the order: every piece of work holds, by stream, the number of pieces of that
stream that must be done before it can run.
"""

from __future__ import annotations

import random
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Span = tuple[int, int]
"""Addresses, the first and the one after the last."""


class CudaFailure(Exception):  # noqa: N818 - not an error of the tests
    """The error code that a CUDA function returns."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class RuleBrokenError(AssertionError):
    """A violation of CUDA's or TensorRT's rules, even one that hardware might not notice."""


@dataclass(eq=False, slots=True)
class Work:
    """One piece of work of a stream."""

    label: str
    run: Callable[[], None] = lambda: None
    reads: tuple[Span, ...] = ()
    writes: tuple[Span, ...] = ()
    after: Work | None = None
    """Work of another stream that must be done first."""
    source: NDArray[np.uint8] | None = None
    """Pinned memory to read."""
    target: NDArray[np.uint8] | None = None
    """Pinned memory to write."""
    parts: tuple[Work, ...] = ()
    """Work of a graph."""
    done: bool = False
    clock: dict[int, int] = field(default_factory=dict)
    _seal: int | None = None

    def commit(self) -> None:
        """Poisons the target and stores a checksum of the source."""
        for part in self.parts:
            part.commit()
        if self.target is not None:
            self.target[:] = 0xFF
        if self.source is not None:
            self._seal = zlib.crc32(self.source.data)

    def perform(self) -> None:
        for part in self.parts:
            part.perform()
        if self.source is not None and zlib.crc32(self.source.data) != self._seal:
            raise RuleBrokenError(f"pinned memory changed before its {self.label} ran")
        self.run()

    def touches(self, spans: Iterable[Span]) -> bool:
        return _overlap((*self.reads, *self.writes), spans)

    def clashes(self, other: Work) -> bool:
        return _overlap(self.writes, (*other.reads, *other.writes)) or _overlap(
            self.reads, other.writes
        )


def graph_work(label: str, parts: Iterable[Work], token: Span) -> Work:
    """Returns a graph as one piece of work; `token` prevents concurrent runs of it."""
    parts = tuple(parts)
    return Work(
        label,
        reads=tuple(span for part in parts for span in part.reads),
        writes=(token, *(span for part in parts for span in part.writes)),
        parts=parts,
    )


def _overlap(these: Iterable[Span], those: Iterable[Span]) -> bool:
    those = tuple(those)
    return any(a < d and c < b for a, b in these for c, d in those)


@dataclass(eq=False, slots=True)
class Event:
    """An event, the work that records it, and its time."""

    handle: int
    mark: Work | None = None
    captured: bool = False
    timed: bool = True
    at_seconds: float | None = None


@dataclass(eq=False, slots=True)
class Capture:
    """A capture in progress."""

    thread: int
    work: list[Work] = field(default_factory=list)
    events: set[int] = field(default_factory=set)
    broken: bool = False


@dataclass(eq=False, slots=True)
class Stream:
    """A queue of work."""

    handle: int
    queue: deque[Work] = field(default_factory=deque)
    clock: dict[int, int] = field(default_factory=dict)
    capture: Capture | None = None


class Streams:
    """All queues, and the random choice of the next one to run."""

    def __init__(self, seed: int) -> None:
        self.by_handle: dict[int, Stream] = {}
        self.held: set[str] = set()
        """Work whose label contains one of these texts does not start."""
        self.before: Callable[[Work], None] = lambda _work: None
        """Called with each piece of work before it runs."""
        self.seconds = 0.0
        """The device's clock."""
        self._random = random.Random(seed)

    def pending(self) -> Iterator[Work]:
        return (work for stream in self.by_handle.values() for work in stream.queue)

    def enqueue(self, stream: Stream, work: Work) -> None:
        """Appends work; raises `RuleBrokenError` if it races with pending work."""
        if work.after is not None:
            for handle, count in work.after.clock.items():
                stream.clock[handle] = max(stream.clock.get(handle, 0), count)
        stream.clock[stream.handle] = stream.clock.get(stream.handle, 0) + 1
        work.clock = dict(stream.clock)
        for other in self.by_handle.values():
            for earlier in other.queue if other is not stream else ():
                ordered = work.clock.get(other.handle, 0) >= earlier.clock[other.handle]
                if not ordered and earlier.clashes(work):
                    raise RuleBrokenError(f"{work.label} races with {earlier.label}")
        work.commit()
        stream.queue.append(work)

    def advance(self) -> None:
        """Runs a random number of pieces of work, possibly none."""
        for _ in range(self._random.choice((0, 0, 1, 1, 2, 4))):
            self.step()

    def step(self) -> bool:
        """Runs one piece of work of a random stream; returns False if none can run."""
        ready = [stream for stream in self.by_handle.values() if self._ready(stream)]
        if not ready:
            return False
        stream = self._random.choice(ready)
        work = stream.queue[0]
        self.seconds += self._random.uniform(1e-6, 1e-5)
        try:
            self.before(work)
            work.perform()
        finally:
            work.done = True
            if stream.queue:
                stream.queue.popleft()
        return True

    def _ready(self, stream: Stream) -> bool:
        if not stream.queue:
            return False
        work = stream.queue[0]
        waits = work.after is not None and not work.after.done
        return not waits and not any(text in work.label for text in self.held)
