"""What waits for a prediction, which of it goes together, and what comes too late."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

from runtime.deadline import Deadline
from runtime.errors import DeadlineError
from runtime.results import AgeEstimate, Face

SHARED_BUDGET = 0.1
"""Largest fraction of its time that a request gives up to wait for others or to share a batch with
an earlier deadline."""
_SLOWER = 0.2
_HOPE = 0.9


class TooLateError(DeadlineError):
    """An answer would have come after the deadline, so none was computed."""

    def __init__(self, deadline: Deadline, run_seconds: float = 0.0) -> None:
        """Composes the message from the caller's deadline and the expected time of a run."""
        self.missing = {}
        passed_ms = deadline.budget_ms + (time.monotonic() - deadline.at_seconds) * 1000.0
        takes = f", an answer takes {run_seconds * 1000:.0f} ms" if run_seconds else ""
        RuntimeError.__init__(
            self,
            f"The deadline of {deadline.budget_ms:g} ms cannot be kept: {passed_ms:.0f} ms have "
            f"passed{takes}. Allow more time, or send less at a time.",
        )


@dataclass(slots=True, eq=False)
class Request:
    """One face that waits for its age."""

    face: Face
    arrived: float
    """In seconds on the monotonic clock, as all times here."""
    deadline: Deadline | None = None
    future: Future[AgeEstimate] = field(default_factory=Future)

    @property
    def due(self) -> float:
        """When an answer is of no use any more."""
        return math.inf if self.deadline is None else self.deadline.at_seconds

    @property
    def earliest_due(self) -> float:
        """The earliest deadline of another request that this one can share."""
        if self.deadline is None:
            return math.inf
        return self.due - self._shared_seconds

    def patient_until(self, longest_seconds: float) -> float:
        """When it has waited long enough for company."""
        return self.arrived + min(longest_seconds, self._shared_seconds)

    @property
    def _shared_seconds(self) -> float:
        return SHARED_BUDGET * (self.due - self.arrived)


class RunTimes:
    """How quickly batches were answered lately, by their size: what can be hoped for at best.

    A quicker run counts at once and a slower one by a fifth, so that a single slow run turns
    nobody away. Every refusal lowers the hope a little, so that sooner or later one is tried.
    """

    def __init__(self) -> None:
        """Starts without experience: everything is hoped to be done in no time."""
        self._seconds: dict[int, float] = {}

    def hoped(self, faces: int) -> float:
        """Seconds for a batch, from the largest known one that is not larger; else 0."""
        known = max((size for size in self._seconds if size <= faces), default=None)
        return 0.0 if known is None else self._seconds[known]

    def ran(self, faces: int, seconds: float) -> None:
        """A batch was answered."""
        before = self._seconds.get(faces, seconds)
        self._seconds[faces] = min(seconds, before + _SLOWER * (seconds - before))

    def refused(self) -> None:
        """A request was turned away because of what is known here."""
        self._seconds = {size: _HOPE * seconds for size, seconds in self._seconds.items()}


@dataclass(slots=True)
class Taken:
    """What leaves the queue together."""

    batch: list[Request] = field(default_factory=list)
    """To be computed, first come first."""
    late: list[Request] = field(default_factory=list)
    """Not to be computed any more."""
    left: list[Request] = field(default_factory=list)
    """What stays, in order."""


def take(waiting: Iterable[Request], now: float, largest: int, times: RunTimes) -> Taken:
    """Divides the queue into the next batch, what is too late and what stays.

    The oldest request that can still be answered leads the batch; others join it in their order
    where nobody loses more than `SHARED_BUDGET` of his time, and while the larger batch is hoped
    to be done in time. Requests with and without a deadline never meet. Cancelled ones vanish.
    """
    taken = Taken()
    due, earliest = math.inf, -math.inf
    for request in without_cancelled(waiting):
        joint_due, joint_earliest = min(due, request.due), max(earliest, request.earliest_due)
        size = len(taken.batch) + 1
        if request.due - now < times.hoped(1) or request.due <= now:
            _claim(request, taken.late)
        elif (
            size <= largest and joint_due >= joint_earliest and joint_due - now >= times.hoped(size)
        ):
            if _claim(request, taken.batch):
                due, earliest = joint_due, joint_earliest
        else:
            taken.left.append(request)
    return taken


def without_cancelled(waiting: Iterable[Request]) -> list[Request]:
    """Those that are still wanted; whoever waits for one of the others is told."""
    return [
        r for r in waiting if not r.future.cancelled() or r.future.set_running_or_notify_cancel()
    ]


def _claim(request: Request, group: list[Request]) -> bool:
    """Adds a request to a group unless it was cancelled this very moment."""
    claimed = request.future.set_running_or_notify_cancel()
    if claimed:
        group.append(request)
    return claimed
