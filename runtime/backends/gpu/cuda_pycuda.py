"""CUDA through PyCUDA, for services that already use it; without CUDA graphs."""

# ruff: noqa: D102 - documented in the protocol Cuda

from __future__ import annotations

import ctypes
import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from types import ModuleType
from typing import Any, NoReturn

import numpy as np

from runtime.backends.gpu.cuda import (
    LOST_DEVICE_ERRORS,
    Cuda,
    DeviceMemory,
    DeviceProperties,
    Event,
    HostMemory,
    Resource,
    Stream,
    free_each,
)
from runtime.backends.gpu.cuda_python import driver_version
from runtime.errors import BackendError, CudaError

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, for which PyCUDA has no name
_MAX_CODE = 999


class PyCuda(Cuda):
    """One device, through `pycuda.driver`.

    Objects that PyCUDA frees with their last reference are held in a list of one, which `free`
    empties.
    """

    library = "pycuda"
    has_graphs = False

    def __init__(self, ordinal: int) -> None:
        """Retains the primary context.

        Raises:
            ImportError: PyCUDA is not installed or finds no driver.
            CudaError: the device does not exist or cannot be used.
        """
        self._driver = _initialized_driver()
        self.properties = self.properties_of(ordinal)
        with self._translated(f"opening device {ordinal}"):
            self._context = self._driver.Device(ordinal).retain_primary_context()
        self._closed = False

    @staticmethod
    def count() -> int:
        """Returns the number of devices; raises as the constructor does."""
        driver = _initialized_driver()
        with _translated(driver, "counting the devices"):
            return int(driver.Device.count())

    @staticmethod
    def properties_of(ordinal: int) -> DeviceProperties:
        """Returns a device's properties without opening it; raises as the constructor does."""
        driver = _initialized_driver()
        with _translated(driver, f"reading the properties of device {ordinal}"):
            device = driver.Device(ordinal)
            return DeviceProperties(
                ordinal=ordinal,
                name=device.name(),
                compute_capability=".".join(map(str, device.compute_capability())),
                total_bytes=device.total_memory(),
                driver=driver_version(driver.get_driver_version()),
            )

    @contextmanager
    def current(self) -> Iterator[None]:
        with self._translated("making the context current"):
            self._context.push()
        try:
            yield
        finally:
            with self._translated("putting the former context back"):
                self._driver.Context.pop()

    def free_bytes(self) -> int:
        with self._translated("reading the free memory"):
            return int(self._driver.mem_get_info()[0])

    def stream(self) -> Stream:
        with self._translated("making a stream"):
            native = self._driver.Stream(_NON_BLOCKING)
            return Stream(int(native.handle), [native])

    def event(self) -> Event:
        with self._translated("making an event"):
            return Event([self._driver.Event()])

    def host_memory(self, size_bytes: int) -> HostMemory:
        flags = self._driver.host_alloc_flags.PORTABLE
        with self._translated(f"allocating {size_bytes:,} bytes of pinned memory"):
            array = self._driver.pagelocked_empty(size_bytes, np.uint8, mem_flags=flags)
            return HostMemory(array, [array.base])

    def device_memory(self, size_bytes: int) -> DeviceMemory:
        with self._translated(f"allocating {size_bytes:,} bytes of device memory"):
            native = self._driver.mem_alloc(size_bytes)
            return DeviceMemory(int(native), size_bytes, [native])

    def upload(
        self, target: DeviceMemory, source: HostMemory, size_bytes: int, stream: Stream
    ) -> None:
        with self._translated("copying to the device"):
            self._driver.memcpy_htod_async(
                target.native[0], source.array[:size_bytes], stream.native[0]
            )

    def download(
        self, target: HostMemory, source: DeviceMemory, size_bytes: int, stream: Stream
    ) -> None:
        with self._translated("copying from the device"):
            self._driver.memcpy_dtoh_async(
                target.array[:size_bytes], source.native[0], stream.native[0]
            )

    def record(self, event: Event, stream: Stream) -> None:
        with self._translated("recording an event"):
            event.native[0].record(stream.native[0])

    def wait_for(self, event: Event, stream: Stream) -> None:
        with self._translated("ordering streams"):
            stream.native[0].wait_for_event(event.native[0])

    def query(self, event: Event) -> bool:
        with self._translated("waiting for the device"):
            return bool(event.native[0].query())

    def elapsed_seconds(self, start: Event, end: Event) -> float:
        with self._translated("reading the device's clock"):
            return float(start.native[0].time_till(end.native[0])) / 1e3

    def synchronize(self, stream: Stream) -> None:
        with self._translated("waiting for a stream"):
            stream.native[0].synchronize()

    def _no_graphs(self, *_: Any, **__: Any) -> NoReturn:  # noqa: ANN401 - of any method
        raise BackendError(
            "PyCUDA has no CUDA graphs. Install cuda-python (agemoe-runtime[tensorrt]), or run "
            "without."
        )

    begin_capture = end_capture = launch = _no_graphs

    def free(self, *resources: Resource) -> None:
        free_each(resources, self._free)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # PyCUDA releases a context only while it is current, and leaves it on the thread's context
        # stack: with a thread of its own, that stack goes away.
        thread = threading.Thread(target=self._detach, name="agemoe-cuda-close")
        thread.start()
        thread.join()

    def _detach(self) -> None:
        with suppress(self._driver.Error):  # the device may be lost
            self._context.push()
        self._context.detach()

    def _free(self, resource: Resource) -> None:
        with self._translated("freeing memory"):
            native = resource.native.pop()
            if isinstance(resource, HostMemory | DeviceMemory):
                native.free()

    def _translated(self, doing: str) -> Any:  # noqa: ANN401
        return _translated(self._driver, doing)


def _initialized_driver() -> ModuleType:
    driver = importlib.import_module("pycuda.driver")
    with _translated(driver, "initializing the driver"):
        driver.init()
    return driver


@contextmanager
def _translated(driver: ModuleType, doing: str) -> Iterator[None]:
    try:
        yield
    except driver.Error as error:
        raise _error(doing, error) from error


def _error(doing: str, error: Exception) -> CudaError:
    """Translates `cuMemAlloc failed: out of memory`, to which PyCUDA may add a dash and more."""
    text = str(error).partition(" failed: ")[2] or str(error)
    name = _names_by_text().get(text.partition(" - ")[0], f"pycuda.{type(error).__name__}")
    return CudaError(doing, name, text, lost=name in LOST_DEVICE_ERRORS)


@cache
def _names_by_text() -> dict[str, str]:
    """Returns the driver's error names by their text, the only part that PyCUDA passes on."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return {}
    codes = range(1, _MAX_CODE + 1)
    found = ((_text(library.cuGetErrorString, n), _text(library.cuGetErrorName, n)) for n in codes)
    return {text: name for text, name in found if text and name}


def _text(function: Any, code: int) -> str:  # noqa: ANN401
    text = ctypes.c_char_p()
    function(code, ctypes.byref(text))
    return (text.value or b"").decode(errors="replace")
