"""The CUDA driver's memory, streams, events and graphs, without its naming.

Enforces, in addition to `fake_device`, `fake_streams` and `fake_memory`: neither the default stream
nor a stream that synchronizes with it is used, events without timing are not read, captures are
thread-local, copies stay within live allocations, resources in use are not freed, a stream that
captures is neither synchronized nor queried (CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED), a captured
event is not queried, a capture does not wait for work outside it, and graphs use live memory only.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from tests.gpu.fake_device import SimulatedDevice
from tests.gpu.fake_streams import (
    Capture,
    CudaFailure,
    Event,
    RuleBrokenError,
    Span,
    Stream,
    Work,
    graph_work,
)

_NON_BLOCKING = 1
_DISABLE_TIMING = 2
_THREAD_LOCAL = 1


class SimulatedDriver(SimulatedDevice):
    """Memory, streams, events and graphs of one simulated device."""

    def __init__(self, seed: int, **device: Any) -> None:
        super().__init__(seed, **device)
        self._events: dict[int, Event] = {}
        self._graphs: dict[int, tuple[Work, ...]] = {}
        self._graph_execs: dict[int, tuple[Work, ...]] = {}
        self._next_handle = 0x1000

    # Memory.

    def allocate_device(self, size: int) -> int:
        return self.memory.allocate(size, "device").address

    def allocate_pinned(self, size: int, _flags: int) -> int:
        return self.memory.allocate(size, "pinned").address

    def free_device(self, address: int) -> None:
        self._free_memory(address, "device")

    def free_pinned(self, address: int) -> None:
        self._free_memory(address, "pinned")

    def _free_memory(self, address: int, kind: str) -> None:
        block = self.memory.block(address, kind)
        self._forbid_in_use(block.span, f"freeing {block}")
        self.memory.free(block)

    def _forbid_in_use(self, span: Span, doing: str) -> None:
        for work in self.streams.pending():
            if work.touches((span,)):
                self.fault(f"{doing} that {work.label} still uses")

    def upload(self, target: int, source: int, size: int, stream: int) -> None:
        self._copy("upload", (target, "device"), (source, "pinned"), size, stream)

    def download(self, target: int, source: int, size: int, stream: int) -> None:
        self._copy("download", (target, "pinned"), (source, "device"), size, stream)

    def _copy(
        self, label: str, target: tuple[int, str], source: tuple[int, str], size: int, stream: int
    ) -> None:
        into = self.memory.view(target[0], size, target[1])
        out_of = self.memory.view(source[0], size, source[1])
        if into is None or out_of is None:
            raise CudaFailure("CUDA_ERROR_INVALID_VALUE")
        work = Work(
            label,
            lambda: np.copyto(into, out_of),
            reads=((source[0], source[0] + size),),
            writes=((target[0], target[0] + size),),
            source=out_of if source[1] == "pinned" else None,
            target=into if target[1] == "pinned" else None,
        )
        self.enqueue(stream, work)

    # Streams and events.

    def handle(self) -> int:
        self._next_handle += 1
        return self._next_handle

    def create_stream(self, flags: int) -> int:
        if flags != _NON_BLOCKING:
            self.fault("a stream that synchronizes with the default one")
        handle = self.handle()
        self.streams.by_handle[handle] = Stream(handle)
        return handle

    def stream(self, handle: int) -> Stream:
        if handle == 0:
            self.fault("the default stream was used")
        if handle not in self.streams.by_handle:
            raise CudaFailure("CUDA_ERROR_INVALID_HANDLE")
        return self.streams.by_handle[handle]

    def destroy_stream(self, handle: int) -> None:
        if self.stream(handle).queue:
            self.fault("destroying a stream that has work left")
        self._forbid_in_use((handle, handle + 1), "destroying a stream")
        del self.streams.by_handle[handle]

    def enqueue(self, handle: int, work: Work) -> None:
        """Appends work to a stream or to its capture."""
        stream = self.stream(handle)
        if stream.capture:
            stream.capture.work.append(work)
            return
        try:
            self.streams.enqueue(stream, work)
        except RuleBrokenError as error:
            self.fault(str(error))

    def synchronize(self, handle: int) -> None:
        stream = self.stream(handle)
        self._invalidate_capture(stream)
        self.run_until(lambda: not stream.queue, "synchronizing a stream")

    def query_stream(self, handle: int) -> None:
        stream = self.stream(handle)
        self._invalidate_capture(stream)
        if stream.queue:
            raise CudaFailure("CUDA_ERROR_NOT_READY")

    def _invalidate_capture(self, stream: Stream) -> None:
        if stream.capture:
            stream.capture.broken = True
            raise CudaFailure("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")

    def forbid_capture(self) -> None:
        """Fails a synchronization of the whole device if a stream captures."""
        for stream in self.streams.by_handle.values():
            self._invalidate_capture(stream)

    def create_event(self, flags: int) -> int:
        handle = self.handle()
        self._events[handle] = Event(handle, timed=not flags & _DISABLE_TIMING)
        return handle

    def event(self, handle: int) -> Event:
        if handle not in self._events:
            raise CudaFailure("CUDA_ERROR_INVALID_HANDLE")
        return self._events[handle]

    def destroy_event(self, handle: int) -> None:
        event = self.event(handle)
        if event.mark and not event.mark.done and not event.captured and not self.lost:
            self.fault("destroying an event that is still pending")
        del self._events[handle]

    def record(self, handle: int, stream: int) -> None:
        event, capture = self.event(handle), self.stream(stream).capture
        event.captured = capture is not None
        if capture:
            capture.events.add(handle)
            return
        event.at_seconds = None
        event.mark = Work(f"record {handle:#x}")
        event.mark.run = lambda: setattr(event, "at_seconds", self.streams.seconds)
        self.enqueue(stream, event.mark)

    def wait(self, stream: int, handle: int, _flags: int) -> None:
        event, capture = self.event(handle), self.stream(stream).capture
        inside = capture is not None and handle in capture.events
        if event.captured and not inside:
            self.fault("a stream joins another one's capture, which is not simulated")
        if capture and not inside and event.mark is not None:
            capture.broken = True
            raise CudaFailure("CUDA_ERROR_STREAM_CAPTURE_ISOLATION")
        if not capture and event.mark is not None:
            self.enqueue(stream, Work(f"wait for {handle:#x}", after=event.mark))

    def query_event(self, handle: int) -> None:
        event = self.event(handle)
        if event.captured:
            raise CudaFailure("CUDA_ERROR_CAPTURED_EVENT")
        if event.mark is not None and not event.mark.done:
            raise CudaFailure("CUDA_ERROR_NOT_READY")

    def elapsed_ms(self, start: int, end: int) -> float:
        marks = [self.event(start), self.event(end)]
        if any(event.mark is None or event.captured or not event.timed for event in marks):
            raise CudaFailure("CUDA_ERROR_INVALID_HANDLE")
        begun, ended = (event.at_seconds for event in marks)
        if begun is None or ended is None:
            raise CudaFailure("CUDA_ERROR_NOT_READY")
        return (ended - begun) * 1e3

    # Graphs.

    def begin_capture(self, handle: int, mode: int) -> None:
        stream = self.stream(handle)
        if mode != _THREAD_LOCAL:
            self.fault("a capture that allocations of other threads would invalidate")
        if stream.capture:
            raise CudaFailure("CUDA_ERROR_ILLEGAL_STATE")
        stream.capture = Capture(threading.get_ident())

    def end_capture(self, handle: int) -> int:
        stream = self.stream(handle)
        capture = stream.capture
        if capture is None:
            raise CudaFailure("CUDA_ERROR_ILLEGAL_STATE")
        if capture.thread != threading.get_ident():
            raise CudaFailure("CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD")
        stream.capture = None
        if capture.broken:
            raise CudaFailure("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
        graph = self.handle()
        self._graphs[graph] = tuple(capture.work)
        return graph

    def _known(self, graphs: dict[int, tuple[Work, ...]], handle: int) -> tuple[Work, ...]:
        if handle not in graphs:
            raise CudaFailure("CUDA_ERROR_INVALID_VALUE")
        return graphs[handle]

    def instantiate(self, graph: int, _flags: int) -> int:
        work = self._known(self._graphs, graph)
        handle = self.handle()
        self._graph_execs[handle] = work
        return handle

    def launch(self, graph_exec: int, stream: int) -> None:
        parts = self._known(self._graph_execs, graph_exec)
        self._check_memory_of(parts)
        token = (graph_exec, graph_exec + 1)
        self.enqueue(stream, graph_work(f"graph of {_labels(parts)}", parts, token))

    def _check_memory_of(self, parts: tuple[Work, ...]) -> None:
        for start, end in (span for part in parts for span in (*part.reads, *part.writes)):
            known = start < self._next_handle or any(
                self.memory.view(start, end - start, kind) is not None
                for kind in ("device", "pinned")
            )
            if not known:
                self.fault("a graph uses memory that was freed")

    def destroy_graph(self, graph: int) -> None:
        self._known(self._graphs, graph)
        del self._graphs[graph]

    def destroy_graph_exec(self, graph_exec: int) -> None:
        self._known(self._graph_execs, graph_exec)
        self._forbid_in_use((graph_exec, graph_exec + 1), "destroying a graph")
        del self._graph_execs[graph_exec]

    def leaks(self) -> list[str]:
        """Describes the resources that were not freed."""
        counts = {
            "stream": len(self.streams.by_handle),
            "event": len(self._events),
            "graph": len(self._graphs),
            "instantiated graph": len(self._graph_execs),
            "retained primary context": sum(self._retained.values()),
        }
        found = [f"{count} {name}(s)" for name, count in counts.items() if count]
        return found + self.memory.left()


def _labels(parts: tuple[Work, ...]) -> str:
    return ", ".join(part.label for part in parts)
