"""Slots: the GPU resources of one batch, that is input buffers and a lane per expert.

Everything is allocated when a slot is built. While batches run, nothing is allocated, the host
waits for results only, and the default stream is not used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future

import numpy as np

from runtime.backends import Times, Views
from runtime.backends.gpu.buffers import InputBuffer, Resources
from runtime.backends.gpu.cuda import Cuda, Stream
from runtime.backends.gpu.health import DeviceHealth
from runtime.backends.gpu.lane import BoundLane, CompletionEvent, CudaExpert, ExpertLane
from runtime.errors import BackendError, CudaError

_MAX_QUERY_FAILURES = 100
"""A device whose event queries fail this often in a row counts as lost."""


def buckets_up_to(largest: int) -> tuple[int, ...]:
    """Returns the batch sizes to run: 1, 2, 4, 8 and so on, and the largest."""
    return (*(1 << i for i in range((largest - 1).bit_length())), largest)


class Slot:
    """The GPU resources of one batch."""

    def __init__(
        self, cuda: Cuda, experts: Mapping[str, CudaExpert], largest: int, health: DeviceHealth
    ) -> None:
        """Allocates everything, or raises and keeps nothing."""
        self.cuda = cuda
        self.health = health
        self.buckets = buckets_up_to(largest)
        self._largest = largest
        self._streams: list[Stream] = []
        self._expert_lanes: list[ExpertLane] = []
        self._lanes: dict[str, BoundLane] = {}
        self._launches: list[Future[None]] = []
        self._started: list[BoundLane] = []
        self._query_failures = 0
        self._resources = Resources(cuda)
        try:
            self._build(experts)
        except BaseException:
            self.free()
            raise

    def warm_up(self) -> None:
        """Runs every expert on noise, in each batch size."""
        rng = np.random.default_rng(0)
        views = {
            spec: rng.integers(0, 256, (self._largest, spec.height, spec.width, 3), np.uint8)
            for spec in self._inputs
        }
        self.upload(views, self._largest)
        self.cuda.synchronize(self._upload_stream)
        self.cuda.elapsed_seconds(self._upload_started, self._uploaded.event)  # checks the timing
        for name, lane in self._lanes.items():
            with _naming(name):
                lane.expert_lane.warm_up(self.buckets)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Makes the device current in this thread and records its loss inside the block."""
        with self.health.watch(), self.cuda.current():
            yield

    def upload(self, views: Views, bucket: int) -> None:
        """Enqueues the uploads of a new batch."""
        self._launches.clear()
        self._started.clear()
        with self._uploaded.record_after():
            self.cuda.record(self._upload_started, self._upload_stream)
            for spec, buffer in self._inputs.items():
                buffer.upload(views[spec], bucket, self._upload_stream)

    def launch(self, expert: str, bucket: int) -> tuple[BoundLane, Future[None]]:
        """Starts an expert on the uploaded batch."""
        lane = self._lanes[expert]
        self._started.append(lane)
        launched = lane.expert_lane.submit(lambda: lane.launch(bucket))
        self._launches.append(launched)
        return lane, launched

    def times(self, lane: BoundLane, waited: float) -> Times:
        """Returns the durations of an expert that is done.

        The seconds waited between `upload` and `launch` do not count as queueing.
        """
        between = self.cuda.elapsed_seconds
        start = self._upload_started
        ready = max(between(start, buffer.uploaded) for buffer in lane.inputs)
        return Times(
            queue=max(between(start, lane.started) - max(ready, waited), 0.0),
            copy=sum(map(self._upload_seconds, lane.inputs))
            + between(lane.executed, lane.done.event),
            execute=between(lane.started, lane.executed),
        )

    def idle(self) -> bool:
        """Returns True if no work is in progress; also False if the query fails."""
        try:
            with self.current():
                idle = (
                    self._uploaded.query()
                    and all(launch.done() for launch in self._launches)
                    and all(lane.done.query() for lane in self._started)
                )
        except CudaError as error:
            self._query_failures += 1
            if self._query_failures == _MAX_QUERY_FAILURES:
                self.health.lost = self.health.lost or error
            return False
        self._query_failures = 0
        return idle

    def free(self) -> None:
        """Waits for the device and frees everything; idempotent."""
        for stream in self._streams:
            with contextlib.suppress(CudaError):
                self.cuda.synchronize(stream)
        for lane in self._expert_lanes:
            lane.free()
        self._streams.clear()
        self._expert_lanes.clear()
        self._resources.free()

    def _build(self, experts: Mapping[str, CudaExpert]) -> None:
        cuda, keep = self.cuda, self._resources.keep
        self._upload_stream = keep(cuda.stream())
        self._streams.append(self._upload_stream)
        self._upload_started = keep(cuda.event())
        self._uploaded = CompletionEvent(cuda, keep(cuda.event()), self._upload_stream)
        self._inputs = {
            spec: InputBuffer(cuda, self._resources, spec, self._largest)
            for spec in dict.fromkeys(s for e in experts.values() for s in e.expert.inputs)
        }
        for name, expert in experts.items():
            buffers = {spec.name: self._inputs[spec] for spec in expert.expert.inputs}
            with _naming(name):
                lane = expert.lane({key: b.memory for key, b in buffers.items()}, self._largest)
                self._expert_lanes.append(lane)
                self._streams.append(lane.stream)
                self._lanes[name] = BoundLane(cuda, self._resources, lane, [*buffers.values()])

    def _upload_seconds(self, wanted: InputBuffer) -> float:
        """Returns the device time of one upload, which began when the previous one ended."""
        previous = self._upload_started
        for buffer in self._inputs.values():
            if buffer is wanted:
                break
            previous = buffer.uploaded
        return self.cuda.elapsed_seconds(previous, wanted.uploaded)


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Names the expert in errors of CUDA, most often a lack of memory."""
    try:
        yield
    except CudaError as error:
        if error.lost:
            raise
        raise BackendError(
            f"Expert {name!r} does not fit on the GPU: {error} Use fewer slots or experts, or "
            f"build it for a smaller largest batch."
        ) from error
