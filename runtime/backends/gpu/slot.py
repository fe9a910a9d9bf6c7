"""What one batch uses of a GPU: uploads of its own and, per expert, a lane.

Everything is taken when a set is built. On the way of a batch nothing is allocated, the host waits
for nothing but the answers, and the default stream is not used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

import numpy as np

from runtime.backends import Times, Views
from runtime.backends.gpu.buffers import InputBuffer, OutputBuffers, Resources
from runtime.backends.gpu.cuda import Cuda, DeviceMemory, Event, Stream
from runtime.backends.gpu.in_flight import Health, Mark
from runtime.errors import BackendError, CudaError
from runtime.manifest import InputSpec

_REFUSALS = 100
"""A device that so often in a row cannot say whether it is done counts as lost."""


class ExpertLane(Protocol):
    """One expert's part of a lane set: at most one batch at a time."""

    @property
    def stream(self) -> Stream:
        """Where it works."""
        ...

    @property
    def outputs(self) -> OutputBuffers:
        """Where its answers are when the stream has come to them."""
        ...

    def submit(self, work: Callable[[], None]) -> Future[None]:
        """Calls what enqueues on the thread that may; the future keeps what it raises."""
        ...

    def run(self, bucket: int, executed: Event) -> None:
        """Enqueues the execution of `bucket` views, the mark `executed` and the downloads.

        Where execution and downloads are one, the mark stands behind both.
        """
        ...

    def warm_up(self, buckets: Sequence[int]) -> None:
        """Runs each batch size on the views that are there, and waits for it."""
        ...

    def free(self) -> None:
        """Frees everything; harmless when repeated. Nothing may be under way."""
        ...


class CudaExpert(Protocol):
    """One expert on a GPU; its lanes share the weights."""

    @property
    def backend(self) -> str:
        """What it runs on, for example `tensorrt`."""
        ...

    def lane(self, inputs: Mapping[str, DeviceMemory], largest: int) -> ExpertLane:
        """A new lane that reads its views, at most `largest`, from the given memory, by name."""
        ...

    def close(self) -> None:
        """Frees everything; harmless when repeated. Its lanes must have been freed."""
        ...


def buckets_up_to(largest: int) -> tuple[int, ...]:
    """The batch sizes that are run: 1, 2, 4, 8 and so on, and the largest."""
    return (*(1 << i for i in range((largest - 1).bit_length())), largest)


class ExpertSlot:
    """One expert's lane within a set, with its inputs and marks."""

    def __init__(
        self, cuda: Cuda, resources: Resources, lane: ExpertLane, inputs: Sequence[InputBuffer]
    ) -> None:
        """Takes its marks."""
        self.lane = lane
        self.inputs = inputs
        self.started = resources.keep(cuda.event())
        self.executed = resources.keep(cuda.event())
        self.done = Mark(cuda, resources.keep(cuda.event()), lane.stream)
        self._cuda = cuda

    def launch(self, bucket: int) -> None:
        """Enqueues all that this expert does for a batch."""
        with self._cuda.current(), self.done.behind():
            for buffer in self.inputs:
                self._cuda.wait_for(buffer.uploaded, self.lane.stream)
            self._cuda.record(self.started, self.lane.stream)
            self.lane.run(bucket, self.executed)


class Slot:
    """What one batch uses of a GPU."""

    def __init__(
        self,
        cuda: Cuda,
        experts: Mapping[str, CudaExpert],
        inputs: Mapping[str, tuple[InputSpec, ...]],
        largest: int,
        health: Health,
    ) -> None:
        """Takes everything, or nothing."""
        self.cuda = cuda
        self.health = health
        self.buckets = buckets_up_to(largest)
        self._largest = largest
        self._streams: list[Stream] = []
        self._lanes: list[ExpertLane] = []
        self._expert_slots: dict[str, ExpertSlot] = {}
        self._launches: list[Future[None]] = []
        self._marks: list[Mark] = []
        self._refusals = 0
        self._resources = Resources(cuda)
        try:
            self._build(experts, inputs)
        except BaseException:
            self.free()
            raise

    def warm_up(self) -> None:
        """Lets every expert run each batch size, on views of noise."""
        rng = np.random.default_rng(0)
        views = {
            spec: rng.integers(0, 256, (self._largest, spec.height, spec.width, 3), np.uint8)
            for spec in self._inputs
        }
        self.load(views, self._largest)
        self.cuda.synchronize(self._uploads)
        self.cuda.elapsed_seconds(self._begun, self._loaded.event)  # can the clock be read?
        for name, expert_slot in self._expert_slots.items():
            with _placing(name):
                expert_slot.lane.warm_up(self.buckets)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Makes the device this thread's; its loss within is noticed."""
        with self.health.watch(), self.cuda.current():
            yield

    def load(self, views: Views, bucket: int) -> None:
        """Enqueues the uploads of a new batch."""
        self._launches.clear()
        self._marks.clear()
        with self._loaded.behind():
            self.cuda.record(self._begun, self._uploads)
            for spec, buffer in self._inputs.items():
                buffer.upload(views[spec], bucket, self._uploads)

    def start(self, expert: str, bucket: int) -> tuple[ExpertSlot, Future[None]]:
        """Starts an expert on what was loaded."""
        expert_slot = self._expert_slots[expert]
        self._marks.append(expert_slot.done)
        launched = expert_slot.lane.submit(lambda: expert_slot.launch(bucket))
        self._launches.append(launched)
        return expert_slot, launched

    def times(self, expert_slot: ExpertSlot, waited: float) -> Times:
        """Where an expert's time went, when it is done.

        Args:
            expert_slot: the expert's.
            waited: seconds between `load` and `start`, in which it was not yet enqueued.
        """
        between = self.cuda.elapsed_seconds
        uploads = [self._upload_seconds(buffer) for buffer in expert_slot.inputs]
        there = max(between(self._begun, buffer.uploaded) for buffer in expert_slot.inputs)
        return Times(
            queue=max(between(self._begun, expert_slot.started) - max(there, waited), 0.0),
            copy=sum(uploads) + between(expert_slot.executed, expert_slot.done.event),
            execute=between(expert_slot.started, expert_slot.executed),
        )

    def settled(self) -> bool:
        """Whether nothing is under way any more; what the device refuses to say is no."""
        try:
            with self.at_work():
                settled = (
                    self._loaded.reached()
                    and all(launch.done() for launch in self._launches)
                    and all(mark.reached() for mark in self._marks)
                )
        except CudaError as error:
            self._refusals += 1
            if self._refusals == _REFUSALS:
                self.health.lost = self.health.lost or error
            return False
        self._refusals = 0
        return settled

    def free(self) -> None:
        """Frees everything when the device is done with it; harmless when repeated."""
        for stream in self._streams:
            with contextlib.suppress(CudaError):
                self.cuda.synchronize(stream)
        for lane in self._lanes:
            lane.free()
        self._streams.clear()
        self._lanes.clear()
        self._resources.free()

    def _build(
        self, experts: Mapping[str, CudaExpert], inputs: Mapping[str, tuple[InputSpec, ...]]
    ) -> None:
        cuda, keep = self.cuda, self._resources.keep
        self._uploads = keep(cuda.stream())
        self._streams.append(self._uploads)
        self._begun = keep(cuda.event())
        self._loaded = Mark(cuda, keep(cuda.event()), self._uploads)
        self._inputs = {
            spec: InputBuffer(cuda, self._resources, spec, self._largest)
            for spec in dict.fromkeys(spec for name in experts for spec in inputs[name])
        }
        for name, expert in experts.items():
            buffers = {spec.name: self._inputs[spec] for spec in inputs[name]}
            with _placing(name):
                lane = expert.lane({key: b.memory for key, b in buffers.items()}, self._largest)
                self._lanes.append(lane)
                self._streams.append(lane.stream)
                self._expert_slots[name] = ExpertSlot(
                    cuda, self._resources, lane, [*buffers.values()]
                )

    def _upload_seconds(self, wanted: InputBuffer) -> float:
        """Device time of one upload, which began when the one before ended."""
        previous = self._begun
        for buffer in self._inputs.values():
            if buffer is wanted:
                break
            previous = buffer.uploaded
        return self.cuda.elapsed_seconds(previous, wanted.uploaded)


@contextlib.contextmanager
def _placing(name: str) -> Iterator[None]:
    """Says which expert it was that found no place."""
    try:
        yield
    except CudaError as error:
        if error.lost:
            raise
        raise BackendError(
            f"Expert {name!r} found no place on the GPU: {error} Use fewer lanes or experts, or "
            f"build it for a smaller largest batch."
        ) from error
