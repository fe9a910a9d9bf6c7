"""The command as a separate process: signals, drain, kill and restart under load."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.serving.live import (
    NO_TLS,
    base64_of,
    encoded,
    engines_in,
    picture,
    receive_all,
    wait_for,
)

ROOT = Path(__file__).parents[2]
FACES = [base64_of(encoded(picture(seed))) for seed in range(8)]

pytestmark = pytest.mark.slow


class Process:
    """`python -m runtime serve` and its log."""

    def __init__(self, engines: Path, port: int, options: Sequence[str], code: str) -> None:
        arguments = ["--engines", str(engines), "--port", str(port), *options]
        program = ["-c", code] if code else ["-m", "runtime"]
        self.popen = subprocess.Popen(
            [sys.executable, *program, "serve", *arguments],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self.url = f"http://127.0.0.1:{port}"
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.popen.stderr
        self.log += self.popen.stderr

    def wait_for(self, wanted: str) -> None:
        wait_for(lambda: any(re.search(wanted, line) for line in list(self.log)), 60.0)

    def wait_for_metric(self, line: str) -> None:
        wait_for(lambda: line in httpx.get(f"{self.url}/metrics", verify=NO_TLS).text, 60.0)


@contextmanager
def process(
    engines: Path, port: int = 0, options: Sequence[str] = (), code: str = ""
) -> Iterator[Process]:
    """Runs the command, or a program that ends in it."""
    started = Process(engines, port or free_port(), options, code)
    try:
        wait_for(lambda: answers(started.url) or started.popen.poll() is not None, 60.0)
        assert started.popen.poll() is None, started.log
        yield started
    finally:
        started.popen.kill()
        started.popen.wait(30.0)
        if started.popen.stderr:
            started.popen.stderr.close()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", verify=NO_TLS).status_code == 200
    except httpx.TransportError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ages(url: str, index: int) -> float:
    body = {"images": [FACES[index]], "detect": False}
    answer = httpx.post(f"{url}/v1/ages", json=body, timeout=30.0, verify=NO_TLS)
    received_bytes = answer.raise_for_status().json()
    years: float = received_bytes["images"][0]["faces"][0]["estimate"]["age_years"]
    return years


def test_sigterm_completes_accepted_requests(tmp_path: Path) -> None:
    with process(engines_in(tmp_path / "engines")) as running:
        expected = ages(running.url, 0)
        body = json.dumps({"images": [FACES[0]], "detect": False}).encode()
        accepted = [half_sent(running.url, body) for _ in range(8)]
        running.popen.send_signal(signal.SIGTERM)
        wait_for(lambda: not answers(running.url))
        received_bytes = []
        for connection in accepted:
            with connection:
                connection.sendall(body[10:])
                received_bytes.append(receive_all(connection))
        assert running.popen.wait(30.0) == 0
    assert all(answer.startswith(b"HTTP/1.1 200 OK") for answer in received_bytes)
    assert all(f'"age_years":{expected}'.encode() in answer for answer in received_bytes)


def half_sent(url: str, body: bytes) -> socket.socket:
    """Sends part of a request after the service has confirmed that it reads the body."""
    connection = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 30.0)
    head = (
        f"POST /v1/ages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    )
    connection.sendall(head.encode())
    assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
    connection.sendall(body[:10])
    return connection


def test_the_notice_period_precedes_the_shutdown(tmp_path: Path) -> None:
    options = ["--notice-seconds", "3"]
    with process(engines_in(tmp_path / "engines"), options=options) as running:
        running.popen.send_signal(signal.SIGTERM)
        wait_for(lambda: not answers(running.url))
        ready = httpx.get(f"{running.url}/health/ready", verify=NO_TLS)
        assert ready.json()["detail"] == "The service is shutting down."
        assert ages(running.url, 1) > 0.0, "it still serves"
        assert running.popen.wait(30.0) == 0


def test_sighup_reloads_or_logs_the_error(tmp_path: Path) -> None:
    engines = engines_in(tmp_path / "engines")
    with process(engines) as running:
        before = ages(running.url, 3)
        (engines / "manifest.json").write_text("{")
        running.popen.send_signal(signal.SIGHUP)
        running.wait_for(r"ERROR agemoe: reload refused: version \w+ keeps serving: .*manifest")
        assert ages(running.url, 3) == before
        engines_in(engines, offset=9.0)
        running.popen.send_signal(signal.SIGHUP)
        running.wait_for("INFO agemoe: reload taken: version")
        assert ages(running.url, 3) == pytest.approx(before + 3.0)


def test_the_drain_limit_is_a_limit(tmp_path: Path) -> None:
    slow = (
        "import time; from runtime.serving import pictures as p;"
        "p.decode_photo = lambda *_: time.sleep(600);"
        "import sys; from runtime.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    options = ["--drain-seconds", "1"]
    with process(engines_in(tmp_path / "engines"), options=options, code=slow) as running:
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(ages, running.url, 0)
            running.wait_for_metric("agemoe_requests_under_way 1.0")
            running.popen.send_signal(signal.SIGTERM)
            assert running.popen.wait(20.0) == 1
            error = pending.exception(20.0)
        assert isinstance(error, httpx.HTTPStatusError)
        assert error.response.json()["type"] == "urn:agemoe:problem:not-ready"
        running.wait_for("the time for the shutdown is over")


def test_sighup_while_the_engines_are_opened(tmp_path: Path) -> None:
    slow = (
        "import os, signal; from runtime.serving import generation as g; opened = g._open_engines\n"
        "def opening(settings):\n"
        "    for _ in range(60): os.kill(os.getpid(), signal.SIGHUP)\n"
        "    g._open_engines = opened\n"
        "    return opened(settings)\n"
        "g._open_engines = opening\n"
        "import sys; from runtime.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    with process(engines_in(tmp_path / "engines"), code=slow) as running:
        running.wait_for("INFO agemoe: reload taken: version")
        assert ages(running.url, 1) > 0.0
        running.popen.send_signal(signal.SIGTERM)
        assert running.popen.wait(30.0) == 0
    assert 1 <= sum("reload taken" in line for line in running.log) <= 2


def test_sigterm_while_the_engines_are_opened(tmp_path: Path) -> None:
    code = (
        "import os, signal; from runtime.serving import generation as g\n"
        "def opening(settings):\n"
        "    assert callable(signal.getsignal(signal.SIGTERM)), 'ignored by a first process'\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "g._open_engines = opening\n"
        "import sys; from runtime.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    options = ["-c", code, "serve", "--engines", str(engines_in(tmp_path)), "--port", "0"]
    done = subprocess.run([sys.executable, *options], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 128 + signal.SIGTERM
    assert b"Traceback" not in done.stderr


def test_kill_and_restart_under_load(tmp_path: Path) -> None:
    engines, port = engines_in(tmp_path / "engines"), free_port()
    with process(engines, port) as first:
        url, stop = first.url, threading.Event()
        expected = [ages(url, index) for index in range(8)]
        failures = [0] * 8
        right = [0] * 8

        def caller(index: int) -> None:
            while not stop.is_set():
                try:
                    assert ages(url, index) == expected[index]
                    right[index] += 1
                except httpx.TransportError:
                    failures[index] += 1
                    time.sleep(0.02)

        with ThreadPoolExecutor(8) as callers:
            running = [callers.submit(caller, index) for index in range(8)]
            time.sleep(0.5)
            os.kill(first.popen.pid, signal.SIGKILL)
            first.popen.wait(30.0)
            between = list(right)
            with process(engines, port):
                wait_for(lambda: all(now > then for now, then in zip(right, between, strict=True)))
                stop.set()
                for call in running:
                    call.result(60.0)
    assert min(failures) > 0
