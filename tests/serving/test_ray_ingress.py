"""The Ray ingress with fake replicas; no cluster is started."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from ray.exceptions import ActorUnavailableError, ObjectLostError
from ray.serve.exceptions import BackPressureError
from starlette.requests import Request
from starlette.responses import Response

from runtime import DeadlineError
from runtime.serving import ray_app
from runtime.serving.ray_app import (
    AgeService,
    ForwardedRequest,
    ForwardedResponse,
    Ingress,
    build,
    call_app,
)
from runtime.serving.settings import Limits, Settings
from tests.serving.live import base64_of, encoded, engines_in, picture


class Replicas:
    """A fake deployment handle whose calls return the given outcomes in order."""

    def __init__(self, *outcomes: ForwardedResponse | Exception) -> None:
        self._outcomes = list(outcomes)
        self.sent: list[ForwardedRequest] = []
        self.handle = self

    async def remote(self, sent: ForwardedRequest) -> ForwardedResponse:
        self.sent.append(sent)
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


FINE = ForwardedResponse(
    200, [(b"content-type", b"text/plain"), (b"x-two", b"1"), (b"x-two", b"2")], b"yes"
)


def request(body: bytes = b"", path: str = "/v1/ages", receive: Any = None) -> Request:
    async def receive_body() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"a=1&b=%C3%A9",
        "headers": [(b"authorization", b"Bearer secret")],
    }
    return Request(scope, receive or receive_body)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_app, "_FIRST_PAUSE_SECONDS", 0.0)


def ingress(
    *outcomes: ForwardedResponse | Exception, **limits: Any
) -> tuple[Callable[..., Response], Replicas]:
    replicas = Replicas(*outcomes)
    made = Ingress(replicas, Settings(limits=Limits(**limits)))  # type: ignore[arg-type]
    return (lambda given: asyncio.run(made(given))), replicas


def problem(response: Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    answer: dict[str, Any] = json.loads(bytes(response.body))
    assert answer["status"] == response.status_code
    return answer


def test_requests_and_responses_are_forwarded_whole() -> None:
    send, replicas = ingress(FINE)
    response = send(request(b"picture"))
    headers = [(b"authorization", b"Bearer secret")]
    assert replicas.sent == [
        ForwardedRequest("POST", "/v1/ages", b"a=1&b=%C3%A9", headers, b"picture")
    ]
    assert (response.status_code, response.body) == (200, b"yes")
    assert response.raw_headers == FINE.headers


def test_the_id_of_a_request_is_that_of_rays_proxy() -> None:
    own = ForwardedResponse(200, [(b"x-request-id", b"7"), (b"a", b"b")], b"")
    send, _ = ingress(own)
    assert send(request()).raw_headers == [(b"a", b"b")], "the proxy adds it"
    send, _ = ingress(BackPressureError(9, 9))
    given = request()
    given.scope["headers"].append((b"x-request-id", b"from-the-proxy"))
    assert problem(send(given))["request_id"] == "from-the-proxy"


def test_a_lost_replica_is_retried() -> None:
    lost = [ActorUnavailableError("gone", None), ObjectLostError("00", None, "")]
    send, replicas = ingress(*lost, FINE)
    assert send(request(b"picture")).body == b"yes"
    assert [sent.body for sent in replicas.sent] == [b"picture"] * 3


def test_retries_are_limited() -> None:
    send, replicas = ingress(*(ActorUnavailableError("gone", None) for _ in range(6)), FINE)
    assert "6 replicas were lost" in problem(send(request()))["detail"]
    assert len(replicas.sent) == 6


def test_busy_replicas_are_a_503() -> None:
    send, replicas = ingress(BackPressureError(9, 9))
    response = send(request())
    assert problem(response)["type"] == "urn:agemoe:problem:busy"
    assert response.headers["retry-after"] == "1"
    assert len(replicas.sent) == 1


def test_a_large_body_is_not_forwarded() -> None:
    send, replicas = ingress(body_bytes=10)
    assert problem(send(request(b"x" * 11)))["status"] == 413
    assert replicas.sent == []


def test_a_slow_body_is_a_408() -> None:
    async def never() -> dict[str, Any]:
        await asyncio.sleep(60)
        raise AssertionError

    send, replicas = ingress(body_seconds=0.01)
    assert problem(send(request(receive=never)))["status"] == 408
    assert replicas.sent == []


def test_a_client_that_disconnects_is_a_499() -> None:
    async def disconnected() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    send, replicas = ingress()
    gone = problem(send(request(receive=disconnected)))
    assert (gone["status"], gone["type"]) == (499, "urn:agemoe:problem:client-gone")
    assert replicas.sent == []


def test_a_single_replica_is_not_reloaded() -> None:
    send, replicas = ingress()
    assert "serve deploy" in problem(send(request(path="/v1/reload")))["detail"]
    assert replicas.sent == []


def test_an_application_is_called_without_a_socket() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        waiting = asyncio.create_task(receive())
        await asyncio.sleep(0)
        assert not waiting.done()  # to the application, the client is still connected
        start = {"type": "http.response.start", "status": 201, "headers": [(b"a", b"b")]}
        await send(start)
        await send({"type": "http.response.body", "body": scope["path"].encode()})
        await send({"type": "http.response.body", "body": b" " + body})
        waiting.cancel()

    response = asyncio.run(call_app(app, ForwardedRequest("POST", "/there", b"", [], b"hello")))
    assert response == ForwardedResponse(201, [(b"a", b"b")], b"/there hello")


def test_a_replica_reports_the_callers_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(_: object, *, deadline_ms: Any) -> Any:
        raise DeadlineError({"a": deadline_ms.reason})

    body = {"images": [base64_of(encoded(picture(1)))], "detect": False, "deadline_ms": 45_000.5}
    headers = [(b"content-type", b"application/json")]
    sent = ForwardedRequest("POST", "/v1/ages", b"", headers, json.dumps(body).encode())
    replica = AgeService(Settings(engines_in(tmp_path / "engines")))
    monkeypatch.setattr(replica._service.current().batcher, "_predict", late)
    with contextlib.closing(replica._service):
        answered = asyncio.run(replica.handle(sent))
    assert answered.status == 504
    assert "(a: deadline of 45000.5 ms passed)" in json.loads(answered.body)["detail"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engine": "x", "without_keys": True}, "Unknown arguments: engine"),
        ({}, "Give keys"),
        ({"without_keys": True, "allowed_origins": ["a.example"]}, "is not an origin"),
    ],
)
def test_build_rejects_invalid_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(arguments)


def test_limits_and_batching_are_passed_on() -> None:
    arguments = {"without_keys": True, "limits": {"body_bytes": 5}, "batching": {"max_batch": 3}}
    settings = build(arguments)._bound_deployment.init_args[-1]
    assert (settings.limits.body_bytes, settings.batching.max_batch) == (5, 3)
    decides = {"without_keys": True, "policy": True, "quality": {"min_face_pixels": 20}}
    settings = build(decides)._bound_deployment.init_args[-1]
    assert (settings.policy, settings.quality.min_face_pixels) == (True, 20)
    with pytest.raises(TypeError, match="body_byte"):
        build({"without_keys": True, "limits": {"body_byte": 5}})


def test_the_example_configuration_builds() -> None:
    yaml = pytest.importorskip("yaml")
    path = Path(__file__).parents[2] / "deploy" / "serve_config.yaml"
    from ray.serve.schema import ServeDeploySchema

    config = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    (application,) = config.applications
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    assert {deployment.name for deployment in application.deployments} == {"Ingress", "AgeService"}
    assert isinstance(application.args, dict)
    build(application.args)
