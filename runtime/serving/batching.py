"""`Batcher`: micro-batches of faces from concurrent callers, with the results of a serial run."""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Self

from runtime.deadline import Deadline
from runtime.errors import AgeMoEError, ClosedError, DeadlineError, PredictionError
from runtime.results import AgeEstimate, Face
from runtime.serving.request_ids import in_requests, request_id
from runtime.serving.request_queue import (
    QueuedFace,
    RunTimes,
    Selection,
    TooLateError,
    drop_cancelled,
    select_batch,
)

log = logging.getLogger("agemoe")


class QueueFullError(AgeMoEError):
    """The queue is full; the face was rejected at once."""

    def __init__(self, limit: int) -> None:
        """Composes the message from the queue's limit."""
        super().__init__(
            f"The queue is full: at most {limit} faces may wait. Try again in a moment."
        )


Predict = Callable[..., list[AgeEstimate | AgeMoEError]]
"""Takes a list of faces and `deadline_ms`; errors of single faces are returned, not raised."""


class Batcher:
    """Combines faces from concurrent callers into batches and returns each caller's own result.

    Faces are served in order of arrival. A batch runs as soon as it is full, or when a face has
    waited for `max_wait_ms` or a tenth of its time, whichever is less. A batch has one deadline,
    the earliest of its faces; so faces share a batch only if none loses more than a tenth of its
    time, and faces with and without a deadline never share one. A face that, judging by recent
    batches, would miss its deadline is not computed: `TooLateError`.
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
        """Starts the worker threads.

        Args:
            predict: `AgeMoE.predict`, or a thread-safe function with its behavior.
            max_batch: maximum number of faces in a batch.
            max_wait_ms: maximum batching delay.
            queue_limit: maximum number of waiting faces; more are rejected at once.
            workers: number of batches that run concurrently.
            on_batch: callback with each batch's size and the seconds its oldest face has waited;
                its exceptions are logged.

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
        self._waiting: list[QueuedFace] = []
        self._times = RunTimes()
        self._closed = False
        self._lock = threading.RLock()
        """Entered as it is: entering a `Condition` can be interrupted after it has locked."""
        self._changed = threading.Condition(self._lock)
        self._workers = [
            threading.Thread(target=self._work, name=f"agemoe-batch-{number}", daemon=True)
            for number in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    @property
    def waiting(self) -> int:
        """Number of faces in the queue."""
        return len(self._waiting)

    def submit(
        self, face: Face, *, deadline_ms: float | Deadline | None = None
    ) -> Future[AgeEstimate]:
        """Queues one face and returns immediately.

        Args:
            face: as in `AgeMoE.predict`; an array must not be modified until the result is ready.
            deadline_ms: from now, or a deadline that has already started.

        Returns:
            A future with the estimate, or the error of `AgeMoE.predict` or `TooLateError`. It can
            be cancelled until its batch runs.

        Raises:
            QueueFullError: too many faces are waiting.
            ClosedError: after `close`.
            ValueError: the deadline is not positive.
        """
        (future,) = self.submit_all([face], deadline_ms=deadline_ms)
        return future

    def submit_all(
        self, faces: Sequence[Face], *, deadline_ms: float | Deadline | None = None
    ) -> list[Future[AgeEstimate]]:
        """Queues either all faces or none; otherwise like `submit`."""
        deadline = Deadline.of(deadline_ms)
        arrived = time.monotonic()
        queued = [QueuedFace(face, arrived, deadline, request_id=request_id()) for face in faces]
        with self._lock:
            if self._closed:
                raise ClosedError("This Batcher was closed. Open a new one.")
            if len(self._waiting) + len(queued) > self._queue_limit:
                self._waiting = drop_cancelled(self._waiting)
            if len(self._waiting) + len(queued) > self._queue_limit:
                raise QueueFullError(self._queue_limit)
            self._waiting += queued
            self._changed.notify_all()
        return [entry.future for entry in queued]

    def close(self) -> None:
        """Rejects new faces and waits for the accepted ones."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()

    def __enter__(self) -> Self:
        """Returns the Batcher itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the Batcher."""
        self.close()

    def _work(self) -> None:
        while selection := self._next_selection():
            for queued in selection.late:
                if queued.deadline is not None:
                    error = TooLateError(queued.deadline, self._times.expected(1))
                    queued.future.set_exception(error)
            if selection.batch:
                with in_requests(queued.request_id for queued in selection.batch):
                    self._notify(selection.batch)
                    self._run(selection.batch)

    def _notify(self, batch: list[QueuedFace]) -> None:
        try:
            self._on_batch(len(batch), time.monotonic() - batch[0].arrived)
        except Exception:  # a failing callback must not fail the batch
            log.exception("the Batcher's on_batch callback failed")

    def _next_selection(self) -> Selection | None:
        """Waits for the next selection; returns None once closed and drained."""
        with self._lock:
            while self._waiting or not self._closed:
                pause = self._seconds_to_dispatch()
                if pause is None or pause > 0.0:
                    self._changed.wait(pause)
                    continue
                now = time.monotonic()
                selection = select_batch(self._waiting, now, self._max_batch, self._times)
                self._waiting = selection.remaining
                if selection.late:
                    self._times.record_rejection()
                return selection
        return None

    def _seconds_to_dispatch(self) -> float | None:
        """Returns how long to wait for more faces; None while the queue is empty."""
        if not self._waiting:
            return None
        if self._closed or len(self._waiting) >= self._max_batch:
            return 0.0
        dispatch = min(queued.dispatch_time(self._max_wait_seconds) for queued in self._waiting)
        return dispatch - time.monotonic()

    def _run(self, batch: list[QueuedFace]) -> None:
        started = time.monotonic()
        deadline = min(batch, key=lambda queued: queued.due).deadline
        try:
            results = self._predict([queued.face for queued in batch], deadline_ms=deadline)
            pairs = list(zip(batch, results, strict=True))
        except DeadlineError as error:
            for queued in batch:
                _resolve(queued, error, deadline)
        except BaseException as error:  # noqa: BLE001 - forwarded to the callers
            self._run_singly(batch, error)
        else:
            if any(isinstance(result, AgeEstimate) for result in results):
                with self._lock:
                    self._times.record(len(batch), time.monotonic() - started)
            for queued, result in pairs:
                _resolve(queued, result, deadline)

    def _run_singly(self, batch: list[QueuedFace], error: BaseException) -> None:
        """Runs the faces of a failed batch one by one, so that only the faulty one fails."""
        if len(batch) == 1:
            batch[0].future.set_exception(error)
            return
        for queued in batch:
            with in_requests([queued.request_id]):
                self._run([queued])


def _resolve(
    queued: QueuedFace, result: AgeEstimate | AgeMoEError, batch_deadline: Deadline | None
) -> None:
    result = _with_own_deadline(result, batch_deadline, queued.deadline)
    if isinstance(result, AgeEstimate):
        queued.future.set_result(result)
    else:
        queued.future.set_exception(result)


def _with_own_deadline(
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
