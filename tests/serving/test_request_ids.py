"""Request ids and the access log of a live service."""

from __future__ import annotations

import io
import json
import logging
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

from runtime import AgeEstimate
from runtime.serving.batching import Batcher
from runtime.serving.keys import new_key
from runtime.serving.logs import JsonFormatter
from runtime.serving.request_ids import HEADER, begin_request
from runtime.serving.settings import Settings
from tests.serving.fake_predict import FakePredict, face
from tests.serving.live import (
    Live,
    assert_problem,
    encoded,
    engines_in,
    picture,
    receive_all,
    serving,
    wait_for,
)

PICTURE = encoded(picture(1))


class Log:
    """The records of all loggers, as the service writes them in JSON."""

    def __init__(self) -> None:
        self._text = io.StringIO()
        self.handler = logging.StreamHandler(self._text)
        self.handler.setFormatter(JsonFormatter())

    def records(self, request_id: str | None) -> list[dict[str, Any]]:
        lines = map(json.loads, self._text.getvalue().splitlines())
        return [line for line in lines if line["request_id"] == request_id]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    caplog.set_level(logging.INFO)
    made = Log()
    logging.getLogger().addHandler(made.handler)
    yield made
    logging.getLogger().removeHandler(made.handler)


@pytest.mark.parametrize(
    "path", ["/", "/page/page.js", "/health/ready", "/metrics", "/nowhere", "/openapi.json"]
)
def test_every_response_has_the_id_of_its_request(live: Live, path: str) -> None:
    for given in ("a" * 128, "Root=1-67891233-abc:/+@_.~"[:-1], "7"):
        assert live.client.get(path, headers={HEADER: given}).headers.get_list(HEADER) == [given]
    made = {live.client.get(path).headers[HEADER] for _ in range(2)}
    assert len(made) == 2
    assert all(len(bytes.fromhex(one)) == 16 for one in made)


@pytest.mark.parametrize("given", [b"", b"a" * 129, b"a b", b'a"', b"\xe9", b"a,b", b"a\tb"])
def test_other_ids_are_replaced(live: Live, given: bytes) -> None:
    answer = live.client.get("/health/live", headers={HEADER.encode(): given})
    assert len(bytes.fromhex(answer.headers[HEADER])) == 16


def test_refusals_have_the_id_too(live: Live) -> None:
    with socket.create_connection(live.address, 30.0) as connection:
        head = b"Host: x\r\nX-Request-ID: big\r\nContent-Type: application/json\r\n"
        length = b"Content-Length: 1000000000\r\n\r\n"
        connection.sendall(b"POST /v1/ages HTTP/1.1\r\n" + head + length)
        refused = receive_all(connection)
    assert refused.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nx-request-id: big\r\n" in refused.lower()
    assert b'"request_id":"big"' in refused
    assert_problem(live.client.post("/v1/ages", headers={HEADER: "no-body"}), 415, "Expected")
    one_of_two = live.ages(PICTURE, b"no picture").json()["images"][1]["problem"]
    assert "request_id" not in one_of_two


def test_all_records_of_a_request_have_its_id(
    live: Live, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        logging.getLogger("agemoe").warning("in the thread of a batch")
        raise RuntimeError("a secret")

    monkeypatch.setattr(live.server.service.current().batcher, "_predict", failing)
    answer = live.client.post(
        "/v1/ages", files={"image": PICTURE}, data={"detect": "false"}, headers={HEADER: "failing"}
    )
    assert_problem(answer, 500, "unexpected")
    assert answer.headers["x-content-type-options"] == "nosniff"
    wait_for(lambda: len(log.records("failing")) == 3)  # the last comes after the response
    records = log.records("failing")
    assert [record["logger"] for record in records] == [
        *("agemoe", "agemoe.access", "agemoe.connections")
    ]
    assert records[2]["exception"].endswith("RuntimeError: a secret")


def test_a_batch_of_several_requests_has_all_ids(log: Log) -> None:
    def predict(faces: Any, **options: Any) -> Any:
        logging.getLogger("agemoe").warning("predicting")
        return FakePredict()(faces, **options)

    with Batcher(predict, max_batch=3, max_wait_ms=60_000.0, workers=1) as batcher:
        for name in ("first", "first", "second"):
            future = copy_context().run(submit, batcher, name)
        future.result(30.0)
    assert [record["message"] for record in log.records("first,second")] == ["predicting"]


def submit(batcher: Batcher, name: str) -> Future[AgeEstimate]:
    begin_request(name)
    return batcher.submit(face(1))


def test_the_log_of_a_service(tmp_path: Path, log: Log) -> None:
    secret, key = new_key("phone", "user")
    (tmp_path / "keys").write_text(key.line())
    settings = Settings(engines_in(tmp_path / "engines"), keys=tmp_path / "keys")
    with serving(settings) as live:
        headers = {"Authorization": f"Bearer {secret}", HEADER: "mine"}
        files = {"image": ("holiday.jpg", PICTURE)}
        live.client.post("/v1/ages?from=query", files=files, headers=headers)
        live.client.head("/a path%0A", headers={HEADER: "other"})
        live.client.get("/health/live", headers={HEADER: "quiet"})
    assert f"serving on {live.url} (Ctrl+C stops it)" in [
        record["message"] for record in log.records(None)
    ]
    (record,) = log.records("mine")
    assert record.pop("ms") > 0.0
    assert record.pop("message").startswith("POST /v1/ages 200 ")
    del record["time"]
    assert record == {
        "level": "INFO",
        "logger": "agemoe.access",
        "request_id": "mine",
        "method": "POST",
        "path": "/v1/ages",
        "status": 200,
        "key": "phone",
    }
    (record,) = log.records("other")
    assert record["message"].startswith("HEAD /a%20path%0A 404 ")
    assert record["key"] is None
    assert log.records("quiet") == [], "probes would fill the log"
