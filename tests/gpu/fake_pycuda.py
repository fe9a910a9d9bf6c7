"""`pycuda.driver` on the simulated device: its classes, its exceptions, its context stack.

Enforces: PyCUDA's own stack of contexts per thread. A stream, event or allocation belongs to the
context object under which it was created; one destroyed in another thread while that context is not
current is not cleaned up (PyCUDA warns, here it is a broken rule). An error has only a text; its
name is known only to the driver's library.
"""

from __future__ import annotations

import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.gpu.fake_cuda_bindings import functions
from tests.gpu.fake_driver import SimulatedDriver
from tests.gpu.fake_pycuda_errors import (
    CudaLaunchError,
    CudaLogicError,
    CudaMemoryError,
    CudaRuntimeError,
    Error,
    compiled,
    exception,
)
from tests.gpu.fake_streams import CudaFailure


class Calls:
    """Calls the driver and raises PyCUDA's exceptions; holds every thread's context stack."""

    def __init__(self, gpu: SimulatedDriver) -> None:
        self.gpu = gpu
        self._functions = functions(gpu)
        self._thread = threading.local()

    def __call__(self, name: str, *args: Any) -> Any:
        try:
            return self.gpu.call(name, self._functions[name], *args)
        except CudaFailure as failure:
            raise exception(name, failure) from None

    def done(self, name: str, handle: int) -> bool:
        """Queries a handle; returns True if its work is done."""
        try:
            self.gpu.call(name, self._functions[name], handle)
        except CudaFailure as failure:
            if failure.name != "CUDA_ERROR_NOT_READY":
                raise exception(name, failure) from None
            return False
        return True

    @property
    def stack(self) -> list[Context]:
        if not hasattr(self._thread, "stack"):
            self._thread.stack = []
        return self._thread.stack  # type: ignore[no-any-return]

    def current(self) -> Context:
        if not self.stack:
            raise CudaLogicError(
                "explicit_context_dependent failed: invalid device context - "
                "no currently active context?"
            )
        return self.stack[-1]


class Context:
    """A retained primary context."""

    def __init__(self, calls: Calls, device: int) -> None:
        self._calls = calls
        self._device = device
        self._thread = threading.get_ident()
        self._valid = True
        self.handle: int = calls("cuDevicePrimaryCtxRetain", device)

    def push(self) -> None:
        if self._calls.stack:
            self._calls("cuCtxPopCurrent")
        self._calls("cuCtxPushCurrent", self.handle)
        self._calls.stack.append(self)

    def detach(self) -> None:
        """Releases the context, but only if it is current or in the thread that created it."""
        if not self._valid:
            raise CudaLogicError("context::detach failed: invalid device context")
        stack = self._calls.stack
        active = bool(stack) and stack[-1] is self
        if active or self._thread == threading.get_ident():
            self._calls("cuDevicePrimaryCtxRelease", self._device)
        self._valid = False
        stack[:] = [context for context in stack if context._valid]
        if active and stack:
            self._calls("cuCtxPushCurrent", stack[-1].handle)

    def clean_up(self, kind: str, name: str, *args: Any) -> None:
        """Does the work of a destructor."""
        if not self._valid:
            return
        switch = not self._calls.stack or self._calls.stack[-1] is not self
        if switch and threading.get_ident() != self._thread:
            self._calls.gpu.faults.append(f"{kind} in out-of-thread context is not cleaned up")
            return
        if switch:
            self.push()
        try:
            self._calls(name, *args)
        except Error:  # PyCUDA writes a line to stderr and continues
            pass
        finally:
            if switch:
                pop(self._calls)


def pop(calls: Calls) -> None:
    """`Context.pop`."""
    calls.current()
    calls("cuCtxPopCurrent")
    calls.stack.pop()
    if calls.stack:
        calls("cuCtxPushCurrent", calls.stack[-1].handle)


class Device:
    def __init__(self, calls: Calls, ordinal: int) -> None:
        self._calls = calls
        self._handle = calls("cuDeviceGet", ordinal)

    def name(self) -> str:
        text: bytes = self._calls("cuDeviceGetName", 1024, self._handle)
        return text.partition(b"\0")[0].decode()

    def compute_capability(self) -> tuple[int, int]:
        return self._calls.gpu.capability

    def total_memory(self) -> int:
        return int(self._calls("cuDeviceTotalMem", self._handle))

    def retain_primary_context(self) -> Context:
        return Context(self._calls, self._handle)


class _Owned:
    """An object of a context, destroyed with its last reference."""

    destroy: str

    def __init__(self, calls: Calls, create: str, *args: Any) -> None:
        self._calls = calls
        self._context = calls.current()
        self._handle: int = calls(create, *args)
        self._live = True

    def __del__(self) -> None:
        if getattr(self, "_live", False):
            self._clean_up()

    def _clean_up(self) -> None:
        self._live = False
        self._context.clean_up(type(self).__name__, self.destroy, self._handle)


class Stream(_Owned):
    destroy = "cuStreamDestroy"

    def __init__(self, calls: Calls, flags: int = 0) -> None:
        super().__init__(calls, "cuStreamCreate", flags)

    @property
    def handle(self) -> int:
        return self._handle

    @compiled
    def synchronize(self) -> None:
        self._calls("cuStreamSynchronize", self._handle)

    @compiled
    def wait_for_event(self, event: Event) -> None:
        self._calls("cuStreamWaitEvent", self._handle, event._handle, 0)


class Event(_Owned):
    destroy = "cuEventDestroy"

    def __init__(self, calls: Calls, flags: int = 0) -> None:
        super().__init__(calls, "cuEventCreate", flags)

    @compiled
    def record(self, stream: Stream | None = None) -> Event:
        self._calls("cuEventRecord", self._handle, stream.handle if stream else 0)
        return self

    @compiled
    def query(self) -> bool:
        return self._calls.done("cuEventQuery", self._handle)

    @compiled
    def time_till(self, end: Event) -> float:
        return float(self._calls("cuEventElapsedTime", self._handle, end._handle))


class _Allocation(_Owned):
    def free(self) -> None:
        if not self._live:
            raise CudaLogicError(f"{type(self).__name__}::free failed: invalid resource handle")
        self._clean_up()


class DeviceAllocation(_Allocation):
    destroy = "cuMemFree"

    def __init__(self, calls: Calls, size: int) -> None:
        super().__init__(calls, "cuMemAlloc", size)

    def __int__(self) -> int:
        return self._handle

    __index__ = __int__


class PagelockedHostAllocation(_Allocation):
    destroy = "cuMemFreeHost"

    def __init__(self, calls: Calls, size: int, flags: int) -> None:
        super().__init__(calls, "cuMemHostAlloc", size, flags)
        self.__array_interface__ = {
            "data": (self._handle, False),
            "shape": (size,),
            "typestr": "|u1",
            "version": 3,
        }


class FakePyCuda(ModuleType):
    """The module `pycuda.driver`; `package` is `pycuda`."""

    Error = Error
    LogicError = CudaLogicError
    LaunchError = CudaLaunchError
    MemoryError = CudaMemoryError
    RuntimeError = CudaRuntimeError
    host_alloc_flags = SimpleNamespace(PORTABLE=1, DEVICEMAP=2, WRITECOMBINED=4)

    def __init__(self, gpu: SimulatedDriver) -> None:
        super().__init__("pycuda.driver")
        self._calls = calls = Calls(gpu)
        self.package = ModuleType("pycuda")
        self.package.driver = self  # type: ignore[attr-defined]
        self.Device = _Devices(calls)
        self.Context = SimpleNamespace(pop=lambda: pop(calls))
        self.Stream = lambda flags=0: Stream(calls, flags)
        self.Event = lambda flags=0: Event(calls, flags)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"pycuda.driver.{name} is not simulated")

    def init(self, flags: int = 0) -> None:
        self._calls("cuInit", flags)

    def get_driver_version(self) -> int:
        return int(self._calls("cuDriverGetVersion"))

    def mem_get_info(self) -> tuple[int, int]:
        free, total = self._calls("cuMemGetInfo")
        return free, total

    def mem_alloc(self, size: int) -> DeviceAllocation:
        return DeviceAllocation(self._calls, size)

    def pagelocked_empty(
        self, shape: int, dtype: Any, order: str = "C", mem_flags: int = 0
    ) -> NDArray[Any]:
        assert np.dtype(dtype) == np.uint8
        assert order == "C"
        return np.asarray(PagelockedHostAllocation(self._calls, shape, mem_flags))

    @compiled
    def memcpy_htod_async(self, dest: Any, src: NDArray[Any], stream: Any = None) -> None:
        handle = stream.handle if stream else 0
        self._calls("cuMemcpyHtoDAsync", int(dest), src.ctypes.data, src.nbytes, handle)

    @compiled
    def memcpy_dtoh_async(self, dest: NDArray[Any], src: Any, stream: Any = None) -> None:
        handle = stream.handle if stream else 0
        self._calls("cuMemcpyDtoHAsync", dest.ctypes.data, int(src), dest.nbytes, handle)


class _Devices:
    """The class `Device`."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def __call__(self, ordinal: int) -> Device:
        return Device(self._calls, ordinal)

    def count(self) -> int:
        return int(self._calls("cuDeviceGetCount"))
