"""The simulated device: dispatch of calls, time, injected failures, devices and contexts.

Enforces: a context is current in the calling thread (else CUDA_ERROR_INVALID_CONTEXT), a
capturing thread calls nothing that waits or allocates (else the capture is invalidated), and after
a sticky error every call fails with it, although resources are still freed. `calls` counts every
call by CUDA's name, so that a test can forbid some.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from runtime.backends.gpu.cuda import LOST_DEVICE_ERRORS
from tests.gpu.fake_memory import Memory
from tests.gpu.fake_streams import CudaFailure, RuleBrokenError, Streams, Work

_CONTEXTS = 0xC0DE0000
_WITHOUT_CONTEXT = ("cuInit", "cuDriver", "cuDevice", "cuCtxPush", "cuCtxPop", "cuCtxGetCurrent")
_FREES = ("cuMemFree", "cuStreamDestroy", "cuEventDestroy", "cuGraphDestroy", "cuGraphExecDestroy")
_UNSAFE_IN_CAPTURE = ("cuMemAlloc", "cuMemHostAlloc", "cuMemFree", "cuEventQuery", "cuMemGetInfo")
_TIMEOUT_SECONDS = 30.0


class SimulatedDevice:
    """Contexts, time and failures; only `call` is thread-safe."""

    def __init__(
        self, seed: int, *, devices: int, memory_bytes: int, capability: tuple[int, int]
    ) -> None:
        self.lock = threading.RLock()
        self.memory = Memory(memory_bytes)
        self.streams = Streams(seed)
        self.streams.before = self._crash
        self.devices = devices
        self.capability = capability
        self.calls: Counter[str] = Counter()
        self.faults: list[str] = []
        self.lost: str | None = None
        self.threaded = False
        self._retained: Counter[int] = Counter()
        self._thread = threading.local()
        self._failures: dict[tuple[str, int], str] = {}
        self._crashes: dict[str, str] = {}
        self._initialized = False

    # Dispatch of calls.

    def call(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Runs one call of the driver, by CUDA's name."""
        with self.lock:
            self.calls[name] += 1
            if not self.threaded:
                self.advance()
            self._fail_on_demand(name)
            self._check_state(name, function, args)
            return function(*args)

    def _check_state(self, name: str, function: Callable[..., Any], args: Any) -> None:
        if name != "cuInit" and not self._initialized:
            raise CudaFailure("CUDA_ERROR_NOT_INITIALIZED")
        if name.startswith(_WITHOUT_CONTEXT):
            return
        if self.lost:
            with contextlib.suppress(CudaFailure):
                if name.startswith(_FREES):
                    function(*args)
            raise CudaFailure(self.lost)
        if not self.current_context():
            raise CudaFailure("CUDA_ERROR_INVALID_CONTEXT")
        if name in _UNSAFE_IN_CAPTURE:
            self._forbid_in_capture()

    def _forbid_in_capture(self) -> None:
        for stream in self.streams.by_handle.values():
            if stream.capture and stream.capture.thread == threading.get_ident():
                stream.capture.broken = True
                raise CudaFailure("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")

    def fault(self, text: str) -> None:
        """Records a violation and raises it; the simulator raises it again at the end."""
        self.faults.append(text)
        raise RuleBrokenError(text)

    # Injected failures.

    def fail_at(self, call: str, nth: int, error: str) -> None:
        self._failures[call, self.calls[call] + nth] = error

    def fails_now(self, call: str) -> str | None:
        """Counts a call outside the driver; returns its injected error."""
        with self.lock:
            self.calls[call] += 1
            return self._failures.pop((call, self.calls[call]), None)

    def _fail_on_demand(self, name: str) -> None:
        error = self._failures.pop((name, self.calls[name]), None)
        if error in LOST_DEVICE_ERRORS:
            self.lose(error)
        elif error:
            raise CudaFailure(error)

    def crash_at(self, label: str, error: str) -> None:
        self._crashes[label] = error

    def _crash(self, work: Work) -> None:
        for label, error in self._crashes.items():
            if label in work.label:
                del self._crashes[label]
                raise CudaFailure(error)

    def lose(self, error: str) -> None:
        """Loses the device: every later call fails."""
        self.lost = error
        for stream in self.streams.by_handle.values():
            stream.queue.clear()

    # Time.

    def advance(self) -> None:
        """Runs a random amount of work."""
        self._survive(self.streams.advance)

    def step(self) -> bool:
        """Runs one piece of work; returns False if there is none."""
        with self.lock:
            return self._survive(self.streams.step) is not False

    def _survive(self, run: Callable[[], bool | None]) -> bool | None:
        try:
            return run()
        except CudaFailure as error:
            self.lose(error.name)
        except Exception as error:  # noqa: BLE001 - a failing kernel does not stop the host
            self.faults.append(str(error))
            self.lose("CUDA_ERROR_LAUNCH_FAILED")
        return True

    def run_until(self, finished: Callable[[], bool], what: str) -> None:
        """Blocks the host; runs the device's work itself if the device has no thread."""
        limit = time.monotonic() + _TIMEOUT_SECONDS
        while not finished() and not self.lost:
            if self.threaded:
                self._pause()
            elif not self.step():
                self.fault(f"{what} would wait forever")
            if time.monotonic() > limit:
                self.fault(f"{what} waited {_TIMEOUT_SECONDS:g} s")
        if self.lost:
            raise CudaFailure(self.lost)

    def _pause(self) -> None:
        self.lock.release()
        try:
            time.sleep(0.0002)
        finally:
            self.lock.acquire()

    def work_forever(self, stop: threading.Event, seed: int) -> None:
        """Runs the device's thread."""
        rng = random.Random(seed)
        while not stop.is_set():
            if not self.step() or rng.random() < 0.3:
                time.sleep(rng.uniform(0.0, 0.0005))

    # Devices and contexts.

    def init(self, _flags: int) -> None:
        if self.devices == 0:
            raise CudaFailure("CUDA_ERROR_NO_DEVICE")
        self._initialized = True

    def device(self, ordinal: int) -> int:
        if not 0 <= ordinal < self.devices:
            raise CudaFailure("CUDA_ERROR_INVALID_DEVICE")
        return ordinal

    def retain(self, device: int) -> int:
        self._retained[self.device(device)] += 1
        return _CONTEXTS + device

    def release(self, device: int) -> None:
        if not self._retained[device]:
            raise CudaFailure("CUDA_ERROR_INVALID_CONTEXT")
        self._retained[device] -= 1

    def _stack(self) -> list[int]:
        if not hasattr(self._thread, "stack"):
            self._thread.stack = []
        return self._thread.stack  # type: ignore[no-any-return]

    @property
    def current_contexts(self) -> list[int]:
        """This thread's context stack, the current one last."""
        return list(self._stack())

    def current_context(self) -> int:
        """Returns this thread's current context, or 0."""
        stack = self._stack()
        return stack[-1] if stack and self._retained[stack[-1] - _CONTEXTS] else 0

    def push(self, context: int) -> None:
        if not self._retained[context - _CONTEXTS]:
            raise CudaFailure("CUDA_ERROR_INVALID_CONTEXT")
        self._stack().append(context)

    def pop(self) -> int:
        if not self._stack():
            raise CudaFailure("CUDA_ERROR_INVALID_CONTEXT")
        return self._stack().pop()
