"""CUDA through NVIDIA's cuda-python: `cuda.bindings.driver`, from 12.9 on."""

# ruff: noqa: D102 - documented in the protocol Cuda

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from runtime.backends.gpu.cuda import (
    LOST_DEVICE_ERRORS,
    Cuda,
    DeviceMemory,
    DeviceProperties,
    Event,
    Graph,
    HostMemory,
    Resource,
    Stream,
    free_each,
)
from runtime.errors import BackendError, CudaError

_NAME_BYTES = 256


class CudaPython(Cuda):
    """One device, through `cuda.bindings.driver`."""

    library = "cuda-python"
    has_graphs = True

    def __init__(self, ordinal: int) -> None:
        """Retains the primary context.

        Raises:
            ImportError: cuda-python is not installed.
            BackendError: no driver is installed.
            CudaError: the device does not exist or cannot be used.
        """
        self._driver = _initialized_driver()
        self.properties = self.properties_of(ordinal)
        (self._device,) = self._call("looking for the device", "cuDeviceGet", ordinal)
        doing = f"opening device {ordinal}"
        (self._context,) = self._call(doing, "cuDevicePrimaryCtxRetain", self._device)
        self._closed = False

    @staticmethod
    def count() -> int:
        """Returns the number of devices; raises as the constructor does."""
        driver = _initialized_driver()
        (count,) = _call(driver, "counting the devices", "cuDeviceGetCount")
        return int(count)

    @staticmethod
    def properties_of(ordinal: int) -> DeviceProperties:
        """Returns a device's properties without opening it; raises as the constructor does."""
        driver = _initialized_driver()

        def read(function: str, *args: Any) -> Any:  # noqa: ANN401 - what CUDA returns
            return _call(driver, f"reading the properties of device {ordinal}", function, *args)[0]

        device = read("cuDeviceGet", ordinal)
        major = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        minor = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
        return DeviceProperties(
            ordinal=ordinal,
            name=read("cuDeviceGetName", _NAME_BYTES, device).partition(b"\0")[0].decode(),
            compute_capability=".".join(
                str(read("cuDeviceGetAttribute", part, device)) for part in (major, minor)
            ),
            total_bytes=read("cuDeviceTotalMem", device),
            driver=driver_version(read("cuDriverGetVersion")),
        )

    @contextmanager
    def current(self) -> Iterator[None]:
        self._call("making the context current", "cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("putting the former context back", "cuCtxPopCurrent")

    def free_bytes(self) -> int:
        free, _total = self._call("reading the free memory", "cuMemGetInfo")
        return int(free)

    def stream(self) -> Stream:
        flag = self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        (native,) = self._call("making a stream", "cuStreamCreate", int(flag))
        return Stream(int(native), native)

    def event(self) -> Event:
        flag = self._driver.CUevent_flags.CU_EVENT_DEFAULT
        (native,) = self._call("making an event", "cuEventCreate", int(flag))
        return Event(native)

    def host_memory(self, size_bytes: int) -> HostMemory:
        doing = f"allocating {size_bytes:,} bytes of pinned memory"
        flag = self._driver.CU_MEMHOSTALLOC_PORTABLE
        (address,) = self._call(doing, "cuMemHostAlloc", size_bytes, flag)
        memory = (ctypes.c_uint8 * size_bytes).from_address(address)
        return HostMemory(np.ctypeslib.as_array(memory), address)

    def device_memory(self, size_bytes: int) -> DeviceMemory:
        doing = f"allocating {size_bytes:,} bytes of device memory"
        (native,) = self._call(doing, "cuMemAlloc", size_bytes)
        return DeviceMemory(int(native), size_bytes, native)

    def upload(
        self, target: DeviceMemory, source: HostMemory, size_bytes: int, stream: Stream
    ) -> None:
        copied = (target.native, source.native, size_bytes, stream.native)
        self._call("copying to the device", "cuMemcpyHtoDAsync", *copied)

    def download(
        self, target: HostMemory, source: DeviceMemory, size_bytes: int, stream: Stream
    ) -> None:
        copied = (target.native, source.native, size_bytes, stream.native)
        self._call("copying from the device", "cuMemcpyDtoHAsync", *copied)

    def record(self, event: Event, stream: Stream) -> None:
        self._call("recording an event", "cuEventRecord", event.native, stream.native)

    def wait_for(self, event: Event, stream: Stream) -> None:
        self._call("ordering streams", "cuStreamWaitEvent", stream.native, event.native, 0)

    def query(self, event: Event) -> bool:
        (result,) = self._driver.cuEventQuery(event.native)
        if result == self._driver.CUresult.CUDA_ERROR_NOT_READY:
            return False
        _check(self._driver, "waiting for the device", result)
        return True

    def elapsed_seconds(self, start: Event, end: Event) -> float:
        marks = (start.native, end.native)
        (milliseconds,) = self._call("reading the device's clock", "cuEventElapsedTime", *marks)
        return float(milliseconds) / 1e3

    def synchronize(self, stream: Stream) -> None:
        self._call("waiting for a stream", "cuStreamSynchronize", stream.native)

    def begin_capture(self, stream: Stream) -> None:
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("beginning a graph", "cuStreamBeginCapture", stream.native, mode)

    def end_capture(self, stream: Stream) -> Graph:
        (graph,) = self._call("ending a graph", "cuStreamEndCapture", stream.native)
        try:
            (native,) = self._call("instantiating a graph", "cuGraphInstantiate", graph, 0)
        finally:
            self._call("freeing a captured graph", "cuGraphDestroy", graph)
        return Graph(native)

    def launch(self, graph: Graph, stream: Stream) -> None:
        self._call("launching a graph", "cuGraphLaunch", graph.native, stream.native)

    def free(self, *resources: Resource) -> None:
        free_each(resources, self._free)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._call("closing the device", "cuDevicePrimaryCtxRelease", self._device)

    def _free(self, resource: Resource) -> None:
        kind, function = _FREED[type(resource)]
        self._call(f"freeing {kind}", function, resource.native)

    def _call(self, doing: str, function: str, *args: Any) -> tuple[Any, ...]:  # noqa: ANN401
        return _call(self._driver, doing, function, *args)


_FREED: dict[type, tuple[str, str]] = {
    Stream: ("a stream", "cuStreamDestroy"),
    Event: ("an event", "cuEventDestroy"),
    HostMemory: ("pinned memory", "cuMemFreeHost"),
    DeviceMemory: ("device memory", "cuMemFree"),
    Graph: ("a graph", "cuGraphExecDestroy"),
}


def driver_version(number: int) -> str:
    """Formats CUDA's version number: 13000 is `13.0`."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _initialized_driver() -> ModuleType:
    driver = importlib.import_module("cuda.bindings.driver")
    try:
        (result,) = driver.cuInit(0)
    except RuntimeError as error:  # the bindings' own where the driver's library is missing
        raise BackendError(
            f"There is no NVIDIA driver on this machine (cuda-python: {error}). Install one, or "
            "use device='cpu'."
        ) from error
    _check(driver, "initializing the driver", result)
    return driver


def _call(driver: ModuleType, doing: str, function: str, *args: Any) -> tuple[Any, ...]:  # noqa: ANN401
    """Calls a function of the driver and returns its outputs.

    Raises:
        CudaError: its result is not CUDA_SUCCESS.
        BackendError: the driver does not have the function.
    """
    try:
        result, *outputs = getattr(driver, function)(*args)
    except RuntimeError as error:  # the bindings' own where they are newer than the driver
        raise BackendError(
            f"CUDA failed while {doing}: {error}. The NVIDIA driver is too old for this "
            f"cuda-python: install a newer driver, or an older cuda-bindings."
        ) from error
    _check(driver, doing, result)
    return tuple(outputs)


def _check(driver: ModuleType, doing: str, result: Any) -> None:  # noqa: ANN401
    """Raises `CudaError` unless a result is CUDA_SUCCESS."""
    if result != driver.CUresult.CUDA_SUCCESS:
        raise _error(driver, doing, result)


def _error(driver: ModuleType, doing: str, result: Any) -> CudaError:  # noqa: ANN401
    known, text = driver.cuGetErrorString(result)
    described = known == driver.CUresult.CUDA_SUCCESS
    words = text.decode(errors="replace") if described else f"code {int(result)}"
    name = getattr(result, "name", f"CUDA_ERROR_{int(result)}")
    return CudaError(doing, name, words, lost=name in LOST_DEVICE_ERRORS)
