"""`cuda.bindings.driver` on the simulated device, returning `(CUresult, …)` tuples as it does.

Enforces: only simulated functions that the real module also has exist; the number of arguments is
checked; enumerations are passed where the real one requires them. Result codes, handle types and
constants are the real ones. A function that fails returns None for its outputs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from tests.gpu.fake_driver import SimulatedDriver
from tests.gpu.fake_streams import CudaFailure

real = importlib.import_module("cuda.bindings.driver")
TEXTS = {
    "CUDA_SUCCESS": "no error",
    "CUDA_ERROR_INVALID_VALUE": "invalid argument",
    "CUDA_ERROR_OUT_OF_MEMORY": "out of memory",
    "CUDA_ERROR_NOT_INITIALIZED": "initialization error",
    "CUDA_ERROR_NO_DEVICE": "no CUDA-capable device is detected",
    "CUDA_ERROR_INVALID_DEVICE": "invalid device ordinal",
    "CUDA_ERROR_INVALID_CONTEXT": "invalid device context",
    "CUDA_ERROR_ECC_UNCORRECTABLE": "uncorrectable ECC error encountered",
    "CUDA_ERROR_INVALID_HANDLE": "invalid resource handle",
    "CUDA_ERROR_NOT_READY": "device not ready",
    "CUDA_ERROR_ILLEGAL_ADDRESS": "an illegal memory access was encountered",
    "CUDA_ERROR_LAUNCH_FAILED": "unspecified launch failure",
}
"""The driver's texts of common errors; for others the simulator uses the name."""

OUTPUTS: dict[str, tuple[str, ...]] = {
    "cuCtxGetCurrent": ("CUcontext",),
    "cuCtxPopCurrent": ("CUcontext",),
    "cuDeviceGet": ("CUdevice",),
    "cuDevicePrimaryCtxRetain": ("CUcontext",),
    "cuEventCreate": ("CUevent",),
    "cuGraphInstantiate": ("CUgraphExec",),
    "cuMemAlloc": ("CUdeviceptr",),
    "cuStreamCreate": ("CUstream",),
    "cuStreamEndCapture": ("CUgraph",),
}
"""Types of a function's outputs, if they are not plain numbers or text."""

_ENUMERATIONS = {"cuDeviceGetAttribute": (0, "CUdevice_attribute")}
_ENUMERATIONS["cuStreamBeginCapture"] = (1, "CUstreamCaptureMode")
_OUTPUT_COUNTS = {"cuMemGetInfo": 2}
_NO_OUTPUT = """
    cuInit cuDevicePrimaryCtxRelease cuCtxPushCurrent cuStreamDestroy cuStreamQuery
    cuStreamSynchronize cuStreamWaitEvent cuEventDestroy cuEventRecord cuEventQuery cuMemFree
    cuMemFreeHost cuMemcpyHtoDAsync cuMemcpyDtoHAsync cuStreamBeginCapture cuGraphLaunch
    cuGraphDestroy cuGraphExecDestroy
"""


def functions(gpu: SimulatedDriver) -> dict[str, Callable[..., Any]]:
    """Returns the simulated functions by CUDA's name; they raise `CudaFailure`."""
    major, minor = gpu.capability
    attributes = {75: major, 76: minor}
    return {
        "cuInit": gpu.init,
        "cuDriverGetVersion": lambda: 13000,
        "cuDeviceGetCount": lambda: gpu.devices,
        "cuDeviceGet": gpu.device,
        "cuDeviceGetName": lambda length, device: _text(f"Simulated GPU {device}", length),
        "cuDeviceGetAttribute": lambda attribute, _device: attributes[attribute],
        "cuDeviceTotalMem": lambda _device: gpu.memory.total_bytes,
        "cuDevicePrimaryCtxRetain": gpu.retain,
        "cuDevicePrimaryCtxRelease": gpu.release,
        "cuCtxPushCurrent": gpu.push,
        "cuCtxPopCurrent": gpu.pop,
        "cuCtxGetCurrent": gpu.current_context,
        "cuMemGetInfo": lambda: (gpu.memory.free_bytes, gpu.memory.total_bytes),
        "cuMemAlloc": gpu.allocate_device,
        "cuMemFree": gpu.free_device,
        "cuMemHostAlloc": gpu.allocate_pinned,
        "cuMemFreeHost": gpu.free_pinned,
        "cuMemcpyHtoDAsync": gpu.upload,
        "cuMemcpyDtoHAsync": gpu.download,
        "cuStreamCreate": gpu.create_stream,
        "cuStreamDestroy": gpu.destroy_stream,
        "cuStreamQuery": gpu.query_stream,
        "cuStreamSynchronize": gpu.synchronize,
        "cuStreamWaitEvent": gpu.wait,
        "cuStreamBeginCapture": gpu.begin_capture,
        "cuStreamEndCapture": gpu.end_capture,
        "cuEventCreate": gpu.create_event,
        "cuEventDestroy": gpu.destroy_event,
        "cuEventRecord": gpu.record,
        "cuEventQuery": gpu.query_event,
        "cuEventElapsedTime": gpu.elapsed_ms,
        "cuGraphInstantiate": gpu.instantiate,
        "cuGraphLaunch": gpu.launch,
        "cuGraphDestroy": gpu.destroy_graph,
        "cuGraphExecDestroy": gpu.destroy_graph_exec,
    }


def _text(text: str, length: int) -> bytes:
    """Returns a text as the real bindings do: the whole buffer, which was blank before."""
    return (text.encode() + b"\0").ljust(length)


class FakeDriver(ModuleType):
    """The module; names that start with `cu` are simulated, all others are the real ones."""

    def __init__(self, gpu: SimulatedDriver) -> None:
        super().__init__("cuda.bindings.driver")
        self._gpu = gpu
        self._functions = functions(gpu)

    def __getattr__(self, name: str) -> Any:
        if name in self._functions and hasattr(real, name):
            return lambda *args: self._call(name, args)
        if name.startswith("cu"):
            raise AttributeError(f"{name} is not simulated")
        return getattr(real, name)

    def cuGetErrorName(self, error: Any) -> tuple[Any, bytes]:  # noqa: N802 - CUDA's name
        return real.CUresult.CUDA_SUCCESS, error.name.encode()

    def cuGetErrorString(self, error: Any) -> tuple[Any, bytes]:  # noqa: N802 - CUDA's name
        return real.CUresult.CUDA_SUCCESS, TEXTS.get(error.name, error.name).encode()

    def _call(self, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if name in _ENUMERATIONS:
            position, enumeration = _ENUMERATIONS[name]
            if not isinstance(args[position], getattr(real, enumeration)):
                raise TypeError(f"{name} requires a {enumeration}, got {args[position]!r}")
        try:
            value = self._gpu.call(name, self._functions[name], *map(int, args))
        except CudaFailure as failure:
            empty = 0 if name in _NO_OUTPUT.split() else _OUTPUT_COUNTS.get(name, 1)
            return getattr(real.CUresult, failure.name), *(None,) * empty
        return real.CUresult.CUDA_SUCCESS, *self._outputs(name, value)

    def _outputs(self, name: str, value: Any) -> tuple[Any, ...]:
        if name in _NO_OUTPUT.split():
            return ()
        values = value if isinstance(value, tuple) else (value,)
        types = OUTPUTS.get(name, ())
        return (
            tuple(getattr(real, kind)(item) for kind, item in zip(types, values, strict=False))
            or values
        )
