"""A service on a real socket, with engines of a kilobyte."""

from __future__ import annotations

import base64
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from runtime import AgeMoE, Policy, write_policy
from runtime.fusion import Spread
from runtime.fusion_file import write_fusion
from runtime.serving.listening import bound_sockets, url_of
from runtime.serving.server import Server, Shutdown, make_server
from runtime.serving.settings import Settings
from tests.conftest import has_haar
from tests.runtime.fusion_tables import Row, pivot_tables
from tests.runtime.photo_samples import tiny_centerface
from tests.runtime.tiny_engines import SHA, Tiny, add_detector, write_engines

EXPERTS = {
    "a": Tiny(),
    "b": Tiny(slope=70.0, side=12),
    "both": Tiny(offset=3.0, inputs=("face", "person"), license="CC0-1.0"),
}
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Shared by all clients, because loading the system's certificates is slow."""
GRID = np.arange(101.0)


def engines_in(folder: Path, *, kind: str = "checkpoint", offset: float = 0.0) -> Path:
    """Writes calibrated engines; a different offset makes a different version."""
    folder.mkdir(exist_ok=True)
    experts = EXPERTS | {"a": Tiny(offset=offset, kind=kind)}
    write_engines(folder, experts)
    rows = {name: Row(-5.0, source_sha256=SHA) for name in experts}
    quantiles = np.tile([-4.0, 0.0, 6.0], (len(GRID), 1))
    subsets = [frozenset(experts), frozenset(("a", "b"))]
    spread = Spread((0.05, 0.5, 0.95), dict.fromkeys(subsets, quantiles))
    write_fusion(folder / "fusion.json", pivot_tables(rows, grid=GRID.tolist(), spread=spread))
    if not has_haar():  # the service needs some detector
        add_detector(folder, tiny_centerface(folder.parent / "colors.onnx"))
    return folder


def policy_in(engines: Path, **terms: Any) -> Policy:
    """Writes a policy that fits engines, and returns it."""
    with AgeMoE(engines, device="cpu") as moe:
        policy = Policy(binding=moe.binding, **terms)
    write_policy(engines / "policy.json", policy)
    return policy


def picture(seed: int, *, width: int = 24, height: int = 16) -> NDArray[np.uint8]:
    """Returns noise whose brightness depends on the seed, so that mix-ups are detected."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 40 + seed % 200, (height, width, 3), dtype=np.uint8)


def encoded(pixels: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Waits until a condition holds; fails after a time limit."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


def receive_all(connection: socket.socket) -> bytes:
    """Receives until the service closes or resets the connection."""
    data = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            data += chunk
    return data


def hold_predictions(
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[threading.Event, threading.Semaphore]:
    """Blocks predictions while the event is cleared; the semaphore counts the blocked ones."""
    going, begun, predict = threading.Event(), threading.Semaphore(0), AgeMoE.predict
    going.set()

    def waiting(self: AgeMoE, *args: Any, **options: Any) -> Any:
        if not going.is_set():
            begun.release()
            assert going.wait(30.0)
        return predict(self, *args, **options)

    monkeypatch.setattr(AgeMoE, "predict", waiting)
    return going, begun


def assert_problem(response: Any, status: int, message: str) -> None:
    """Checks that a response is a problem with this status and message."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem.keys() == {"type", "title", "status", "detail", "request_id"}
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem["status"] == status
    assert message in problem["detail"]


class Live:
    """A running service and a client for it."""

    def __init__(self, server: Server, url: str) -> None:
        self.server = server
        self.url = url
        self.address = (urlsplit(url).hostname or "", urlsplit(url).port or 0)
        self.client = httpx.Client(base_url=url, timeout=30.0, verify=NO_TLS)

    @property
    def moe(self) -> AgeMoE:
        return self.server.service.current().moe

    def ages(self, *images: bytes, **options: Any) -> httpx.Response:
        """Sends a JSON request; a picture without boxes is one face."""
        body = {"images": [base64_of(image) for image in images], "detect": False, **options}
        return self.client.post("/v1/ages", json=body)

    def decision(self, *images: bytes, **options: Any) -> httpx.Response:
        """Sends a JSON request for a decision."""
        body = {"images": [base64_of(image) for image in images], **options}
        return self.client.post("/v1/decisions", json=body)

    def face(self, *images: bytes, **options: Any) -> dict[str, Any]:
        """Returns the result of the first face of the first picture."""
        response = self.ages(*images, **options)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()["images"][0]["faces"][0]
        return found

    def wait_for_metric(self, line: str) -> None:
        """Waits until `/metrics` contains a line."""
        wait_for(lambda: line in self.client.get("/metrics").text)


@contextmanager
def serving(settings: Settings) -> Iterator[Live]:
    """Serves on a free port, in a thread; shuts down like SIGTERM."""
    server = make_server(settings, "127.0.0.1", 0, Shutdown(drain_seconds=10.0))
    with bound_sockets("127.0.0.1", 0) as sockets, _running(server, sockets):
        live = Live(server, url_of("127.0.0.1", sockets))
        with live.client:
            yield live


@contextmanager
def _running(server: Server, sockets: list[socket.socket]) -> Iterator[None]:
    thread = threading.Thread(target=server.run, args=(sockets,), name="agemoe-serve")
    thread.start()
    try:
        wait_for(lambda: server.started or not thread.is_alive())
        assert thread.is_alive(), "the service did not start"
        yield
    finally:
        server.should_exit = True
        thread.join(30.0)
        assert not thread.is_alive()
