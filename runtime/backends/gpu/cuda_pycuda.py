"""CUDA through PyCUDA, for services that already use it; it has no CUDA graphs."""

from __future__ import annotations

import ctypes
import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from types import ModuleType
from typing import Any, NoReturn

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
from runtime.backends.gpu.cuda_python import driver_version
from runtime.errors import BackendError, CudaError

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, for which PyCUDA has no name
_CODES = 1000


class PyCuda:
    """One device by `pycuda.driver`.

    What PyCUDA frees with its last reference is held in a list of one, which `free` empties.
    """

    library = "pycuda"
    has_graphs = False

    def __init__(self, ordinal: int) -> None:
        """Retains the primary context.

        Args:
            ordinal: of the device, as CUDA counts them.

        Raises:
            ImportError: PyCUDA is not installed, or finds no driver.
            CudaError: there is no such device, or it cannot be used.
        """
        self._driver = _initialized_driver()
        self.facts = self.facts_of(ordinal)
        with self._translated(f"opening device {ordinal}"):
            self._context = self._driver.Device(ordinal).retain_primary_context()
        self._closed = False

    @staticmethod
    def count() -> int:
        """How many devices there are; raises as the constructor does."""
        driver = _initialized_driver()
        with _translated(driver, "counting the devices"):
            return int(driver.Device.count())

    @staticmethod
    def facts_of(ordinal: int) -> DeviceFacts:
        """What a device is, without opening it; raises as the constructor does."""
        driver = _initialized_driver()
        with _translated(driver, f"asking what device {ordinal} is"):
            device = driver.Device(ordinal)
            return DeviceFacts(
                ordinal=ordinal,
                name=device.name(),
                compute_capability=".".join(map(str, device.compute_capability())),
                total_bytes=device.total_memory(),
                driver=driver_version(driver.get_driver_version()),
            )

    @contextmanager
    def current(self) -> Iterator[None]:
        """Makes the primary context this thread's; afterwards the former one is again."""
        with self._translated("making the context current"):
            self._context.push()
        try:
            yield
        finally:
            with self._translated("putting the former context back"):
                self._driver.Context.pop()

    def free_bytes(self) -> int:
        """Device memory that is free now."""
        with self._translated("asking for free memory"):
            return int(self._driver.mem_get_info()[0])

    def stream(self) -> Stream:
        """A stream that does not wait for the default one."""
        with self._translated("making a stream"):
            native = self._driver.Stream(_NON_BLOCKING)
            return Stream(int(native.handle), [native])

    def event(self) -> Event:
        """An event that keeps time."""
        with self._translated("making an event"):
            return Event([self._driver.Event()])

    def host_memory(self, size_bytes: int) -> HostMemory:
        """Pinned host memory, in use of all contexts."""
        flags = self._driver.host_alloc_flags.PORTABLE
        with self._translated(f"allocating {size_bytes:,} bytes of pinned memory"):
            array = self._driver.pagelocked_empty(size_bytes, np.uint8, mem_flags=flags)
            return HostMemory(array, [array.base])

    def device_memory(self, size_bytes: int) -> DeviceMemory:
        """Device memory."""
        with self._translated(f"allocating {size_bytes:,} bytes of device memory"):
            native = self._driver.mem_alloc(size_bytes)
            return DeviceMemory(int(native), size_bytes, [native])

    def upload(
        self, target: DeviceMemory, source: HostMemory, size_bytes: int, stream: Stream
    ) -> None:
        """Enqueues a copy of the first bytes to the device."""
        with self._translated("copying to the device"):
            self._driver.memcpy_htod_async(
                target.native[0], source.array[:size_bytes], stream.native[0]
            )

    def download(
        self, target: HostMemory, source: DeviceMemory, size_bytes: int, stream: Stream
    ) -> None:
        """Enqueues a copy of the first bytes to the host."""
        with self._translated("copying from the device"):
            self._driver.memcpy_dtoh_async(
                target.array[:size_bytes], source.native[0], stream.native[0]
            )

    def record(self, event: Event, stream: Stream) -> None:
        """Enqueues a mark."""
        with self._translated("recording an event"):
            event.native[0].record(stream.native[0])

    def wait_for(self, event: Event, stream: Stream) -> None:
        """Lets a stream, not the host, wait until an event's last mark is reached."""
        with self._translated("ordering streams"):
            stream.native[0].wait_for_event(event.native[0])

    def reached(self, event: Event) -> bool:
        """Whether the device has come to an event's last mark; also True before the first."""
        with self._translated("waiting for the device"):
            return bool(event.native[0].query())

    def elapsed_seconds(self, start: Event, end: Event) -> float:
        """Device time between two marks that were reached."""
        with self._translated("reading the device's clock"):
            return float(start.native[0].time_till(end.native[0])) / 1e3

    def synchronize(self, stream: Stream) -> None:
        """Waits until a stream has nothing left to do; not for the hot path."""
        with self._translated("waiting for a stream"):
            stream.native[0].synchronize()

    def begin_capture(self, stream: Stream) -> None:  # noqa: ARG002 - the protocol's
        """PyCUDA cannot: always a `BackendError`."""
        _no_graphs()

    def end_capture(self, stream: Stream) -> Graph:  # noqa: ARG002 - the protocol's
        """PyCUDA cannot: always a `BackendError`."""
        _no_graphs()

    def launch(self, graph: Graph, stream: Stream) -> None:  # noqa: ARG002 - the protocol's
        """PyCUDA cannot: always a `BackendError`."""
        _no_graphs()

    def free(self, *resources: Resource) -> None:
        """Frees all of them, then raises what went wrong first."""
        failed: list[CudaError] = []
        for resource in resources:
            try:
                with self._translated("freeing memory"):
                    _free(resource)
            except CudaError as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def close(self) -> None:
        """Lets the primary context go; harmless when repeated."""
        if self._closed:
            return
        self._closed = True
        # PyCUDA releases a context only where it is current, and leaves it on CUDA's stack of the
        # thread: a thread of its own takes that away.
        thread = threading.Thread(target=self._detach, name="agemoe-cuda-close")
        thread.start()
        thread.join()

    def _detach(self) -> None:
        with suppress(self._driver.Error):  # of a device that is lost
            self._context.push()
        self._context.detach()

    def _translated(self, doing: str) -> Any:  # noqa: ANN401
        return _translated(self._driver, doing)


def _free(resource: Resource) -> None:
    native = resource.native.pop()
    if isinstance(resource, HostMemory | DeviceMemory):
        native.free()


def _no_graphs() -> NoReturn:
    raise BackendError(
        "PyCUDA has no CUDA graphs. Install cuda-python (agemoe-runtime[tensorrt]), or run without."
    )


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
    """PyCUDA says `cuMemAlloc failed: out of memory`, and perhaps more behind a dash."""
    text = str(error).partition(" failed: ")[2] or str(error)
    name = _names_by_text().get(text.partition(" - ")[0], f"pycuda.{type(error).__name__}")
    return CudaError(doing, name, text, lost=name in LOST)


@cache
def _names_by_text() -> dict[str, str]:
    """The driver's errors by their text, of which alone PyCUDA tells."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return {}
    found = ((_said(library, "String", code), _said(library, "Name", code)) for code in _codes())
    return {text: name for text, name in found if text and name}


def _codes() -> range:
    return range(1, _CODES)


def _said(library: Any, what: str, code: int) -> str:  # noqa: ANN401
    answer = ctypes.c_char_p()
    getattr(library, f"cuGetError{what}")(code, ctypes.byref(answer))
    return (answer.value or b"").decode(errors="replace")
