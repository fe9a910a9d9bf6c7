"""The part of CUDA that the runtime needs, as one protocol.

Implementations: `cuda_python` on NVIDIA's cuda-python, `cuda_pycuda` on PyCUDA. Both use the
device's primary context, which PyTorch, CuPy and ONNX Runtime in the same process share.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.errors import CudaError

_LOST = """
    DEINITIALIZED ECC_UNCORRECTABLE NVLINK_UNCORRECTABLE CONTAINED ILLEGAL_ADDRESS LAUNCH_TIMEOUT
    CONTEXT_IS_DESTROYED ASSERT HARDWARE_STACK_ERROR ILLEGAL_INSTRUCTION MISALIGNED_ADDRESS
    INVALID_ADDRESS_SPACE INVALID_PC LAUNCH_FAILED TENSOR_MEMORY_LEAK MPS_CLIENT_TERMINATED
    EXTERNAL_DEVICE
"""
LOST_DEVICE_ERRORS = frozenset(f"CUDA_ERROR_{name}" for name in _LOST.split())
"""Errors after which, by CUDA's documentation, the process must end or the context is gone."""

CAPTURE_LOCK = threading.Lock()
"""Held during a stream capture, and by code that synchronizes a whole device: during a capture CUDA
refuses that in every thread, and invalidates the capture."""


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """A queue of work on the device; never the default one."""

    handle: int
    """CUstream, as other libraries expect it."""
    native: Any


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """A point in a stream, with the time at which the device reached it."""

    native: Any


@dataclass(frozen=True, slots=True, eq=False)
class HostMemory:
    """Pinned host memory, from and to which copies run asynchronously."""

    array: NDArray[np.uint8]
    """All of it, one dimension."""
    native: Any


@dataclass(frozen=True, slots=True, eq=False)
class DeviceMemory:
    """Device memory."""

    pointer: int
    size_bytes: int
    native: Any


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """An instantiated CUDA graph."""

    native: Any


Resource = Stream | Event | HostMemory | DeviceMemory | Graph


@dataclass(frozen=True, slots=True)
class DeviceProperties:
    """Properties of a device."""

    ordinal: int
    name: str
    compute_capability: str
    """Major and minor version, `9.0`."""
    total_bytes: int
    driver: str
    """Highest CUDA version that the driver supports, `13.0`."""


class Cuda(Protocol):
    """One device. Everything raises `CudaError` with the operation and CUDA's error.

    All methods but `current` and `close` must be called within `with cuda.current():`.
    """

    library: str
    """`cuda-python` or `pycuda`."""
    has_graphs: bool
    """True if CUDA graphs are available; without them, captures raise `BackendError`."""
    properties: DeviceProperties

    def current(self) -> AbstractContextManager[None]:
        """Makes the primary context current in this thread; restores the former one on exit."""

    def free_bytes(self) -> int:
        """Returns the device memory that is free now."""

    def stream(self) -> Stream:
        """Creates a non-blocking stream, which does not synchronize with the default one."""

    def event(self) -> Event:
        """Creates an event with timing."""

    def host_memory(self, size_bytes: int) -> HostMemory:
        """Allocates pinned host memory, usable in all contexts."""

    def device_memory(self, size_bytes: int) -> DeviceMemory:
        """Allocates device memory."""

    def upload(
        self, target: DeviceMemory, source: HostMemory, size_bytes: int, stream: Stream
    ) -> None:
        """Enqueues a copy of the first bytes to the device."""

    def download(
        self, target: HostMemory, source: DeviceMemory, size_bytes: int, stream: Stream
    ) -> None:
        """Enqueues a copy of the first bytes to the host."""

    def record(self, event: Event, stream: Stream) -> None:
        """Enqueues an event."""

    def wait_for(self, event: Event, stream: Stream) -> None:
        """Makes a stream wait for an event; the host does not wait."""

    def query(self, event: Event) -> bool:
        """Returns True if the device has reached an event, or it was never recorded."""

    def elapsed_seconds(self, start: Event, end: Event) -> float:
        """Returns the device time between two events that were reached."""

    def synchronize(self, stream: Stream) -> None:
        """Waits until a stream is empty; not for the hot path."""

    def begin_capture(self, stream: Stream) -> None:
        """Starts capturing: work enqueued in the stream is recorded instead of executed."""

    def end_capture(self, stream: Stream) -> Graph:
        """Ends a capture; must be called even if enqueuing the work failed."""

    def launch(self, graph: Graph, stream: Stream) -> None:
        """Enqueues a graph."""

    def free(self, *resources: Resource) -> None:
        """Frees resources that the device no longer uses, then raises the first error."""

    def close(self) -> None:
        """Releases the primary context; idempotent."""


def free_each(resources: Iterable[Resource], free: Callable[[Resource], None]) -> None:
    """Frees all resources, then raises the first error."""
    failed: list[CudaError] = []
    for resource in resources:
        try:
            free(resource)
        except CudaError as error:
            failed.append(error)
    if failed:
        raise failed[0]
