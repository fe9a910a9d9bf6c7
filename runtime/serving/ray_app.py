"""The HTTP service on a Ray Serve cluster, as two deployments.

Each replica of `AgeService` runs the application of `runtime.serving.app` with an `AgeMoE` of its
own. `Ingress` receives requests from Ray's proxies and forwards each, whole, to a replica. It
retries with another replica if that one is lost: estimates have no side effects, so repeating one
is safe, and an accepted request survives the loss of a machine.

    serve deploy deploy/serve_config.yaml
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import serve
from ray.exceptions import ObjectLostError, RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message

from runtime.quality import QualityLimits
from runtime.serving.app import create_app
from runtime.serving.problems import (
    BusyError,
    ForbiddenError,
    NotReadyError,
    ServiceError,
    problem_of,
)
from runtime.serving.request_body import read_body
from runtime.serving.request_ids import HEADER, begin_request
from runtime.serving.service import Service
from runtime.serving.settings import Batching, Limits, Settings

log = logging.getLogger("agemoe")

RELOAD = "/v1/reload"
_ID_HEADER = HEADER.lower().encode()
_ATTEMPTS = 6
_FIRST_PAUSE_SECONDS = 0.05
"""Before the second attempt; doubled each time, until Ray notices that a replica is lost."""
_PLAIN = ("device", "precision", "detector", "policy", "decoders")
"""Arguments that become settings as they are."""
_ARGUMENTS = (
    *("engines", *_PLAIN, "keys", "without_keys", "allowed_origins"),
    *("limits", "batching", "quality", "revision"),
)

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class ForwardedRequest:
    """A complete HTTP request."""

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class ForwardedResponse:
    """A complete HTTP response."""

    status: int
    headers: Headers
    body: bytes


class AgeService:
    """A replica: the application, called without a socket."""

    def __init__(self, settings: Settings) -> None:
        """Opens, verifies and warms up the engines; Ray sends requests only afterwards."""
        self._app = create_app(settings)
        self._service: Service = self._app.state.service
        self._service.open()

    async def handle(self, request: ForwardedRequest) -> ForwardedResponse:
        """Returns the application's response to a request."""
        return await call_app(self._app, request)

    async def check_health(self) -> None:
        """Raises an error, upon which Ray replaces the replica, if the engines do not work."""
        await run_in_threadpool(self._service.check_ready)

    def __del__(self) -> None:
        """Completes the accepted requests and frees the engines."""
        self._service.close()


class Ingress:
    """Forwards requests to replicas; retries with another replica if one is lost."""

    def __init__(self, replicas: DeploymentHandle[AgeService], settings: Settings) -> None:
        """Takes the replicas and the settings with the limits on bodies."""
        self._replicas = replicas
        self._limits = settings.limits

    async def __call__(self, request: Request) -> Response:
        """Returns the response of a replica, or a problem.

        Ray's proxies add the request id to requests without one, and to all responses.
        """
        begin_request(request.headers.get(HEADER))
        try:
            forwarded = await self._forward(await self._receive(request))
        except ServiceError as error:
            return problem_of(error).response()
        response = Response(forwarded.body, forwarded.status)
        response.raw_headers = [
            (name, value) for name, value in forwarded.headers if name.lower() != _ID_HEADER
        ]
        return response

    async def _receive(self, request: Request) -> ForwardedRequest:
        if request.url.path == RELOAD:
            raise ForbiddenError(
                "A reload would reach only one replica. Deploy the new engines: serve deploy."
            )
        body = bytes(await read_body(request, self._limits))
        query = request.url.query.encode("ascii")
        return ForwardedRequest(request.method, request.url.path, query, request.headers.raw, body)

    async def _forward(self, request: ForwardedRequest) -> ForwardedResponse:
        pause_seconds = _FIRST_PAUSE_SECONDS
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                response: ForwardedResponse = await self._replicas.handle.remote(request)
            except (RayActorError, ObjectLostError) as error:
                log.warning("attempt %d of %d: a replica was lost (%s)", attempt, _ATTEMPTS, error)
                await asyncio.sleep(pause_seconds)
                pause_seconds *= 2.0
            except BackPressureError as error:
                raise BusyError("All replicas are busy. Try again in a moment.") from error
            except DeploymentUnavailableError as error:
                raise NotReadyError("No replica can be started. See serve status.") from error
            else:
                return response
        raise NotReadyError(f"{_ATTEMPTS} replicas were lost during this request. Try again.")


async def call_app(app: ASGIApp, request: ForwardedRequest) -> ForwardedResponse:
    """Returns the response of a started ASGI application; status 500 if it sent none."""
    finished = asyncio.Event()
    incoming: list[Message] = [{"type": "http.request", "body": request.body, "more_body": False}]
    outgoing: list[Message] = []

    async def receive() -> Message:
        if incoming:
            return incoming.pop()
        await finished.wait()  # a client that disconnects cancels this call
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        outgoing.append(message)

    try:
        await app(_scope(request), receive, send)
    finally:
        finished.set()
    starts = [message for message in outgoing if message["type"] == "http.response.start"]
    body = b"".join(message.get("body", b"") for message in outgoing)
    if not starts:
        return ForwardedResponse(500, [], b"")
    return ForwardedResponse(starts[0]["status"], list(starts[0].get("headers", [])), body)


def build(arguments: Mapping[str, Any]) -> serve.Application:
    """Builds the application that `serve deploy` and `serve run` start.

    Args:
        arguments: `engines`, `device`, `precision`, `detector`, `policy`, `decoders` and `keys` as
            for `agemoe serve`; `without_keys: true` to serve without keys; `allowed_origins`, a
            list; `limits`, `batching` and `quality`, mappings with the fields of `Limits`,
            `Batching` and `QualityLimits`; `revision`, any value, whose change replaces all
            replicas.

    Raises:
        ValueError: an argument is unknown, or access control is not configured.
        TypeError: a limit or a batching option is unknown.
    """
    if unknown := set(arguments) - set(_ARGUMENTS):
        raise ValueError(
            f"Unknown arguments: {', '.join(sorted(unknown))}. Known: {', '.join(_ARGUMENTS)}."
        )
    if not arguments.get("keys") and not arguments.get("without_keys"):
        raise ValueError(
            "Give keys: FILE, or without_keys: true behind a proxy that controls access."
        )
    given = {name: arguments[name] for name in _PLAIN if name in arguments}
    given |= {name: Path(arguments[name]) for name in ("engines", "keys") if arguments.get(name)}
    settings = Settings(
        **given,
        limits=Limits(**arguments.get("limits", {})),
        allowed_origins=tuple(arguments.get("allowed_origins", ())),
        batching=Batching(**arguments.get("batching", {})),
        quality=QualityLimits(**arguments.get("quality", {})),
    )
    replicas = serve.deployment()(AgeService).bind(settings)
    application: serve.Application = serve.deployment()(Ingress).bind(replicas, settings)
    return application


def _scope(request: ForwardedRequest) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.path,
        "raw_path": request.path.encode(),
        "root_path": "",
        "query_string": request.query,
        "headers": request.headers,
        "client": None,
        "server": None,
    }
