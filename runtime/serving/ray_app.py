"""The HTTP service on many machines: one copy of the application per replica, on Ray Serve.

Two deployments. `Ages` is the application of `runtime.serving.app` as it is, with an `AgeMoE` of
its own, in as many replicas as are needed. `Front` takes requests from Ray's proxies and hands
each, whole, to a replica; where that is lost on the way, to another one. An estimate changes
nothing, so it may be asked for twice, and a request that was accepted is answered although the
machine it was on is gone.

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
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message

from runtime.serving import problems
from runtime.serving.app import create_app
from runtime.serving.decoding import read_body
from runtime.serving.problems import (
    BusyError,
    ForbiddenError,
    NotReadyError,
    ServiceError,
    problem_of,
)
from runtime.serving.service import Service
from runtime.serving.settings import Batching, Limits, Settings

log = logging.getLogger("agemoe")

RELOAD = "/v1/reload"
_ATTEMPTS = 6
_FIRST_PAUSE_SECONDS = 0.05
"""Before the second attempt; doubled each time, for Ray to notice that a replica is gone."""
_ARGUMENTS = (
    *("engines", "device", "precision", "detector", "keys", "without_keys"),
    *("limits", "batching", "revision"),
)

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Sent:
    """A request, whole."""

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """A response, whole."""

    status: int
    headers: Headers
    body: bytes


class Ages:
    """A replica: the application, asked without a socket."""

    def __init__(self, settings: Settings) -> None:
        """Opens the engines, verifies and warms them; only then does the replica get requests."""
        self._app = create_app(settings)
        self._service: Service = self._app.state.service
        self._service.open()

    async def answer(self, sent: Sent) -> Answered:
        """Answers a request."""
        return await asked(self._app, sent)

    async def check_health(self) -> None:
        """Lets Ray replace the replica if its engines do not answer for a face."""
        await run_in_threadpool(self._service.check_ready)

    def __del__(self) -> None:
        """Finishes what was accepted and frees the engines."""
        self._service.close()


class Front:
    """Hands requests to replicas, and again to others where one is lost."""

    def __init__(self, ages: DeploymentHandle[Ages], settings: Settings) -> None:
        """Takes the replicas, and the settings for their limits on bodies."""
        self._ages = ages
        self._limits = settings.limits

    async def __call__(self, request: Request) -> Response:
        """Answers a request, whatever happens."""
        try:
            return _response(await self._answered(await self._whole(request)))
        except ServiceError as error:
            problem = problem_of(error)
            return JSONResponse(
                problem.to_dict(), problem.status, dict(problem.headers), problems.MEDIA_TYPE
            )

    async def _whole(self, request: Request) -> Sent:
        if request.url.path == RELOAD:
            raise ForbiddenError(
                "This would reload one replica of many. Deploy the new engines: serve deploy."
            )
        body = await read_body(request, self._limits)
        query = request.url.query.encode("ascii")
        return Sent(request.method, request.url.path, query, request.headers.raw, body)

    async def _answered(self, sent: Sent) -> Answered:
        pause_seconds = _FIRST_PAUSE_SECONDS
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                answered: Answered = await self._ages.answer.remote(sent)
            except (RayActorError, ObjectLostError) as error:
                log.warning("attempt %d of %d: a replica was lost (%s)", attempt, _ATTEMPTS, error)
                await asyncio.sleep(pause_seconds)
                pause_seconds *= 2.0
            except BackPressureError as error:
                raise BusyError(
                    "All replicas have as much to do as they may. Try again."
                ) from error
            except DeploymentUnavailableError as error:
                raise NotReadyError("No replica can be started; see serve status.") from error
            else:
                return answered
        raise NotReadyError(f"{_ATTEMPTS} replicas were lost over this request. Try again.")


async def asked(app: ASGIApp, sent: Sent) -> Answered:
    """Asks an ASGI application in this process.

    Args:
        app: which is running.
        sent: the request.

    Returns:
        What it answered; status 500 without a body where it gave up.
    """
    finished = asyncio.Event()
    incoming: list[Message] = [{"type": "http.request", "body": sent.body, "more_body": False}]
    outgoing: list[Message] = []

    async def receive() -> Message:
        if incoming:
            return incoming.pop()
        await finished.wait()  # the client stays: one that leaves cancels this call
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        outgoing.append(message)

    try:
        await app(_scope(sent), receive, send)
    finally:
        finished.set()
    starts = [message for message in outgoing if message["type"] == "http.response.start"]
    body = b"".join(message.get("body", b"") for message in outgoing)
    if not starts:
        return Answered(500, [], b"")
    return Answered(starts[0]["status"], list(starts[0].get("headers", [])), body)


def build(arguments: Mapping[str, Any]) -> serve.Application:
    """What `serve deploy` and `serve run` start.

    Args:
        arguments: `engines`, `device`, `precision`, `detector` and `keys` as for
            `python -m runtime serve`; `without_keys: true` where there are none on purpose;
            `limits` and `batching`, mappings with the names of `settings`; `revision`, anything,
            whose change replaces all replicas.

    Raises:
        ValueError: an argument is not known, or it is not said who may come in.
        TypeError: a limit or an option of batching is not known.
    """
    if unknown := set(arguments) - set(_ARGUMENTS):
        raise ValueError(f"{', '.join(sorted(unknown))}: not known. There are {_ARGUMENTS}.")
    if not arguments.get("keys") and not arguments.get("without_keys"):
        raise ValueError("Give keys: FILE, or without_keys: true if something else checks them.")
    settings = Settings(
        engines=Path(arguments.get("engines", "engines")),
        device=arguments.get("device", "auto"),
        precision=arguments.get("precision", "auto"),
        detector=arguments.get("detector", "haar"),
        keys=Path(arguments["keys"]) if arguments.get("keys") else None,
        limits=Limits(**arguments.get("limits", {})),
        batching=Batching(**arguments.get("batching", {})),
    )
    ages = serve.deployment()(Ages).bind(settings)
    application: serve.Application = serve.deployment()(Front).bind(ages, settings)
    return application


def _scope(sent: Sent) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": sent.method,
        "scheme": "http",
        "path": sent.path,
        "raw_path": sent.path.encode(),
        "root_path": "",
        "query_string": sent.query,
        "headers": sent.headers,
        "client": None,
        "server": None,
    }


def _response(answered: Answered) -> Response:
    response = Response(answered.body, answered.status)
    response.raw_headers = answered.headers
    return response
