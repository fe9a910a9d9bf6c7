"""Memory use of the GPU that runs the engines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from runtime.backends import all_on_cpu
from runtime.backends.names import parse_device
from runtime.errors import BackendError

if TYPE_CHECKING:
    from runtime.backends.gpu.cuda import Cuda


class GpuGauge:
    """Reads the memory use of the GPU that runs the engines."""

    def __init__(self, device: str, backends: Iterable[str]) -> None:
        """Opens the GPU, unless all experts run on the CPU."""
        self._cuda: Cuda | None = None
        if not all_on_cpu(backends):
            from runtime.backends.gpu.cuda_library import open_cuda

            _, ordinal = parse_device(device)
            self._cuda = open_cuda(ordinal)

    def read(self) -> tuple[int, int] | None:
        """Returns used and total bytes, over all processes; None without a GPU or on failure."""
        if self._cuda is None:
            return None
        try:
            with self._cuda.current():
                free = self._cuda.free_bytes()
        except BackendError:
            return None
        total = self._cuda.properties.total_bytes
        return total - free, total

    def close(self) -> None:
        """Releases the GPU."""
        if self._cuda is not None:
            self._cuda.close()
            self._cuda = None
