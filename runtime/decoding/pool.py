"""`DecoderPool`: decodes pictures in processes that are killed when their time is over."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from runtime.active_calls import ActiveCalls
from runtime.cores import usable_cores
from runtime.deadline import Deadline
from runtime.decoding.budget import Budget, Hold
from runtime.decoding.job import Allowance, Job, memory_bytes
from runtime.decoding.limits import limits_processor_time, warn_of_missing_limits
from runtime.decoding.process import Decoder, DecoderEndedError, Task
from runtime.decoding.watchdog import Watch, Watchdog
from runtime.errors import BackendError, DeadlineError, ImageError, InputError
from runtime.image_costs import PictureCost
from runtime.images import ImageLimits, load_rgb, picture_cost, read_encoded

if TYPE_CHECKING:
    from runtime.geometry import Pixels
    from runtime.results import ImageSource

DECODE_SECONDS = 2.0
"""Of processor time for a picture. The largest that is accepted, a progressive JPEG of 50
megapixels, took 1.4 on a busy machine."""
MAX_DECODERS = 8
TIME, DEADLINE, CRASH = "time", "deadline", "crash"
"""Why a decoder was ended: its time was over, the caller's deadline passed, or it ended itself."""

_CLOCK_FACTOR = 5.0 if limits_processor_time() else 1.0
_CLOCK_SPARE_SECONDS = 5.0 if limits_processor_time() else 0.0
"""By the clock a picture may take so many times as long, and as much more: other work may share the
cores, and of an allowance little may be left."""
_START_SECONDS = 60.0
_STARTS = 3
"""Fresh processes that are tried for a picture: Linux kills some as memory runs out."""
_GRACE = 0.25
"""Seconds that a picture gets even if its deadline passes: to replace the process takes longer."""
_RESTART_SECONDS = 0.25
"""Of processor time that a fresh process takes to start, counted where a picture ended one."""


class DecoderPool:
    """Decodes pictures in processes of their own; warns where memory or time cannot be limited.

    A picture whose decoding takes too long, needs far more memory than its size explains, or
    crashes the decoder is refused; nothing else is affected. Pictures wait for a free process in
    the order of their arrival, except that those which take long leave one process to the others.

    Safe to use from many threads. It must be closed; its processes end with this one at the latest.
    """

    def __init__(
        self,
        processes: int | None = None,
        *,
        max_seconds: float = DECODE_SECONDS,
        budget_bytes: int | None = None,
    ) -> None:
        """Sets the pool up; processes start when first needed, or with `start`.

        Args:
            processes: that decode at the same time; None means one more than the cores, at most
                `MAX_DECODERS`.
            max_seconds: of processor time for a picture, and by the clock five times as long and
                5 s more; where processor time cannot be limited (Windows), by the clock.
            budget_bytes: memory that the pictures being decoded may take together, in this process
                and the decoders; None does not limit it.

        Raises:
            ValueError: an argument is not positive.
        """
        if processes is None:
            processes = min(usable_cores() + 1, MAX_DECODERS)
        if min(processes, max_seconds, 1 if budget_bytes is None else budget_bytes) <= 0:
            raise ValueError(
                f"Expected positive numbers, got {processes} processes, {max_seconds} s and a "
                f"budget of {budget_bytes} bytes."
            )
        warn_of_missing_limits()
        self.processes = processes
        self.max_seconds = max_seconds
        self._slots = Budget(processes)
        self._long_slots = Budget(max(processes - 1, 1))
        self._memory = None if budget_bytes is None else Budget(budget_bytes)
        self._idle: deque[Decoder] = deque()
        self._ended: Counter[str] = Counter()
        self._calls = ActiveCalls("DecoderPool")
        self._lock = threading.Lock()
        self._watchdog: Watchdog | None = None

    @property
    def ended(self) -> dict[str, int]:
        """Decoders that were ended, by reason: `time`, `deadline`, `crash`."""
        with self._lock:
            return {reason: self._ended[reason] for reason in (TIME, DEADLINE, CRASH)}

    def start(self) -> None:
        """Starts all processes and waits until they can decode.

        Raises:
            BackendError: they cannot.
        """
        call = object()
        starting: list[Decoder] = []
        try:
            self._calls.enter(call)
            # Holds those before one that cannot be started, too.
            starting.extend(Decoder() for _ in range(self.processes - len(self._idle)))
            for decoder in starting:
                self._wait_ready(decoder)
            while starting:
                self._idle.append(starting.pop())
        finally:
            for decoder in starting:
                decoder.end()
            self._calls.leave(call)

    def decode(
        self, source: ImageSource, limits: ImageLimits, deadline: Deadline | None = None
    ) -> Pixels:
        """Decodes a picture as `runtime.images.load_rgb` does.

        Arrays and PIL images, which are not encoded, are taken in this thread.

        Args:
            source: a path, encoded bytes, a binary file, a PIL image, or uint8 RGB (H, W, 3).
            limits: on its bytes and pixels.
            deadline: ends the waiting and, a quarter of a second after its start at the earliest,
                the decoding.

        Returns:
            uint8 RGB (H, W, 3).

        Raises:
            ImageError: the source is not a readable picture, or takes too long.
            ImageTooLargeError: a limit is exceeded.
            DeadlineError: the deadline passed.
            BackendError: no process can be started.
            ClosedError: after `close`, or in a forked process.
        """
        call = object()
        try:
            self._calls.enter(call)
            data = read_encoded(source, limits)
            if data is None:
                return load_rgb(source, limits)
            cost, allowance = picture_cost(data, limits), Allowance(self.max_seconds)
            return self._within_memory(Job(data, limits, cost, deadline, allowance))
        finally:
            self._calls.leave(call)

    def decode_costed(
        self,
        data: bytes,
        limits: ImageLimits,
        cost: PictureCost,
        deadline: Deadline | None = None,
        allowance: Allowance | None = None,
    ) -> Pixels:
        """Decodes an encoded picture whose cost is known; otherwise as `decode`.

        Args:
            data: the encoded picture.
            limits: on its bytes and pixels.
            cost: of it, from `picture_cost`.
            deadline: as in `decode`.
            allowance: that this picture and others may use together, in place of `max_seconds`.
        """
        call = object()
        try:
            self._calls.enter(call)
            allowance = allowance or Allowance(self.max_seconds)
            return self._within_memory(Job(data, limits, cost, deadline, allowance))
        finally:
            self._calls.leave(call)

    def close(self) -> None:
        """Waits for the calls in progress and ends all processes."""
        if self._calls.close():
            while self._idle:
                self._idle.pop().end()
            if self._watchdog is not None:
                self._watchdog.close()

    def __enter__(self) -> Self:
        """Returns this pool."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes this pool."""
        self.close()

    def _within_memory(self, job: Job) -> Pixels:
        if self._memory is None:
            return self._in_lane(job)
        return self._holding(self._memory, memory_bytes(job.cost), self._in_lane, job)

    def _in_lane(self, job: Job) -> Pixels:
        if not job.takes_long:
            return self._in_slot(job)
        return self._holding(self._long_slots, 1, self._in_slot, job)

    def _in_slot(self, job: Job) -> Pixels:
        return self._holding(self._slots, 1, self._exchange, job)

    @staticmethod
    def _holding(budget: Budget, amount: int, then: Callable[[Job], Pixels], job: Job) -> Pixels:
        """Waits for a share of a budget and holds it meanwhile."""
        hold = Hold(amount)
        try:
            budget.enter(hold, job.deadline)
            if job.deadline is not None and job.deadline.passed:
                raise _late(job.deadline)
            return then(job)
        finally:
            budget.leave(hold)
            budget.wake()

    def _exchange(self, job: Job) -> Pixels:
        """Lets a process decode a picture; replaces the process unless it is as good as before."""
        if not job.allowance.left:
            raise job.allowance.error()
        decoder, good = self._ready_decoder(job.deadline), False
        seconds = job.allowance.left
        watch = Watch(self._end_seconds(job.deadline, seconds), decoder.kill)
        used = seconds
        try:
            self._watch().add(watch)
            result = decoder.decode(Task(job.data, job.limits, seconds, job.memory_limit))
            good, used = not decoder.kept_memory, decoder.used_seconds
        except DecoderEndedError:
            in_time = self._watch().remove(watch)
            decoder.end()
            raise self._reason(decoder, job, in_time=in_time) from None
        finally:
            good = self._watch().remove(watch) and good
            job.allowance.take(used if good else used + _RESTART_SECONDS)
            if good:
                self._idle.append(decoder)
            else:
                decoder.end()
                self._replace()
        if isinstance(result, InputError):
            raise result
        return result

    def _ready_decoder(self, deadline: Deadline | None) -> Decoder:
        """Returns an idle process, or a fresh one, that can decode."""
        starts, ready = 0, False
        while not ready:
            try:
                decoder = self._idle.pop()
            except IndexError:
                decoder, starts = Decoder(), starts + 1
            try:
                ready = self._wait_ready(decoder, last=starts >= _STARTS)
            finally:
                if not ready:
                    decoder.end()
        if deadline is not None and deadline.passed:
            self._idle.append(decoder)
            raise _late(deadline)
        return decoder

    def _wait_ready(self, decoder: Decoder, *, last: bool = True) -> bool:
        """Returns whether a process can decode, unless that it cannot is an error."""
        watch = Watch(time.monotonic() + _START_SECONDS, decoder.kill)
        try:
            self._watch().add(watch)
            decoder.wait_ready()
        except BackendError:
            if last or not decoder.killed or not self._watch().remove(watch):
                raise
        finally:
            self._watch().remove(watch)
        return last or not decoder.ended

    @staticmethod
    def _end_seconds(deadline: Deadline | None, seconds: float) -> float:
        """Returns when a picture that is decoded from now on is given up."""
        now = time.monotonic()
        latest = now + seconds * _CLOCK_FACTOR + _CLOCK_SPARE_SECONDS
        return latest if deadline is None else min(latest, max(deadline.at_seconds, now + _GRACE))

    def _reason(self, decoder: Decoder, job: Job, *, in_time: bool) -> Exception:
        """Counts the end of a process and returns the error of its picture."""
        reason, ended_by = CRASH, decoder.end_reason()
        error: Exception = ImageError(f"The picture ended its decoder ({ended_by}). Save it again.")
        if not in_time and job.deadline is not None and job.deadline.passed:
            reason, error = DEADLINE, _late(job.deadline)
        elif not in_time or ended_by == "SIGPROF":
            reason, error = TIME, job.allowance.error()
        with self._lock:
            self._ended[reason] += 1
        return error

    def _replace(self) -> None:
        """Starts a process that the next picture finds ready; if none starts, that one says so."""
        with contextlib.suppress(BackendError):
            self._idle.appendleft(Decoder())

    def _watch(self) -> Watchdog:
        if self._watchdog is None:
            with self._lock:
                if self._watchdog is None:
                    self._watchdog = Watchdog()
        return self._watchdog


def _late(deadline: Deadline) -> DeadlineError:
    return DeadlineError({"decoding": deadline.reason})
