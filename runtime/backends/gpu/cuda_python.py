"""CUDA through NVIDIA's cuda-python: `cuda.bindings.driver`, from 12.9 on."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from runtime.backends.gpu.cuda import (
    LOST,
    DeviceFacts,
    DeviceMemory,
    Event,
    Graph,
    HostMemory,
    Resource,
    Stream,
)
from runtime.errors import BackendError, CudaError

_NAME_BYTES = 256


class CudaPython:
    """One device by `cuda.bindings.driver`."""

    library = "cuda-python"
    has_graphs = True

    def __init__(self, ordinal: int) -> None:
        """Retains the primary context.

        Args:
            ordinal: of the device, as CUDA counts them.

        Raises:
            ImportError: cuda-python is not installed.
            BackendError: there is no driver.
            CudaError: there is no such device, or it cannot be used.
        """
        self._driver = _initialized_driver()
        self.facts = self.facts_of(ordinal)
        (self._device,) = self._call("looking for the device", "cuDeviceGet", ordinal)
        doing = f"opening device {ordinal}"
        (self._context,) = self._call(doing, "cuDevicePrimaryCtxRetain", self._device)
        self._closed = False

    @staticmethod
    def count() -> int:
        """How many devices there are; raises as the constructor does."""
        driver = _initialized_driver()
        (count,) = _call(driver, "counting the devices", "cuDeviceGetCount")
        return int(count)

    @staticmethod
    def facts_of(ordinal: int) -> DeviceFacts:
        """What a device is, without opening it; raises as the constructor does."""
        driver = _initialized_driver()

        def ask(function: str, *args: Any) -> Any:  # noqa: ANN401 - what CUDA answers
            return _call(driver, f"asking what device {ordinal} is", function, *args)[0]

        device = ask("cuDeviceGet", ordinal)
        major = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        minor = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
        return DeviceFacts(
            ordinal=ordinal,
            name=ask("cuDeviceGetName", _NAME_BYTES, device).partition(b"\0")[0].decode(),
            compute_capability=".".join(
                str(ask("cuDeviceGetAttribute", part, device)) for part in (major, minor)
            ),
            total_bytes=ask("cuDeviceTotalMem", device),
            driver=driver_version(ask("cuDriverGetVersion")),
        )

    @contextmanager
    def current(self) -> Iterator[None]:
        """Makes the primary context this thread's; afterwards the former one is again."""
        self._call("making the context current", "cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("putting the former context back", "cuCtxPopCurrent")

    def free_bytes(self) -> int:
        """Device memory that is free now."""
        free, _total = self._call("asking for free memory", "cuMemGetInfo")
        return int(free)

    def stream(self) -> Stream:
        """A stream that does not wait for the default one."""
        flag = self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        (native,) = self._call("making a stream", "cuStreamCreate", int(flag))
        return Stream(int(native), native)

    def event(self) -> Event:
        """An event that keeps time."""
        flag = self._driver.CUevent_flags.CU_EVENT_DEFAULT
        (native,) = self._call("making an event", "cuEventCreate", int(flag))
        return Event(native)

    def host_memory(self, size_bytes: int) -> HostMemory:
        """Pinned host memory, in use of all contexts."""
        doing = f"allocating {size_bytes:,} bytes of pinned memory"
        flag = self._driver.CU_MEMHOSTALLOC_PORTABLE
        (address,) = self._call(doing, "cuMemHostAlloc", size_bytes, flag)
        memory = (ctypes.c_uint8 * size_bytes).from_address(address)
        return HostMemory(np.ctypeslib.as_array(memory), address)

    def device_memory(self, size_bytes: int) -> DeviceMemory:
        """Device memory."""
        doing = f"allocating {size_bytes:,} bytes of device memory"
        (native,) = self._call(doing, "cuMemAlloc", size_bytes)
        return DeviceMemory(int(native), size_bytes, native)

    def upload(
        self, target: DeviceMemory, source: HostMemory, size_bytes: int, stream: Stream
    ) -> None:
        """Enqueues a copy of the first bytes to the device."""
        copied = (target.native, source.native, size_bytes, stream.native)
        self._call("copying to the device", "cuMemcpyHtoDAsync", *copied)

    def download(
        self, target: HostMemory, source: DeviceMemory, size_bytes: int, stream: Stream
    ) -> None:
        """Enqueues a copy of the first bytes to the host."""
        copied = (target.native, source.native, size_bytes, stream.native)
        self._call("copying from the device", "cuMemcpyDtoHAsync", *copied)

    def record(self, event: Event, stream: Stream) -> None:
        """Enqueues a mark."""
        self._call("recording an event", "cuEventRecord", event.native, stream.native)

    def wait_for(self, event: Event, stream: Stream) -> None:
        """Lets a stream, not the host, wait until an event's last mark is reached."""
        self._call("ordering streams", "cuStreamWaitEvent", stream.native, event.native, 0)

    def reached(self, event: Event) -> bool:
        """Whether the device has come to an event's last mark; also True before the first."""
        (result,) = self._driver.cuEventQuery(event.native)
        if result == self._driver.CUresult.CUDA_ERROR_NOT_READY:
            return False
        _check(self._driver, "waiting for the device", result)
        return True

    def elapsed_seconds(self, start: Event, end: Event) -> float:
        """Device time between two marks that were reached."""
        marks = (start.native, end.native)
        (milliseconds,) = self._call("reading the device's clock", "cuEventElapsedTime", *marks)
        return float(milliseconds) / 1e3

    def synchronize(self, stream: Stream) -> None:
        """Waits until a stream has nothing left to do; not for the hot path."""
        self._call("waiting for a stream", "cuStreamSynchronize", stream.native)

    def begin_capture(self, stream: Stream) -> None:
        """From now on, work enqueued in a stream is recorded instead of done."""
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("beginning a graph", "cuStreamBeginCapture", stream.native, mode)

    def end_capture(self, stream: Stream) -> Graph:
        """Ends the recording; it has to be called even when the work could not be enqueued."""
        (graph,) = self._call("ending a graph", "cuStreamEndCapture", stream.native)
        try:
            (native,) = self._call("instantiating a graph", "cuGraphInstantiate", graph, 0)
        finally:
            self._call("freeing a graph's recording", "cuGraphDestroy", graph)
        return Graph(native)

    def launch(self, graph: Graph, stream: Stream) -> None:
        """Enqueues recorded work."""
        self._call("launching a graph", "cuGraphLaunch", graph.native, stream.native)

    def free(self, *resources: Resource) -> None:
        """Frees all of them, then raises what went wrong first."""
        failed: list[CudaError] = []
        for resource in resources:
            try:
                self._call(f"freeing {_FREED[type(resource)][0]}", *self._freeing(resource))
            except CudaError as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def _freeing(self, resource: Resource) -> tuple[str, Any]:
        return _FREED[type(resource)][1], resource.native

    def close(self) -> None:
        """Lets the primary context go; harmless when repeated."""
        if not self._closed:
            self._closed = True
            self._call("closing the device", "cuDevicePrimaryCtxRelease", self._device)

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
    """CUDA's version of the number it calls itself by: 13000 is `13.0`."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _initialized_driver() -> ModuleType:
    driver = importlib.import_module("cuda.bindings.driver")
    try:
        (result,) = driver.cuInit(0)
    except RuntimeError as error:  # the bindings' own when the driver's library is not there
        raise BackendError(
            f"There is no NVIDIA driver on this machine (cuda-python says: {error}) "
            "Install one, or use device='cpu'."
        ) from error
    _check(driver, "initializing the driver", result)
    return driver


def _call(driver: ModuleType, doing: str, function: str, *args: Any) -> tuple[Any, ...]:  # noqa: ANN401
    """What a function put out.

    Raises:
        CudaError: its result is not CUDA_SUCCESS.
        BackendError: the driver does not have it.
    """
    try:
        result, *outputs = getattr(driver, function)(*args)
    except RuntimeError as error:  # the bindings' own when they are newer than the driver
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
    return CudaError(doing, name, words, lost=name in LOST)
