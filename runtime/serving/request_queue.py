"""The waiting faces, the selection of the next micro-batch, and the detection of late requests."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

from runtime.deadline import Deadline
from runtime.errors import DeadlineError
from runtime.results import AgeEstimate, Face

SHARED_FRACTION = 0.1
"""Largest fraction of its time that a request gives up to wait for others or to share a batch with
an earlier deadline."""
_SLOWER_WEIGHT = 0.2
_REJECTION_FACTOR = 0.9


class TooLateError(DeadlineError):
    """The estimate would have missed its deadline, so it was not computed."""

    def __init__(self, deadline: Deadline, run_seconds: float = 0.0) -> None:
        """Composes the message from the caller's deadline and the expected duration of a run."""
        self.missing = {}
        passed_ms = deadline.budget_ms + (time.monotonic() - deadline.at_seconds) * 1000.0
        takes = f", an estimate takes {run_seconds * 1000:.0f} ms" if run_seconds else ""
        RuntimeError.__init__(
            self,
            f"The deadline of {deadline.budget_ms:g} ms cannot be met: {passed_ms:.0f} ms have "
            f"passed{takes}. Allow more time, or send less at a time.",
        )


@dataclass(slots=True, eq=False)
class QueuedFace:
    """A face in the queue, with the future its caller holds."""

    face: Face
    arrived: float
    """In seconds on the monotonic clock, like all times in this module."""
    deadline: Deadline | None = None
    future: Future[AgeEstimate] = field(default_factory=Future)
    request_id: str | None = None
    """Of the request that it belongs to, for the log; None outside of requests."""

    @property
    def due(self) -> float:
        """Time of the deadline; infinity without one."""
        return math.inf if self.deadline is None else self.deadline.at_seconds

    @property
    def earliest_shared_due(self) -> float:
        """Earliest deadline of a batch that this face may join."""
        return math.inf if self.deadline is None else self.due - self._shared_seconds

    def dispatch_time(self, max_wait_seconds: float) -> float:
        """Returns the time until which this face may wait for a batch to fill."""
        return self.arrived + min(max_wait_seconds, self._shared_seconds)

    @property
    def _shared_seconds(self) -> float:
        return SHARED_FRACTION * (self.due - self.arrived)


class RunTimes:
    """Optimistic estimates of how long a batch of each size takes.

    A faster run replaces the estimate and a slower one moves it by a fifth, so that a single slow
    run does not cause rejections. Each rejection lowers the estimates, so that eventually a request
    is tried again.
    """

    def __init__(self) -> None:
        """Starts without measurements: every batch is expected to take no time."""
        self._seconds: dict[int, float] = {}

    def expected(self, faces: int) -> float:
        """Returns the seconds expected from the largest measured size up to `faces`, or 0."""
        known = max((size for size in self._seconds if size <= faces), default=None)
        return 0.0 if known is None else self._seconds[known]

    def record(self, faces: int, seconds: float) -> None:
        """Updates the estimate with the duration of a completed batch."""
        before = self._seconds.get(faces, seconds)
        self._seconds[faces] = min(seconds, before + _SLOWER_WEIGHT * (seconds - before))

    def record_rejection(self) -> None:
        """Lowers all estimates after one of them caused a rejection."""
        self._seconds = {
            size: _REJECTION_FACTOR * seconds for size, seconds in self._seconds.items()
        }


@dataclass(slots=True)
class Selection:
    """The queue, divided."""

    batch: list[QueuedFace] = field(default_factory=list)
    """The next batch, in order of arrival."""
    late: list[QueuedFace] = field(default_factory=list)
    """Faces that would miss their deadline."""
    remaining: list[QueuedFace] = field(default_factory=list)
    """Faces that stay in the queue, in order of arrival."""


def select_batch(
    waiting: Iterable[QueuedFace], now: float, max_batch: int, times: RunTimes
) -> Selection:
    """Divides the queue into the next batch, late faces and remaining faces.

    The oldest face that can still meet its deadline starts the batch. Others join in order of
    arrival if no face of the batch loses more than `SHARED_FRACTION` of its time and the larger
    batch is expected to finish in time. Faces with and without a deadline never share a batch.
    Cancelled faces are dropped.
    """
    selection = Selection()
    due, earliest_shared = math.inf, -math.inf
    for queued in drop_cancelled(waiting):
        joint_due = min(due, queued.due)
        joint_earliest = max(earliest_shared, queued.earliest_shared_due)
        size = len(selection.batch) + 1
        if queued.due - now < times.expected(1) or queued.due <= now:
            _claim(queued, selection.late)
        elif (
            size <= max_batch
            and joint_due >= joint_earliest
            and joint_due - now >= times.expected(size)
        ):
            if _claim(queued, selection.batch):
                due, earliest_shared = joint_due, joint_earliest
        else:
            selection.remaining.append(queued)
    return selection


def drop_cancelled(waiting: Iterable[QueuedFace]) -> list[QueuedFace]:
    """Returns the faces that were not cancelled; waiters on the other futures are notified."""
    return [
        q for q in waiting if not q.future.cancelled() or q.future.set_running_or_notify_cancel()
    ]


def _claim(queued: QueuedFace, group: list[QueuedFace]) -> bool:
    """Adds a face to a group unless it has been cancelled in the meantime."""
    claimed = queued.future.set_running_or_notify_cancel()
    if claimed:
        group.append(queued)
    return claimed
