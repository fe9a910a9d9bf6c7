"""A GPU: a few batches at a time, and in each of them all experts at the same time."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future

from runtime.backends import Answer, Views
from runtime.backends.gpu.cuda import Cuda
from runtime.backends.gpu.in_flight import Health
from runtime.backends.gpu.slot import CudaExpert, ExpertSlot, Slot
from runtime.backends.gpu.slot_queue import SlotQueue
from runtime.errors import CudaError
from runtime.manifest import InputSpec

__all__ = ["CudaBatch", "CudaDevice", "CudaExpert", "CudaPending"]

_log = logging.getLogger("agemoe")
_CLOSE_SECONDS = 60.0
_SPINS = 20
"""How often an answer is looked for before its thread sleeps between looks."""
_SLEEP_SECONDS = 5e-5
_abandoned: list[object] = []
"""What devices did not stop working on: freeing it would block, or break what runs."""


class CudaDevice:
    """All experts on one GPU."""

    def __init__(
        self,
        cuda: Cuda,
        experts: Mapping[str, CudaExpert],
        inputs: Mapping[str, tuple[InputSpec, ...]],
        largest: int,
        *,
        lanes: int = 2,
    ) -> None:
        """Takes all memory that batches will need and lets every expert run each batch size.

        Args:
            cuda: the device; it and the experts are closed with this object, also if it cannot be
                made.
            experts: by name.
            inputs: of each expert.
            largest: faces in a batch, at most what every expert's engine was built for.
            lanes: batches at a time; with two, one is uploaded while the other is executed.

        Raises:
            BackendError: the device has no room, or an expert cannot run on it.
        """
        self._cuda = cuda
        self._experts = dict(experts)
        self._largest = largest
        self._health = Health()
        self._closing = threading.Lock()
        self._closed = False
        self._specs = {spec for name in experts for spec in inputs[name]}
        self._sets: list[Slot] = []
        try:
            with cuda.current():
                for _ in range(lanes):
                    self._sets.append(Slot(cuda, self._experts, inputs, largest, self._health))
                for slot in self._sets:
                    slot.warm_up()
        except BaseException:
            self._free()
            raise
        self._queue = SlotQueue(self._sets, self._health.check)

    @property
    def backends(self) -> dict[str, str]:
        """What each expert runs on, by its name."""
        return {name: expert.backend for name, expert in self._experts.items()}

    def take(self, views: Views, timeout: float | None = None) -> CudaBatch:
        """Waits for a free lane set and starts to upload a batch.

        Args:
            views: of all inputs, and perhaps of others.
            timeout: in seconds; None waits as long as it takes.

        Raises:
            TimeoutError: no lane set became free in time.
            CudaError: the uploads could not be started, or the device is lost.
            ValueError: more faces than `largest`, or views that do not fit the inputs.
        """
        rows = self._rows(views)
        slot = self._queue.take(timeout)
        batch = CudaBatch(slot, rows, self._queue.put_back)
        try:
            batch.load(views)
        except BaseException:
            batch.release()
            raise
        return batch

    def close(self) -> None:
        """Waits for what is under way and frees everything; harmless when repeated.

        A lost device is not waited for. What one does not end within a minute is left to it.
        """
        with self._closing:
            if self._closed:
                return
            self._closed = True
            at_rest = True
            with contextlib.suppress(CudaError):  # a lost device works on nothing
                at_rest = self._queue.close(_CLOSE_SECONDS)
            if at_rest:
                self._free()
            else:
                _abandoned.append((self._sets, self._experts))
                _log.error("the GPU has not ended its work; what it uses is not freed")

    def _rows(self, views: Views) -> int:
        counts = {len(views[spec]) for spec in self._specs}
        if len(counts) != 1 or not 1 <= max(counts) <= self._largest:
            raise ValueError(
                f"Expected 1 to {self._largest} views, as many of every input; got {counts}."
            )
        return counts.pop()

    def _free(self) -> None:
        """Frees in the order of use; what cannot be freed must not stop the rest."""
        with contextlib.suppress(CudaError), contextlib.ExitStack() as stack:
            stack.callback(self._cuda.close)
            with contextlib.suppress(CudaError):
                stack.enter_context(self._cuda.current())
            for expert in self._experts.values():
                stack.callback(expert.close)
            for slot in self._sets:
                stack.callback(slot.free)


class CudaBatch:
    """Views on the GPU, in a lane set of their own until `release`."""

    def __init__(self, slot: Slot, rows: int, give_back: Callable[[Slot], None]) -> None:
        """Holds a lane set; nothing is uploaded yet.

        Args:
            slot: nobody else's until it is given back.
            rows: faces in the batch.
            give_back: takes the lane set, whose work may still be under way.
        """
        self.slot = slot
        self.rows = rows
        self.released = False
        self._bucket = next(bucket for bucket in slot.buckets if bucket >= rows)
        self._give_back = give_back
        self._loaded_at = 0.0

    def load(self, views: Views) -> None:
        """Enqueues the uploads."""
        self._loaded_at = time.perf_counter()
        with self.slot.at_work():
            self.slot.load(views, self._bucket)

    def enqueue(self, expert: str) -> CudaPending:
        """Starts an expert and returns at once; what goes wrong is told by the answer."""
        self.check_held()
        waited = time.perf_counter() - self._loaded_at
        expert_slot, launched = self.slot.start(expert, self._bucket)
        return CudaPending(self, expert_slot, launched, waited)

    def check_held(self) -> None:
        """Refuses what would touch the memory of another batch."""
        if self.released:
            raise RuntimeError("The batch was released, and its place may be another's by now.")

    def release(self) -> None:
        """Gives the lane set back, which is free when what was started has ended."""
        if not self.released:
            self.released = True
            self._give_back(self.slot)


class CudaPending:
    """One expert's answer, under way on the GPU."""

    def __init__(
        self, batch: CudaBatch, expert_slot: ExpertSlot, launched: Future[None], waited: float
    ) -> None:
        """Follows what was started.

        Args:
            batch: the answer can be had until its release, and again once it was had.
            expert_slot: where the expert works.
            launched: done when all was enqueued, or could not be.
            waited: seconds from the start of the uploads to that of the expert.
        """
        self._batch = batch
        self._expert_slot = expert_slot
        self._launched = launched
        self._waited = waited
        self._answer: Answer | None = None

    def cancel(self) -> bool:
        """Gives the answer up; the device goes on with what was enqueued."""
        return self._launched.cancel()

    def result(self, timeout: float | None = None) -> Answer:
        """Waits for the answer.

        Raises:
            TimeoutError: it is not there after `timeout` seconds.
            BackendError: it could not be enqueued, or the device failed.
            RuntimeError: the batch was released before.
        """
        if self._answer is None:
            with self._batch.slot.at_work():
                self._answer = self._wait(timeout)
        return self._answer

    def _wait(self, timeout: float | None) -> Answer:
        limit = None if timeout is None else time.monotonic() + timeout
        self._batch.check_held()
        self._launched.result(timeout)
        self._await_mark(limit)
        answer = Answer(
            self._expert_slot.lane.outputs.read(self._batch.rows),
            self._batch.slot.times(self._expert_slot, self._waited),
        )
        self._batch.check_held()  # only now is it certain that no other batch was read
        return answer

    def _await_mark(self, limit: float | None) -> None:
        looks = 0
        while not self._reached():
            if limit is not None and time.monotonic() >= limit:
                raise TimeoutError("The answer is not there yet.")
            looks += 1
            if looks > _SPINS:
                time.sleep(_SLEEP_SECONDS)

    def _reached(self) -> bool:
        self._batch.slot.health.check()  # a lost device may be freed by now
        return self._expert_slot.done.reached()
