"""Processor time and memory of other processes, from Linux' /proc."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import AgeMoEError
from runtime.images import ImageLimits, load_rgb

_TICKS = os.sysconf("SC_CLK_TCK")
_TIMES = slice(11, 15)
"""In /proc/PID/stat, after the name: user and system time of a process and of its dead children."""
_POLL_SECONDS = 0.01
_CALM_SECONDS = 0.03
_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Measured cost of one picture or request."""

    cpu_seconds: float
    peak_bytes: int
    """Above what the process, or all processes of the service, held before."""
    outcome: str
    """Size of the picture, status of the response, or error."""
    wall_seconds: float = 0.0


def library_cost(data: bytes) -> Cost:
    """Decodes a picture in a process of its own."""
    receive, send = os.pipe()
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.write(send, _decoded(data).encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        found = pipe.read().decode()
    os.waitpid(child, 0)
    if not found:
        return Cost(0.0, 0, "the process died", time.perf_counter() - started)
    cpu, peak, outcome = found.split(" ", 2)
    return Cost(float(cpu), int(peak), outcome, time.perf_counter() - started)


def _decoded(data: bytes) -> str:
    process = os.getpid()
    reset_peak(process)
    before, started = memory(process)[0], time.process_time()
    try:
        outcome = "×".join(map(str, load_rgb(data, ImageLimits()).shape[1::-1]))
    except AgeMoEError as error:
        outcome = f"{type(error).__name__}: {error}"[:300]
    except BaseException as error:  # noqa: BLE001 - any other error is a finding
        outcome = f"FOREIGN {type(error).__name__}: {error}"[:300]
    return f"{time.process_time() - started} {memory(process)[1] - before} {outcome}"


def family(process: int) -> list[int]:
    """Returns a process and all its descendants."""
    found = [process]
    for parent in found:
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, path.read_text().split())
    return found


def cpu_seconds(process: int) -> float:
    """Returns the processor time of a process and its descendants, dead ones included."""
    total = 0
    for member in family(process):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{member}/stat").read_text()
            total += sum(map(int, text.rpartition(")")[2].split()[_TIMES]))
    return total / _TICKS


def memory(process: int) -> tuple[int, int]:
    """Returns resident and peak resident bytes of a process; zeros if it has ended."""
    found = {"VmRSS": 0, "VmHWM": 0}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in found:
                found[name] = int(value.split()[0]) * 1024
    return found["VmRSS"], found["VmHWM"]


def resident(process: int) -> int:
    """Returns the resident bytes of a process and its descendants."""
    return sum(memory(member)[0] for member in family(process))


def reset_peak(process: int) -> None:
    """Sets the recorded peak memory of a process to its present memory."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{process}/clear_refs").write_text("5")


def settle(process: int) -> None:
    """Waits until a process and its descendants are idle, for a limited time."""
    limit, before = time.monotonic() + _PATIENCE_SECONDS, cpu_seconds(process)
    while time.monotonic() < limit:
        time.sleep(_CALM_SECONDS)
        now = cpu_seconds(process)
        if now - before < 2 / _TICKS:
            return
        before = now


@contextmanager
def peak_growth(process: int) -> Iterator[Callable[[], int]]:
    """Yields a function that returns the peak bytes of a process and its descendants so far.

    What each of them held at the beginning does not count. Peaks of several processes are added
    even if they were not reached at the same time.
    """
    start: dict[int, int] = {}
    for member in family(process):
        reset_peak(member)
        start[member] = memory(member)[0]
    peaks, done = dict(start), threading.Event()

    def look() -> None:
        for member in family(process):
            held, peak = memory(member)
            start.setdefault(member, held)
            peaks[member] = max(peaks.get(member, 0), peak)

    def watch() -> None:
        while not done.wait(_POLL_SECONDS):
            look()

    def growth() -> int:
        look()
        return sum(max(0, peaks[member] - held) for member, held in list(start.items()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield growth
    finally:
        done.set()
        watcher.join()
