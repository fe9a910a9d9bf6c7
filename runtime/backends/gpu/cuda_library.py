"""Choice of the CUDA library, and the list of devices."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.backends.gpu.cuda import Cuda, DeviceProperties
from runtime.backends.gpu.cuda_pycuda import PyCuda
from runtime.backends.gpu.cuda_python import CudaPython
from runtime.errors import BackendError, CudaError
from runtime.names import suggestion

CudaLibrary = CudaPython | PyCuda
LIBRARIES: dict[str, type[CudaLibrary]] = {"cuda-python": CudaPython, "pycuda": PyCuda}
"""By name, the preferred one first; every method raises `ImportError` if it is not installed."""


@dataclass(frozen=True, slots=True)
class CudaDeviceList:
    """The CUDA devices of this machine."""

    devices: tuple[DeviceProperties, ...]
    reason: str | None
    """The reason if there is no device, else None."""


def open_cuda(ordinal: int, library: str | None = None) -> Cuda:
    """Opens a device with `cuda-python`, `pycuda` or, by default, the first that is installed.

    Raises `BackendError` if the library, the driver or the device is missing.
    """
    chosen, count = _installed(library)
    if not 0 <= ordinal < count:
        raise BackendError(
            f"There is no CUDA device {ordinal}; the driver finds {devices_found(count)}. "
            "Choose another one (CUDA_VISIBLE_DEVICES hides some), or use device='cpu'."
        )
    return chosen(ordinal)


def cuda_devices(library: str | None = None) -> CudaDeviceList:
    """Lists all devices, or the reason why there is none; opens none and raises nothing."""
    try:
        chosen, count = _installed(library)
        devices = tuple(chosen.properties_of(ordinal) for ordinal in range(count))
    except BackendError as error:
        return CudaDeviceList((), str(error))
    return CudaDeviceList(devices, None if devices else "The NVIDIA driver finds no device.")


def devices_found(count: int) -> str:
    """Returns the number of devices and their names, `1 CUDA device: cuda:0`."""
    if count <= 1:
        return "1 CUDA device: cuda:0" if count else "no CUDA device"
    return f"{count} CUDA devices: cuda:0 to cuda:{count - 1}"


def _installed(library: str | None) -> tuple[type[CudaLibrary], int]:
    """Returns a library, the first that is installed if none is named, and its device count."""
    if library is not None and library not in LIBRARIES:
        hint = suggestion(library, LIBRARIES)
        raise BackendError(
            f"There is no CUDA library {library!r}. Choose one of {', '.join(LIBRARIES)}.{hint}"
        )
    missing = []
    for name in [library] if library else LIBRARIES:
        try:
            return LIBRARIES[name], _count(LIBRARIES[name])
        except ImportError as error:
            missing.append(f"{name}: {error}")
    raise BackendError(
        f"CUDA cannot be used from Python ({'; '.join(missing)}). Install agemoe-runtime[gpu] or "
        "agemoe-runtime[tensorrt] for cuda-python, or agemoe-runtime[pycuda]."
    )


def _count(library: type[CudaLibrary]) -> int:
    try:
        return library.count()
    except CudaError as error:
        if error.name != "CUDA_ERROR_NO_DEVICE":
            raise
        return 0
