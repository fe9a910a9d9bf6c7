"""A service in a process of its own, requests to it, and streams of them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.hostile import costs
from benchmarks.hostile.costs import Cost

_ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 120.0
_TIMEOUT_SECONDS = 60.0
_SHOWN = 2_000
"""Characters shown of the end of the log of a service that does not start."""
_NICE, _PAUSE_SECONDS = 19, 0.02


@dataclass(frozen=True, slots=True)
class Answer:
    """A response."""

    status: int
    """0 if the connection failed."""
    text: str
    """Type of the problem, or the error of the connection; empty on success."""
    seconds: float
    estimate_seconds: float = 0.0
    """Time of the experts, as the service reports it."""

    @property
    def outcome(self) -> str:
        """Status and problem."""
        return f"{self.status} {self.text}".strip()


class Service:
    """`python -m runtime serve` on this machine."""

    def __init__(self, process: int, port: int) -> None:
        """Takes the id and the port of the running process."""
        self.process = process
        self._port = port

    def post(self, body: bytes) -> Answer:
        """Sends one request for ages as JSON."""
        started = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request("POST", "/v1/ages", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            found = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            return Answer(0, f"{type(error).__name__}: {error}", time.perf_counter() - started)
        finally:
            connection.close()
        seconds = time.perf_counter() - started
        if response.status != http.client.OK:
            return Answer(response.status, found["type"].rpartition(":")[2], seconds)
        problems = [image["problem"] for image in found["images"] if image["problem"]]
        text = problems[0]["type"].rpartition(":")[2] if problems else ""
        return Answer(200, text, seconds, found["times_ms"].get("estimate", 0.0) / 1000.0)

    def ready(self) -> bool:
        """Returns whether the service reports itself as ready."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10.0)
        try:
            connection.request("GET", "/health/ready")
            return connection.getresponse().status == http.client.OK
        except OSError:
            return False
        finally:
            connection.close()

    def cost(self, *bodies: bytes) -> tuple[Cost, list[Answer]]:
        """Sends requests at once and returns their cost until the service is idle again."""
        before = costs.cpu_seconds(self.process)
        with costs.peak_growth(self.process) as growth, ThreadPoolExecutor(len(bodies)) as pool:
            started = time.perf_counter()
            answers = list(pool.map(self.post, bodies))
            seconds = time.perf_counter() - started
            costs.settle(self.process)
            peak = growth()
        cpu = costs.cpu_seconds(self.process) - before
        return Cost(cpu, peak, answers[0].outcome, seconds), answers

    @contextmanager
    def stream(self, body: bytes) -> Iterator[None]:
        """Sends the same request repeatedly from another process, until the block ends.

        The sender runs at the lowest priority, so that it takes no processor time from the service.
        """
        child = os.fork()
        if child == 0:
            os.nice(_NICE)
            while True:
                self.post(body)
                time.sleep(_PAUSE_SECONDS)
        try:
            yield
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@contextmanager
def serving(engines: Path, options: Sequence[str] = ()) -> Iterator[Service]:
    """Starts a service on a free port and ends it.

    Raises:
        RuntimeError: it does not start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "runtime", "serve", "--engines", str(engines.resolve())]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            [*command, "--port", str(port), *options],
            cwd=_ROOT,
            stderr=log,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
        ) as popen,
    ):
        service, limit = Service(popen.pid, port), time.monotonic() + _START_SECONDS
        try:
            while not service.ready():
                if popen.poll() is not None or time.monotonic() > limit:
                    log.seek(0)
                    said = log.read().decode(errors="replace").strip()[-_SHOWN:]
                    raise RuntimeError(f"The service does not start: {' '.join(command)}\n{said}")
                time.sleep(0.1)
            yield service
        finally:
            popen.kill()
