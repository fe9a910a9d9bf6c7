"""Which library speaks to CUDA, and which devices there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from runtime.backends.gpu.cuda import Cuda, DeviceFacts
from runtime.backends.gpu.cuda_pycuda import PyCuda
from runtime.backends.gpu.cuda_python import CudaPython
from runtime.errors import BackendError, CudaError

_T = TypeVar("_T")


class CudaLibrary(Protocol):
    """A class that implements `Cuda`; everything raises `ImportError` where it is not installed."""

    def __call__(self, ordinal: int, /) -> Cuda:
        """Opens a device."""
        ...

    def count(self) -> int:
        """How many devices there are."""
        ...

    def facts_of(self, ordinal: int) -> DeviceFacts:
        """What a device is."""
        ...


LIBRARIES: dict[str, CudaLibrary] = {"cuda-python": CudaPython, "pycuda": PyCuda}
"""By name, the preferred one first."""


@dataclass(frozen=True, slots=True)
class CudaDevices:
    """What CUDA finds on this machine."""

    devices: tuple[DeviceFacts, ...]
    reason: str | None
    """Why there is none; None where there is one."""


def open_cuda(ordinal: int, library: str | None = None) -> Cuda:
    """Opens a device.

    Args:
        ordinal: of the device, as CUDA counts them.
        library: `cuda-python` or `pycuda`; None takes the first that is installed.

    Raises:
        BackendError: the library, the driver or the device is not there.
    """

    def opened(chosen: CudaLibrary) -> Cuda:
        count = _count(chosen)
        if not 0 <= ordinal < count:
            raise BackendError(
                f"There is no CUDA device {ordinal}; the driver finds {count}, counted from 0. "
                "Choose another one (CUDA_VISIBLE_DEVICES hides some), or use device='cpu'."
            )
        return chosen(ordinal)

    return _with_installed(opened, library)


def cuda_devices(library: str | None = None) -> CudaDevices:
    """All devices, or why there is none; opens none and raises nothing.

    Args:
        library: as for `open_cuda`.
    """

    def listed(chosen: CudaLibrary) -> tuple[DeviceFacts, ...]:
        return tuple(chosen.facts_of(ordinal) for ordinal in range(_count(chosen)))

    try:
        devices = _with_installed(listed, library)
    except BackendError as error:
        return CudaDevices((), str(error))
    return CudaDevices(devices, None if devices else "The NVIDIA driver finds no device.")


def _count(library: CudaLibrary) -> int:
    try:
        return library.count()
    except CudaError as error:
        if error.name != "CUDA_ERROR_NO_DEVICE":
            raise
        return 0


def _with_installed(use: Callable[[CudaLibrary], _T], library: str | None) -> _T:
    if library is not None and library not in LIBRARIES:
        raise BackendError(
            f"There is no CUDA library {library!r}. Choose one of {', '.join(LIBRARIES)}."
        )
    missing = []
    for name in [library] if library else LIBRARIES:
        try:
            return use(LIBRARIES[name])
        except ImportError as error:
            missing.append(f"{name}: {error}")
    raise BackendError(
        f"CUDA cannot be used from Python ({'; '.join(missing)}). Install agemoe-runtime[gpu] or "
        "agemoe-runtime[tensorrt] for cuda-python, or agemoe-runtime[pycuda]."
    )
