"""Lanes: an expert's execution context, stream and output buffers for one batch at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

from runtime.backends.gpu.buffers import InputBuffer, OutputBuffers, Resources
from runtime.backends.gpu.cuda import Cuda, DeviceMemory, Event, Stream
from runtime.manifest import Expert


class ExpertLane(Protocol):
    """One expert's part of a slot: at most one batch at a time."""

    stream: Stream
    """Stream that the lane enqueues its work in."""
    outputs: OutputBuffers
    """Buffers of the outputs, valid when the stream has reached the end of the batch."""

    def submit(self, work: Callable[[], None]) -> Future[None]:
        """Calls `work`, which enqueues, on the lane's thread; the future holds its exception."""

    def enqueue(self, bucket: int, executed: Event) -> None:
        """Enqueues the execution of `bucket` views, the event `executed`, and the downloads.

        Where execution and downloads are one CUDA graph, the event follows both.
        """

    def warm_up(self, buckets: Sequence[int]) -> None:
        """Runs each batch size on the views in the input buffers, and waits for it."""

    def free(self) -> None:
        """Frees everything; idempotent. No work may be in progress."""


class CudaExpert(Protocol):
    """One expert on a GPU; its lanes share the weights."""

    expert: Expert
    """Its manifest entry."""

    @property
    def backend(self) -> str:
        """Name of the backend, for example `tensorrt`."""

    def lane(self, inputs: Mapping[str, DeviceMemory], largest: int) -> ExpertLane:
        """Returns a new lane that reads at most `largest` views from the memory, by input name."""

    def close(self) -> None:
        """Frees everything; idempotent. The lanes must have been freed."""


class CompletionEvent:
    """Event after the work that a batch enqueued in one stream, even if enqueuing failed midway."""

    def __init__(self, cuda: Cuda, event: Event, stream: Stream) -> None:
        """Wraps an event; nothing is enqueued yet, so it counts as complete."""
        self.event = event
        self._cuda = cuda
        self._stream = stream
        self._recorded = True

    @contextlib.contextmanager
    def record_after(self) -> Iterator[None]:
        """Records the event after the work enqueued inside, or at the next query if that fails."""
        self._recorded = False
        yield
        self._record()

    def query(self) -> bool:
        """Returns True if the device has reached the event."""
        if not self._recorded:
            self._record()
        return self._cuda.query(self.event)

    def _record(self) -> None:
        self._cuda.record(self.event, self._stream)
        self._recorded = True


class BoundLane:
    """An expert's lane with the input buffers and events of its slot."""

    def __init__(
        self, cuda: Cuda, resources: Resources, lane: ExpertLane, inputs: Sequence[InputBuffer]
    ) -> None:
        """Creates the events."""
        self.expert_lane = lane
        self.inputs = inputs
        self.started = resources.keep(cuda.event())
        self.executed = resources.keep(cuda.event())
        self.done = CompletionEvent(cuda, resources.keep(cuda.event()), lane.stream)
        self._cuda = cuda

    def launch(self, bucket: int) -> None:
        """Enqueues the expert's work for a batch, after its uploads."""
        stream = self.expert_lane.stream
        with self._cuda.current(), self.done.record_after():
            for buffer in self.inputs:
                self._cuda.wait_for(buffer.uploaded, stream)
            self._cuda.record(self.started, stream)
            self.expert_lane.enqueue(bucket, self.executed)
