"""The HTTP service as an ASGI application: `create_app`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.errors import AgeMoEError
from runtime.serving import problems
from runtime.serving.authentication import admission
from runtime.serving.decoding import read_request
from runtime.serving.generation import PAGE, Generation
from runtime.serving.metrics import Metrics
from runtime.serving.problems import ClientGoneError, NotReadyError, Problem, problem_of
from runtime.serving.schemas import (
    AgesAnswer,
    ExpertsAnswer,
    ProblemAnswer,
    StatusAnswer,
    request_body,
)
from runtime.serving.service import Service
from runtime.serving.settings import Settings

T = TypeVar("T")

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_TEXT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}
_UNROUTED = "other"
"""What requests are counted under that no route takes: their paths are anybody's."""
_ABOUT = """Ages of faces, by a mixture of experts.

Send pictures to `/v1/ages`. Whatever goes wrong is told as RFC 9457 problem details. Pictures are
held in memory while they are answered, and are neither stored nor logged."""


def create_app(settings: Settings) -> FastAPI:
    """Builds the service; the engines are opened when it starts and closed when it ends.

    Raises:
        KeyFileError: the file of API keys is not in order.
        ValueError: there is no such detector.
        BackendError: the detector's model cannot be used.
    """
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(service.open)
        try:
            yield
        finally:
            await run_in_threadpool(service.close)

    app = FastAPI(
        title="AgeMoE",
        version="1",
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages load their scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # behind a proxy that speaks TLS it would lead out of it
    )
    app.state.service = service
    app.add_exception_handler(AgeMoEError, _on_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_error)
    user, admin = admission(service)
    _add_ages(app, service, user)
    _add_operations(app, service, user, admin)
    _add_page(app)
    app.add_middleware(_Observed, metrics=service.metrics)
    return app


def _add_ages(app: FastAPI, service: Service, user: Any) -> None:  # noqa: ANN401 - FastAPI's Depends
    @app.post(
        "/v1/ages",
        summary="Estimate ages",
        responses=_told(AgesAnswer, 400, 401, 408, 409, 413, 415, 422, 500, 503, 504),
        dependencies=[user],
        openapi_extra={"requestBody": request_body()},
    )
    async def ages(request: Request) -> Response:
        with service.admitted():
            times_ms: dict[str, float] = {}
            with service.metrics.timed("total", times_ms):
                with service.metrics.timed("receive", times_ms):
                    asked = await read_request(request, service.settings.limits)
                said = await _unless_gone(request, service.ages(asked, times_ms))
            return JSONResponse(said)

    @app.get(
        "/v1/experts",
        summary="The engines in use",
        responses=_told(ExpertsAnswer, 401, 503),
        dependencies=[user],
    )
    async def experts() -> Response:
        return JSONResponse(service.describe())


def _add_operations(app: FastAPI, service: Service, user: Any, admin: Any) -> None:  # noqa: ANN401
    @app.get("/health/live", summary="Whether the process runs", responses=_told(StatusAnswer))
    async def live() -> Response:
        return JSONResponse({"status": "live"})

    @app.get(
        "/health/ready",
        summary="Whether the engines answer",
        responses=_told(StatusAnswer, 503),
    )
    async def ready() -> Response:
        try:
            generation = await run_in_threadpool(service.check_ready)
        except AgeMoEError as error:
            raise NotReadyError(str(error)) from error
        return JSONResponse(_status("ready", generation, service))

    @app.get(
        "/metrics",
        summary="Prometheus' text format",
        responses=_told(None, 401) | _TEXT,
        response_class=Response,
        dependencies=[user],
    )
    async def metrics() -> Response:
        text = await run_in_threadpool(service.metrics.exposition)
        return Response(text, media_type="text/plain; version=0.0.4")

    @app.post(
        "/v1/reload",
        summary="Open the engines folder anew",
        responses=_told(StatusAnswer, 401, 403, 409, 503),
        dependencies=[admin],
    )
    async def reload() -> Response:
        generation = await run_in_threadpool(service.reload)
        return JSONResponse(_status("reloaded", generation, service))


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html")

    app.mount("/page", StaticFiles(directory=PAGE))


def _status(status: str, generation: Generation, service: Service) -> dict[str, Any]:
    return {
        "status": status,
        "version": generation.version,
        "last_reload": service.last_reload,
    }


def _told(model: Any, *statuses: int) -> dict[int | str, dict[str, Any]]:  # noqa: ANN401
    """The answers of a route, for the OpenAPI document."""
    problem = {"schema": {"$ref": f"#/components/schemas/{ProblemAnswer.__name__}"}}
    told: dict[int | str, dict[str, Any]] = {200: {"model": model}}
    for status in statuses:
        told[status] = {
            "description": Problem(status, "", "").to_dict()["title"],
            "content": {problems.MEDIA_TYPE: problem},
        }
    return told


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Does the work unless the client leaves, which is noticed while it waits.

    Raises:
        ClientGoneError: it left; what was not begun is not done.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError("The client left before it was answered.")
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
            with suppress(asyncio.CancelledError, AgeMoEError):
                await each


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _on_error(request: Request, error: Exception) -> Response:
    return _answered(request, problem_of(error))


async def _on_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return await _on_error(request, error)
    problem = problems.problem_of_status(error.status_code, error.detail, error.headers)
    return _answered(request, problem)


def _answered(request: Request, problem: Problem) -> Response:
    request.app.state.service.metrics.refused.labels(problem.slug).inc()
    return JSONResponse(
        problem.to_dict(), problem.status, dict(problem.headers), problems.MEDIA_TYPE
    )


class _Observed:
    """Counts and times every request, and puts the security headers on every answer.

    HEAD is answered as GET; the server leaves the body out.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        scope = {**scope, "method": "GET" if scope["method"] == "HEAD" else scope["method"]}
        headers = _HEADERS | {"Cache-Control": _caching(scope["path"])}

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(headers)
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            route = getattr(scope.get("route"), "path", _UNROUTED)
            self._metrics.answered(route, status, time.perf_counter() - started)


def _caching(path: str) -> str:
    """Answers are nowhere kept; the page is, and asked for anew whether it has changed."""
    return "no-cache" if path == "/" or path.startswith("/page/") else "no-store"
