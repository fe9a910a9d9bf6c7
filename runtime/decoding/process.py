"""One decoder: a process that decodes a picture at a time, and that can be killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from runtime import errors
from runtime.decoding.worker import END, MOST_TEXT, READY, REPLY, REQUEST
from runtime.errors import BackendError, ImageError, InputError
from runtime.images import ImageLimits

_RUNTIME = Path(__file__).parents[1]
_START = """
import importlib, sys, types
sys.path += [path for path in sys.argv[3:] if path not in sys.path]
for name, folder in (("runtime", sys.argv[2]), ("runtime.decoding", sys.argv[2] + "/decoding")):
    module = sys.modules[name] = types.ModuleType(name)  # without what __init__.py imports
    module.__path__ = [folder]
try:
    serve = importlib.import_module(sys.argv[1]).serve
except BaseException as error:
    print(type(error).__name__, error, flush=True)
else:
    serve()
"""
_NEEDED = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
"""Of the environment: the rest may hold secrets."""
_OWN = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 20),
}
"""Few threads, and with glibc, memory of large pictures comes in pages of 2 MB, each of which costs
one page fault instead of 512, and goes back to the system."""
_PIPE_BYTES = 1 << 20
"""Linux's limit for a pipe of an ordinary user; the default of 64 KiB makes more switches."""
_KILLED_SECONDS = 10.0
"""For the system to end a killed process."""
_ERRORS = {kind.__name__: kind for kind in (InputError, ImageError, errors.ImageTooLargeError)}
"""What a decoder may raise."""


class DecoderEndedError(Exception):
    """The process ended, or answered with anything but a reply."""


@dataclass(frozen=True, slots=True)
class Task:
    """One picture to decode."""

    data: bytes
    limits: ImageLimits
    seconds: float
    """Of processor time, where it can be measured."""
    memory_bytes: int
    """That decoding may take, where it can be limited."""

    def message(self) -> bytes:
        """Returns what precedes the picture."""
        options = {
            "limits": asdict(self.limits),
            "seconds": self.seconds,
            "memory_bytes": self.memory_bytes,
        }
        text = json.dumps(options).encode()
        return REQUEST.pack(len(text), len(self.data)) + text


def command(module: str = "runtime.decoding.worker") -> list[str]:
    """Returns the command of a decoder, which depends on no working directory or variable.

    Args:
        module: its function `serve` is called.
    """
    # After its own, so that no numpy.py in the folder of a script or of `python -m` is imported; ""
    # is the working directory.
    paths = [str(Path(path).absolute()) for path in sys.path if path]
    return [sys.executable, "-I", "-c", _START, module, str(_RUNTIME), *paths, str(_RUNTIME.parent)]


def environment() -> dict[str, str]:
    """Returns the variables of a decoder's process: no secrets, few threads."""
    return {name: os.environ[name] for name in _NEEDED if name in os.environ} | _OWN


class Decoder:
    """A decoder's process. One thread at a time uses it; any may kill it."""

    def __init__(self) -> None:
        """Starts the process; `wait_ready` tells whether it works.

        Raises:
            BackendError: no process can be started.
        """
        self.kept_memory = False
        """The process kept memory and should be replaced."""
        self.used_seconds = 0.0
        """Processor time of the last picture."""
        self.killed = False
        """The process was killed before it could say anything."""
        self._ready = False
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this Python, with code of ours
                command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=environment(),
                # The terminal's Ctrl-C is not for it.
                process_group=None if sys.platform == "win32" else 0,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        except OSError as error:
            raise BackendError(f"No process for decoding can be started ({error}).") from error
        self._requests = cast("IO[bytes]", self._process.stdin)
        self._replies = cast("IO[bytes]", self._process.stdout)
        _widen(self._requests)
        _widen(self._replies)

    @property
    def pid(self) -> int:
        """The process's number."""
        return int(self._process.pid)

    @property
    def ended(self) -> bool:
        """Whether the process has ended, by itself or from outside."""
        return self._process.poll() is not None

    def wait_ready(self) -> None:
        """Waits until the process can decode.

        Raises:
            BackendError: it cannot.
        """
        if self._ready:
            return
        line = b""
        while not line.endswith(b"\n") and len(line) < MOST_TEXT and (more := self._received(1)):
            line += more
        if line != READY:
            self.end()
            said, reason = line.decode(errors="replace").strip(), self.end_reason()
            self.killed = not said and reason == "SIGKILL"
            raise BackendError(
                f"The process for decoding pictures does not start: {said or reason}"
            )
        self._ready = True

    def decode(self, task: Task) -> NDArray[np.uint8] | InputError:
        """Returns the pixels, uint8 RGB (H, W, 3), or the error of the picture.

        Raises:
            DecoderEndedError: the process ended or sent what is no reply; it has to be ended.
        """
        self._send(task.message())
        self._send(task.data)
        height, width, text_bytes = REPLY.unpack(self._exactly(REPLY.size))
        result: NDArray[np.uint8] | InputError
        if text_bytes:
            if text_bytes > MOST_TEXT or height or width:
                raise DecoderEndedError
            result = _error(bytes(self._exactly(text_bytes)))
        else:
            if not 0 < height * width <= task.limits.max_pixels:
                raise DecoderEndedError
            result = np.empty((height, width, 3), np.uint8)
            self._fill(result.data.cast("B"))
        self.kept_memory, seconds = END.unpack(self._exactly(END.size))
        self.used_seconds = seconds if 0.0 <= seconds <= task.seconds else task.seconds
        return result

    def kill(self) -> None:
        """Kills the process, whatever it does; who waits for its reply sees it end."""
        self._process.kill()

    def end(self) -> None:
        """Kills the process, waits for its end and closes the pipes."""
        self._process.kill()
        with contextlib.suppress(OSError):
            self._requests.close()
        self._replies.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILLED_SECONDS)

    def end_reason(self) -> str:
        """Returns why an ended process ended: the name of a signal, or its exit status."""
        status = self._process.returncode
        if status is None:
            return "not ended"
        try:
            return signal.Signals(-status).name
        except ValueError:
            return f"status {status}"

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._requests.write(view) :]
        except OSError as error:
            raise DecoderEndedError from error

    def _received(self, most: int) -> bytes:
        try:
            return self._replies.read(most)
        except OSError:
            return b""

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        self._fill(memoryview(data))
        return data

    def _fill(self, view: memoryview) -> None:
        read: Callable[[memoryview], int | None] = self._replies.readinto  # type: ignore[attr-defined]
        while view:
            try:
                count = read(view)
            except OSError as error:
                raise DecoderEndedError from error
            if not count:
                raise DecoderEndedError
            view = view[count:]


def _error(text: bytes) -> InputError:
    name, _, message = text.decode("utf-8", "replace").partition("\n")
    return _ERRORS.get(name, ImageError)(message)


def _widen(pipe: IO[bytes]) -> None:
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
