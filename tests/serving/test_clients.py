"""Slow and broken clients neither delay other clients nor leak resources."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import AgeMoE
from runtime.serving.settings import Batching, Limits, Settings
from tests.serving.live import (
    Live,
    encoded,
    engines_in,
    hold_predictions,
    picture,
    receive_all,
    serving,
)

pytestmark = pytest.mark.usefixtures("no_thread_left")

HEAD = (
    b"POST /v1/ages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1000\r\n\r\n"
)
LIMITS = Limits(header_seconds=0.3, body_seconds=0.3, requests=4)


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Live]:
    """A service with short time limits."""
    engines = engines_in(tmp_path / "engines")
    with serving(Settings(engines, limits=LIMITS, batching=Batching(workers=1))) as running:
        yield running


@pytest.mark.parametrize("begun", [b"", b"GET /health/live HTTP/1.1\r\nX-Slow: "])
def test_an_incomplete_head_closes_the_connection(strict: Live, begun: bytes) -> None:
    with socket.create_connection(strict.address, 30.0) as connection:
        connection.sendall(begun)
        assert receive_all(connection) == b""


def test_a_slow_head_closes_the_connection(strict: Live) -> None:
    with socket.create_connection(strict.address, 30.0) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            drip(connection, b"X: y\r\n")


def drip(connection: socket.socket, drop: bytes) -> None:
    for _ in range(3_000):
        connection.sendall(drop)
        time.sleep(0.01)


def test_an_incomplete_second_head_closes_the_connection(strict: Live) -> None:
    with socket.create_connection(strict.address, 30.0) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
        connection.sendall(b"GET /health/live HT")
        response = receive_all(connection)
    assert response in (b"", b'{"status":"live"}')


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
        b"POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_an_unread_body_closes_the_connection(strict: Live, head: bytes) -> None:
    with socket.create_connection(strict.address, 30.0) as connection:
        connection.sendall(head)
        assert connection.recv(65536).startswith(b"HTTP/1.1 ")
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            drip(connection, b"1\r\nx\r\n")


def test_the_rest_of_an_unread_body_is_skipped(strict: Live) -> None:
    with socket.create_connection(strict.address, 30.0) as connection:
        connection.sendall(b"GET /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
        assert connection.recv(65536).startswith(b"HTTP/1.1 404 ")
        connection.sendall(b"def" + b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        response = receive_all(connection)
    assert b"HTTP/1.1 200 OK" in response


def test_unreceived_responses_close_the_connection(strict: Live) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30.0)
        connection.connect(strict.address)
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            send_endlessly(connection)


def send_endlessly(connection: socket.socket) -> None:
    for _ in range(1_000_000):
        connection.sendall(b"GET /page/examples/family.jpg HTTP/1.1\r\nHost: x\r\n\r\n")


@pytest.mark.parametrize("more", [b"", b" "])
def test_a_slow_body_is_a_408(strict: Live, more: bytes) -> None:
    with socket.create_connection(strict.address, 30.0) as connection:
        connection.sendall(HEAD + b'{"images": [')
        for _ in range(15 if more else 0):
            connection.sendall(more)
            time.sleep(0.01)
        response = receive_all(connection)
    assert response.startswith(b"HTTP/1.1 408 ")
    assert b"urn:agemoe:problem:body-slow" in response
    assert b"connection: close" in response.lower()


def test_clients_that_disconnect_leak_nothing(strict: Live) -> None:
    for _ in range(20):
        with socket.create_connection(strict.address, 30.0) as connection:
            connection.sendall(HEAD + b'{"images": [')
    strict.wait_for_metric('agemoe_requests_total{route="/v1/ages",status="499"} 20.0')
    strict.wait_for_metric("agemoe_requests_under_way 0.0")
    assert strict.ages(encoded(picture(1))).status_code == 200


def test_malformed_http_is_rejected(strict: Live) -> None:
    for malformed in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"G" * 200_000):
        with socket.create_connection(strict.address, 30.0) as connection:
            connection.sendall(malformed)
            response = receive_all(connection)
        assert response == b"" or response.startswith(b"HTTP/1.1 400 ")
    assert strict.client.get("/health/live").status_code == 200


def test_silent_clients_do_not_block_others(strict: Live) -> None:
    silent = [socket.create_connection(strict.address, 30.0) for _ in range(100)]
    try:
        assert strict.ages(encoded(picture(2))).status_code == 200
    finally:
        for connection in silent:
            connection.close()


def test_requests_of_disconnected_clients_are_not_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, begun = hold_predictions(monkeypatch)
    batches: list[int] = []
    predict: Any = AgeMoE.predict

    def counting(self: AgeMoE, faces: Any, **options: Any) -> Any:
        if isinstance(faces, list):  # a canary request is a single face
            batches.append(len(faces))
        return predict(self, faces, **options)

    monkeypatch.setattr(AgeMoE, "predict", counting)
    engines = engines_in(tmp_path / "engines")
    with serving(Settings(engines, batching=Batching(1, 0.0, workers=1))) as live:
        going.clear()
        first = request_of(live, 1)
        assert begun.acquire(timeout=30.0)
        second = request_of(live, 2)  # after the first is being computed: both arrive in any order
        live.wait_for_metric("agemoe_queue_faces 1.0")
        second.close()
        live.wait_for_metric('agemoe_requests_total{route="/v1/ages",status="499"} 1.0')
        going.set()
        assert first.recv(20).startswith(b"HTTP/1.1 200 OK")
        first.close()
        live.wait_for_metric("agemoe_queue_faces 0.0")
    assert batches == [1]


def request_of(live: Live, number: int) -> socket.socket:
    """Sends a whole request and returns the open connection."""
    request = live.client.build_request(
        "POST",
        "/v1/ages",
        files={"image": encoded(picture(number))},
        data={"detect": "false"},
        headers={"Connection": "close"},
    )
    head = b"".join(b"%s: %s\r\n" % header for header in request.headers.raw)
    connection = socket.create_connection(live.address, 30.0)
    connection.sendall(b"POST /v1/ages HTTP/1.1\r\n" + head + b"\r\n" + request.read())
    return connection
