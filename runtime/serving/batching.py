"""`Batcher`: faces from many callers become batches; the answers stay those of a serial run."""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol, Self

from runtime.deadline import Deadline
from runtime.errors import AgeMoEError, ClosedError, DeadlineError, PredictionError
from runtime.results import AgeEstimate, Face
from runtime.serving.request_queue import (
    Request,
    RunTimes,
    Taken,
    TooLateError,
    take,
    without_cancelled,
)

log = logging.getLogger("agemoe")


class QueueFullError(AgeMoEError):
    """As many faces wait as may; this one was refused at once."""

    def __init__(self, limit: int) -> None:
        """Composes the message from the queue's limit."""
        super().__init__(
            f"The queue is full: {limit} faces may wait at a time. Try again in a moment."
        )


class Predict(Protocol):
    """`AgeMoE.predict` for a list."""

    def __call__(
        self, faces: list[Face], /, *, deadline_ms: float | Deadline | None = None
    ) -> list[AgeEstimate | AgeMoEError]:
        """One entry per face, in order; an error is returned, not raised, for a bad face."""


class Batcher:
    """Gathers faces into batches and gives each caller its own answer.

    First come, first served. A batch is run when it is full, or when a face has waited for
    `max_wait_ms` or a tenth of its time, whichever is less. `predict` knows one deadline for all of
    a batch, the earliest; so faces go together only where none loses more than a tenth of its time
    by that, and a face without a deadline never goes with one that has a deadline. A face whose
    answer is bound to come late, by how long batches took lately, is not computed: `TooLateError`.
    """

    def __init__(
        self,
        predict: Predict,
        *,
        max_batch: int = 8,
        max_wait_ms: float = 2.0,
        queue_limit: int = 256,
        workers: int = 2,
        on_batch: Callable[[int, float], None] | None = None,
    ) -> None:
        """Starts the workers.

        Args:
            predict: `AgeMoE.predict`, or what behaves like it from several threads.
            max_batch: faces in one batch, at most.
            max_wait_ms: how long a face waits for company, at most.
            queue_limit: faces that wait, at most; more are refused at once.
            workers: batches that are under way at a time.
            on_batch: told every batch's size and how many seconds its oldest face has waited; what
                it raises is logged.

        Raises:
            ValueError: an option is out of range.
        """
        if min(max_batch, queue_limit, workers) < 1 or not 0.0 <= max_wait_ms < math.inf:
            raise ValueError(
                f"max_batch, queue_limit and workers must be positive and max_wait_ms must not be "
                f"negative, got {max_batch}, {queue_limit}, {workers} and {max_wait_ms}."
            )
        self._predict = predict
        self._max_batch = max_batch
        self._max_wait_seconds = max_wait_ms / 1000.0
        self._queue_limit = queue_limit
        self._on_batch = on_batch or (lambda _size, _waited: None)
        self._waiting: list[Request] = []
        self._times = RunTimes()
        self._closed = False
        self._changed = threading.Condition()
        self._workers = [
            threading.Thread(target=self._work, name=f"agemoe-batch-{number}", daemon=True)
            for number in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    @property
    def waiting(self) -> int:
        """How many faces wait."""
        return len(self._waiting)

    def submit(
        self, face: Face, *, deadline_ms: float | Deadline | None = None
    ) -> Future[AgeEstimate]:
        """Queues one face and returns at once.

        Args:
            face: as in `AgeMoE.predict`; an array must not be changed until the answer is there.
            deadline_ms: from now; see `Batcher`.

        Returns:
            A future with the estimate or the error of `AgeMoE.predict`, `TooLateError` included.
            Cancelling it works until its batch is run.

        Raises:
            QueueFullError: too many are waiting.
            ClosedError: after `close`.
            ValueError: the deadline is not positive.
        """
        (future,) = self.submit_all([face], deadline_ms=deadline_ms)
        return future

    def submit_all(
        self, faces: Sequence[Face], *, deadline_ms: float | Deadline | None = None
    ) -> list[Future[AgeEstimate]]:
        """Queues several faces, all of them or none; else like `submit`."""
        deadline = Deadline.of(deadline_ms)
        arrived = time.monotonic()
        requests = [Request(face, arrived, deadline) for face in faces]
        with self._changed:
            if self._closed:
                raise ClosedError("This Batcher was closed. Open a new one.")
            if len(self._waiting) + len(requests) > self._queue_limit:
                self._waiting = without_cancelled(self._waiting)
            if len(self._waiting) + len(requests) > self._queue_limit:
                raise QueueFullError(self._queue_limit)
            self._waiting += requests
            self._changed.notify_all()
        return [request.future for request in requests]

    def close(self) -> None:
        """Accepts nothing more and waits until everything accepted is answered."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()

    def __enter__(self) -> Self:
        """The Batcher itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def _work(self) -> None:
        while taken := self._next():
            for request in taken.late:
                if request.deadline is not None:
                    error = TooLateError(request.deadline, self._times.hoped(1))
                    request.future.set_exception(error)
            if taken.batch:
                self._tell(taken.batch)
                self._answer(taken.batch)

    def _tell(self, batch: list[Request]) -> None:
        try:
            self._on_batch(len(batch), time.monotonic() - batch[0].arrived)
        except Exception:  # whoever looks on must not cost anybody his answer
            log.exception("on_batch of the Batcher failed")

    def _next(self) -> Taken | None:
        """Waits for a batch; None when closed and everything is done."""
        with self._changed:
            while self._waiting or not self._closed:
                pause = self._pause()
                if pause is None or pause > 0.0:
                    self._changed.wait(pause)
                    continue
                taken = take(self._waiting, time.monotonic(), self._max_batch, self._times)
                self._waiting = taken.left
                if taken.late:
                    self._times.refused()
                return taken
        return None

    def _pause(self) -> float | None:
        """Seconds to wait for more faces; None for the first one."""
        if not self._waiting:
            return None
        if self._closed or len(self._waiting) >= self._max_batch:
            return 0.0
        patience = min(request.patient_until(self._max_wait_seconds) for request in self._waiting)
        return patience - time.monotonic()

    def _answer(self, batch: list[Request]) -> None:
        started = time.monotonic()
        deadline = min(batch, key=lambda request: request.due).deadline
        try:
            results = self._predict([request.face for request in batch], deadline_ms=deadline)
            answers = list(zip(batch, results, strict=True))
        except DeadlineError as error:
            for request in batch:
                _settle(request, error, deadline)
        except BaseException as error:  # noqa: BLE001 - it belongs to the callers, all of them
            self._answer_singly(batch, error)
        else:
            self._note_time(batch, results, time.monotonic() - started)
            for request, result in answers:
                _settle(request, result, deadline)

    def _answer_singly(self, batch: list[Request], error: BaseException) -> None:
        """A fault of one face must not spoil its neighbors, who have nothing to do with it."""
        if len(batch) == 1:
            batch[0].future.set_exception(error)
            return
        for request in batch:
            self._answer([request])

    def _note_time(
        self, batch: list[Request], results: Sequence[AgeEstimate | AgeMoEError], seconds: float
    ) -> None:
        if any(isinstance(result, AgeEstimate) for result in results):
            with self._changed:
                self._times.ran(len(batch), seconds)


def _settle(
    request: Request, result: AgeEstimate | AgeMoEError, batch_deadline: Deadline | None
) -> None:
    result = _in_callers_milliseconds(result, batch_deadline, request.deadline)
    if isinstance(result, AgeEstimate):
        request.future.set_result(result)
    else:
        request.future.set_exception(result)


def _in_callers_milliseconds(
    result: AgeEstimate | AgeMoEError, batch: Deadline | None, own: Deadline | None
) -> AgeEstimate | AgeMoEError:
    """Replaces the batch's deadline by the caller's own in the reasons for missing experts."""
    if batch is None or own is None or not isinstance(result, (AgeEstimate, PredictionError)):
        return result
    missing = {
        name: own.reason if reason == batch.reason else reason
        for name, reason in result.missing.items()
    }
    if missing == result.missing:
        return result
    if isinstance(result, AgeEstimate):
        return dataclasses.replace(result, missing=missing)
    return (DeadlineError if isinstance(result, DeadlineError) else PredictionError)(missing)
