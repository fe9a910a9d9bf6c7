"""The few things of CUDA that the runtime needs, as one protocol.

Implementations: `cuda_python` on NVIDIA's cuda-python, `cuda_pycuda` on PyCUDA. Both work on the
device's primary context, which PyTorch, CuPy and ONNX Runtime in the same process share.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

LOST = frozenset(
    f"CUDA_ERROR_{name}"
    for name in (
        "DEINITIALIZED",
        "ECC_UNCORRECTABLE",
        "NVLINK_UNCORRECTABLE",
        "CONTAINED",
        "ILLEGAL_ADDRESS",
        "LAUNCH_TIMEOUT",
        "CONTEXT_IS_DESTROYED",
        "ASSERT",
        "HARDWARE_STACK_ERROR",
        "ILLEGAL_INSTRUCTION",
        "MISALIGNED_ADDRESS",
        "INVALID_ADDRESS_SPACE",
        "INVALID_PC",
        "LAUNCH_FAILED",
        "TENSOR_MEMORY_LEAK",
        "MPS_CLIENT_TERMINATED",
        "EXTERNAL_DEVICE",
    )
)
"""Errors after which, by CUDA's documentation, the process has to end or the context is gone."""


RECORDING = threading.Lock()
"""Held while a stream records, and by what waits for a whole device: CUDA allows no such wait then,
in no thread, and spoils the recording."""


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """A queue of work on the device; never the default one."""

    handle: int
    """CUstream, as other libraries take it."""
    native: Any


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """A mark in a stream, with the time at which the device reached it."""

    native: Any


@dataclass(frozen=True, slots=True, eq=False)
class HostMemory:
    """Pinned memory of the host, from and to which copies run by themselves."""

    array: NDArray[np.uint8]
    """All of it, one dimension."""
    native: Any


@dataclass(frozen=True, slots=True, eq=False)
class DeviceMemory:
    """Memory of the device."""

    pointer: int
    size_bytes: int
    native: Any


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Recorded work that can be started as a whole."""

    native: Any


Resource = Stream | Event | HostMemory | DeviceMemory | Graph


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a device is."""

    ordinal: int
    name: str
    compute_capability: str
    """Major and minor, `9.0`."""
    total_bytes: int
    driver: str
    """CUDA version of the driver, `13.0`."""


class Cuda(Protocol):
    """One device. Everything raises `CudaError` with what was being done and what CUDA said.

    All functions but `current` want to be called within `with cuda.current():`.
    """

    @property
    def library(self) -> str:
        """`cuda-python` or `pycuda`."""
        ...

    @property
    def has_graphs(self) -> bool:
        """Whether work can be recorded and replayed."""
        ...

    @property
    def facts(self) -> DeviceFacts:
        """What the device is."""
        ...

    def current(self) -> AbstractContextManager[None]:
        """Makes the primary context this thread's; afterwards the former one is again."""
        ...

    def free_bytes(self) -> int:
        """Device memory that is free now."""
        ...

    def stream(self) -> Stream:
        """A stream that does not wait for the default one."""
        ...

    def event(self) -> Event:
        """An event that keeps time."""
        ...

    def host_memory(self, size_bytes: int) -> HostMemory:
        """Pinned host memory."""
        ...

    def device_memory(self, size_bytes: int) -> DeviceMemory:
        """Device memory."""
        ...

    def upload(
        self, target: DeviceMemory, source: HostMemory, size_bytes: int, stream: Stream
    ) -> None:
        """Enqueues a copy of the first bytes to the device."""
        ...

    def download(
        self, target: HostMemory, source: DeviceMemory, size_bytes: int, stream: Stream
    ) -> None:
        """Enqueues a copy of the first bytes to the host."""
        ...

    def record(self, event: Event, stream: Stream) -> None:
        """Enqueues a mark."""
        ...

    def wait_for(self, event: Event, stream: Stream) -> None:
        """Lets a stream, not the host, wait until an event's last mark is reached."""
        ...

    def reached(self, event: Event) -> bool:
        """Whether the device has come to an event's last mark; also True before the first."""
        ...

    def elapsed_seconds(self, start: Event, end: Event) -> float:
        """Device time between two marks that were reached."""
        ...

    def synchronize(self, stream: Stream) -> None:
        """Waits until a stream has nothing left to do; not for the hot path."""
        ...

    def begin_capture(self, stream: Stream) -> None:
        """From now on, work enqueued in a stream is recorded instead of done."""
        ...

    def end_capture(self, stream: Stream) -> Graph:
        """Ends the recording; it has to be called even when the work could not be enqueued."""
        ...

    def launch(self, graph: Graph, stream: Stream) -> None:
        """Enqueues recorded work."""
        ...

    def free(self, *resources: Resource) -> None:
        """Frees what is no longer used by the device."""
        ...

    def close(self) -> None:
        """Lets the primary context go; harmless when repeated."""
        ...
