"""A GPU: several batches at a time, and in each of them all experts at the same time."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future

from runtime.backends import Answer, Views
from runtime.backends.gpu.cuda import Cuda
from runtime.backends.gpu.health import DeviceHealth
from runtime.backends.gpu.lane import BoundLane, CudaExpert
from runtime.backends.gpu.slot import Slot
from runtime.backends.gpu.slot_queue import SlotQueue
from runtime.errors import CudaError

_log = logging.getLogger("agemoe")
_CLOSE_SECONDS = 60.0
_SPINS = 20
"""Polls of an answer before its thread sleeps between polls."""
_SLEEP_SECONDS = 5e-5
_abandoned: list[object] = []
"""Resources still in use after `close`; freeing them would block, or break running work."""


class CudaDevice:
    """All experts on one GPU."""

    def __init__(self, cuda: Cuda, experts: Mapping[str, CudaExpert], *, slots: int) -> None:
        """Allocates all slots and warms up every expert with each batch size.

        The device and the experts are closed with this object, also if this constructor fails.
        With two slots, one batch is uploaded while another is executed.

        Raises:
            BackendError: the device lacks memory, or an expert cannot run on it.
        """
        self._cuda = cuda
        self._experts = dict(experts)
        self._largest = min(expert.expert.profile.largest for expert in experts.values())
        self._health = DeviceHealth()
        self._closing = threading.Lock()
        self._closed = False
        self._specs = {spec for expert in experts.values() for spec in expert.expert.inputs}
        self._slots: list[Slot] = []
        try:
            with cuda.current():
                for _ in range(slots):
                    self._slots.append(Slot(cuda, self._experts, self._largest, self._health))
                for slot in self._slots:
                    slot.warm_up()
        except BaseException:
            self._free()
            raise
        self._queue = SlotQueue(self._slots, self._health.check)

    @property
    def backends(self) -> dict[str, str]:
        """Backend of each expert, by name."""
        return {name: expert.backend for name, expert in self._experts.items()}

    def take(self, views: Views, timeout: float | None = None) -> CudaBatch:
        """Waits, at most `timeout` seconds, for a free slot and starts uploading a batch.

        Raises:
            TimeoutError: no slot became free in time.
            CudaError: the uploads could not be enqueued, or the device is lost.
            ValueError: more faces than an engine takes, or views that do not fit the inputs.
        """
        rows = self._rows(views)
        slot = self._queue.take(timeout)
        batch = CudaBatch(slot, rows, self._queue.put_back)
        try:
            batch.upload(views)
        except BaseException:
            batch.release()
            raise
        return batch

    def close(self) -> None:
        """Waits for the work in progress and frees everything; idempotent.

        Does not wait for a lost device. After a minute, what is still in use is not freed.
        """
        with self._closing:
            if self._closed:
                return
            self._closed = True
            idle = True
            with contextlib.suppress(CudaError):  # a lost device runs nothing
                idle = self._queue.close(_CLOSE_SECONDS)
            if idle:
                self._free()
            else:
                _abandoned.append((self._slots, self._experts))
                _log.error("the GPU is still busy after close; the resources in use are not freed")

    def _rows(self, views: Views) -> int:
        counts = {len(views[spec]) for spec in self._specs}
        if len(counts) != 1 or not 1 <= max(counts) <= self._largest:
            raise ValueError(
                f"Expected 1 to {self._largest} views, the same number for each input; got "
                f"{counts}."
            )
        return counts.pop()

    def _free(self) -> None:
        """Frees slots, experts and device in this order; an error does not stop the rest."""
        with contextlib.suppress(CudaError), contextlib.ExitStack() as stack:
            stack.callback(self._cuda.close)
            with contextlib.suppress(CudaError):
                stack.enter_context(self._cuda.current())
            for expert in self._experts.values():
                stack.callback(expert.close)
            for slot in self._slots:
                stack.callback(slot.free)


class CudaBatch:
    """Views on the GPU, in their own slot until `release`."""

    def __init__(self, slot: Slot, rows: int, put_back: Callable[[Slot], None]) -> None:
        """Holds a slot until `put_back`, which takes it with its work still in progress."""
        self.slot = slot
        self.rows = rows
        self.released = False
        self._bucket = next(bucket for bucket in slot.buckets if bucket >= rows)
        self._put_back = put_back
        self._uploaded_at = 0.0

    def upload(self, views: Views) -> None:
        """Enqueues the uploads."""
        self._uploaded_at = time.perf_counter()
        with self.slot.current():
            self.slot.upload(views, self._bucket)

    def enqueue(self, expert: str) -> CudaPending:
        """Starts an expert and returns at once; `CudaPending.result` raises what fails."""
        self.check_held()
        waited = time.perf_counter() - self._uploaded_at
        lane, launched = self.slot.launch(expert, self._bucket)
        return CudaPending(self, lane, launched, waited)

    def check_held(self) -> None:
        """Raises `RuntimeError` after `release`, when another batch may use the memory."""
        if self.released:
            raise RuntimeError("The batch was released; another one may use its slot by now.")

    def release(self) -> None:
        """Puts the slot back; it becomes free when the work in it has ended."""
        if not self.released:
            self.released = True
            self._put_back(self.slot)


class CudaPending:
    """One expert's answer, in progress on the GPU."""

    def __init__(
        self, batch: CudaBatch, lane: BoundLane, launched: Future[None], waited: float
    ) -> None:
        """Tracks a launched expert.

        The batch must be held when the answer is first read; the answer is kept after that.
        `launched` is done when everything was enqueued, or enqueuing failed; `waited` is the time
        in seconds from the start of the uploads to that of the expert.
        """
        self._batch = batch
        self._lane = lane
        self._launched = launched
        self._waited = waited
        self._answer: Answer | None = None

    def cancel(self) -> bool:
        """Cancels the launch if it has not begun; the device completes what was enqueued."""
        return self._launched.cancel()

    def result(self, timeout: float | None = None) -> Answer:
        """Waits for the answer and returns it.

        Raises:
            TimeoutError: it is not complete after `timeout` seconds.
            BackendError: enqueuing or the device failed.
            RuntimeError: the batch was released before.
        """
        if self._answer is None:
            with self._batch.slot.current():
                self._answer = self._wait(timeout)
        return self._answer

    def _wait(self, timeout: float | None) -> Answer:
        limit = None if timeout is None else time.monotonic() + timeout
        self._batch.check_held()
        self._launched.result(timeout)
        self._wait_until_done(limit)
        answer = Answer(
            self._lane.expert_lane.outputs.read(self._batch.rows),
            self._batch.slot.times(self._lane, self._waited),
        )
        self._batch.check_held()  # else another batch's outputs may have been read
        return answer

    def _wait_until_done(self, limit: float | None) -> None:
        for polls in itertools.count(1):
            self._batch.slot.health.check()  # a lost device's events may be freed by now
            if self._lane.done.query():
                return
            if limit is not None and time.monotonic() >= limit:
                raise TimeoutError("The answer is not complete yet.")
            if polls > _SPINS:
                time.sleep(_SLEEP_SECONDS)
