"""Input and output buffers: allocated once, for the largest batch, and freed together."""

from __future__ import annotations

import logging
import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from runtime.backends import Outputs
from runtime.backends.gpu.cuda import Cuda, DeviceMemory, Event, Resource, Stream
from runtime.errors import CudaError
from runtime.manifest import Expert, InputSpec, output_shape

R = TypeVar("R", bound=Resource)

_log = logging.getLogger("agemoe")
_FLOAT_BYTES = 4


class Resources:
    """Resources of a device that are freed together, the latest first."""

    def __init__(self, cuda: Cuda) -> None:
        """Starts with no resources."""
        self._cuda = cuda
        self._held: list[Resource] = []

    @property
    def held(self) -> int:
        """Number of resources to free."""
        return len(self._held)

    def keep(self, resource: R) -> R:
        """Adds a resource and returns it."""
        self._held.append(resource)
        return resource

    def free(self) -> None:
        """Frees everything, as far as a failing device can; idempotent."""
        while self._held:
            try:
                self._cuda.free(self._held.pop())
            except CudaError as error:
                _log.log(logging.DEBUG if error.lost else logging.WARNING, "%s", error)


class InputBuffer:
    """Views of one input: written to pinned memory, read on the device."""

    def __init__(self, cuda: Cuda, resources: Resources, spec: InputSpec, largest: int) -> None:
        """Allocates memory for `largest` views."""
        self._cuda = cuda
        self._shape = (spec.height, spec.width, 3)
        self._view_bytes = spec.height * spec.width * 3
        self._host = resources.keep(cuda.host_memory(largest * self._view_bytes))
        self._pinned = self._host.array.reshape(largest, *self._shape)
        self.memory: DeviceMemory = resources.keep(cuda.device_memory(largest * self._view_bytes))
        self.uploaded: Event = resources.keep(cuda.event())

    def upload(self, views: NDArray[np.uint8], bucket: int, stream: Stream) -> None:
        """Enqueues a copy of uint8 RGB (N, height, width, 3), padded with black to `bucket` views.

        The event `uploaded` follows in the same stream.

        Raises:
            ValueError: the views have another size.
        """
        if views.shape[1:] != self._shape:
            raise ValueError(f"Expected views of shape (N, *{self._shape}), got {views.shape}.")
        self._pinned[: len(views)] = views
        self._pinned[len(views) : bucket] = 0
        self._cuda.upload(self.memory, self._host, bucket * self._view_bytes, stream)
        self._cuda.record(self.uploaded, stream)


class OutputBuffer:
    """One output: float32 (rows, *tail), written on the device, read from pinned memory."""

    def __init__(self, cuda: Cuda, resources: Resources, shape: tuple[int, ...]) -> None:
        """Allocates memory for an output of this shape, that of the largest batch."""
        self._cuda = cuda
        self.tail = shape[1:]
        self._row_bytes = _FLOAT_BYTES * math.prod(self.tail)
        self._host = resources.keep(cuda.host_memory(shape[0] * self._row_bytes))
        self.pinned: NDArray[np.float32] = self._host.array.view(np.float32).reshape(shape)
        self.memory: DeviceMemory = resources.keep(cuda.device_memory(shape[0] * self._row_bytes))

    def download(self, rows: int, stream: Stream) -> None:
        """Enqueues a copy of the first rows to the host."""
        self._cuda.download(self._host, self.memory, rows * self._row_bytes, stream)

    def fill_nan(self, stream: Stream) -> None:
        """Enqueues writing NaN to all memory."""
        self.pinned.fill(np.nan)
        self._cuda.upload(self.memory, self._host, self._host.array.size, stream)


class OutputBuffers:
    """All outputs of one expert's lane, by name."""

    def __init__(self, cuda: Cuda, resources: Resources, expert: Expert, largest: int) -> None:
        """Allocates memory for `largest` rows of each."""
        self._cuda = cuda
        self.buffers = {
            name: OutputBuffer(cuda, resources, output_shape(name, largest, expert.age_grid))
            for name in expert.outputs
        }

    def download(self, rows: int, stream: Stream) -> None:
        """Enqueues copies of the first rows to the host."""
        for buffer in self.buffers.values():
            buffer.download(rows, stream)

    def read(self, rows: int) -> Outputs:
        """Returns copies of the first rows; the downloads must be complete."""
        return {name: buffer.pinned[:rows].copy() for name, buffer in self.buffers.items()}

    def fill_nan(self, stream: Stream) -> None:
        """Fills all memory with NaN and waits for it, so that missing writes show."""
        for buffer in self.buffers.values():
            buffer.fill_nan(stream)
        self._cuda.synchronize(stream)
