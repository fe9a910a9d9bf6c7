"""The HTTP service as an ASGI application: `create_app`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from runtime.errors import AgeMoEError
from runtime.serving import problems
from runtime.serving.authentication import access_dependencies
from runtime.serving.decision_schemas import DECISIONS, DecisionAnswer
from runtime.serving.generation import PAGE, Generation
from runtime.serving.instrumentation import instrumented
from runtime.serving.prediction import JsonObject
from runtime.serving.problems import (
    ClientGoneError,
    NotReadyError,
    Problem,
    problem_of,
)
from runtime.serving.request_body import ParsedRequest, read_request
from runtime.serving.schemas import (
    AGES,
    AgesAnswer,
    ExpertsAnswer,
    ProblemAnswer,
    Schemas,
    StatusAnswer,
)
from runtime.serving.service import Service
from runtime.serving.settings import Settings

T = TypeVar("T")
Work = Callable[[ParsedRequest, dict[str, float]], Coroutine[Any, Any, JsonObject]]
"""Answers a request; its second argument receives the duration of each stage."""

_PLAIN_TEXT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}
_DESCRIPTION = """Age estimation from faces by a mixture of experts.

Send pictures to `/v1/ages`, or those of one person to `/v1/decisions`. Errors are RFC 9457 problem
details. Pictures are kept in memory while they are processed, and are neither stored nor logged."""


class _Application(FastAPI):
    """An application with its instrumentation around everything, unexpected errors included."""

    def build_middleware_stack(self) -> ASGIApp:
        service: Service = self.state.service
        return instrumented(super().build_middleware_stack(), service.settings, service.metrics)


def create_app(settings: Settings) -> FastAPI:
    """Builds the application, which opens the engines on startup and closes them on shutdown.

    Raises what `Service` raises.
    """
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(service.open)
        try:
            yield
        finally:
            await run_in_threadpool(service.close)

    app = _Application(
        title="AgeMoE",
        version="1",
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,  # behind a TLS proxy a redirect would lead to plain HTTP
    )
    app.state.service = service
    app.add_exception_handler(AgeMoEError, _on_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_error)
    user, admin = access_dependencies(service)
    _add_pictures(app, service, user)
    _add_operations(app, service, user, admin)
    _add_page(app)
    return app


def _add_pictures(app: FastAPI, service: Service, user: Any) -> None:  # noqa: ANN401 - FastAPI's Depends
    @app.post(
        "/v1/ages",
        summary="Estimate ages",
        responses=_responses(AgesAnswer, 400, 401, 408, 409, 413, 415, 422, 500, 503, 504),
        dependencies=[user],
        openapi_extra={"requestBody": AGES.request_body()},
    )
    async def ages(request: Request) -> Response:
        return await _respond(request, service, AGES, service.ages)

    @app.post(
        "/v1/decisions",
        summary="Decide whether one person is old enough",
        responses=_responses(DecisionAnswer, 400, 401, 408, 409, 413, 415, 422, 500, 503, 504),
        dependencies=[user],
        openapi_extra={"requestBody": DECISIONS.request_body()},
    )
    async def decisions(request: Request) -> Response:
        service.require_policy()
        return await _respond(request, service, DECISIONS, service.decision)

    @app.get(
        "/v1/experts",
        summary="The engines in use",
        responses=_responses(ExpertsAnswer, 401, 503),
        dependencies=[user],
    )
    async def experts() -> Response:
        return JSONResponse(service.describe())


def _add_operations(app: FastAPI, service: Service, user: Any, admin: Any) -> None:  # noqa: ANN401
    @app.get(
        "/health/live", summary="Liveness: the process runs", responses=_responses(StatusAnswer)
    )
    async def live() -> Response:
        return JSONResponse({"status": "live"})

    @app.get(
        "/health/ready",
        summary="Readiness: the engines work",
        responses=_responses(StatusAnswer, 503),
    )
    async def ready() -> Response:
        try:
            generation = await run_in_threadpool(service.check_ready)
        except AgeMoEError as error:
            raise NotReadyError(*error.args) from error
        return JSONResponse(_status("ready", generation, service))

    @app.get(
        "/metrics",
        summary="Metrics in Prometheus' text format",
        responses=_responses(None, 401) | _PLAIN_TEXT,
        response_class=Response,
        dependencies=[user],
    )
    async def metrics() -> Response:
        text = await run_in_threadpool(service.metrics.exposition)
        return Response(text, media_type="text/plain; version=0.0.4")

    @app.post(
        "/v1/reload",
        summary="Reload the engines folder",
        responses=_responses(StatusAnswer, 401, 403, 409, 503),
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
    version = generation.version
    return {"status": status, "version": version, "last_reload": service.last_reload}


def _responses(model: Any, *statuses: int) -> dict[int | str, dict[str, Any]]:  # noqa: ANN401
    """Returns the responses of a route for the OpenAPI document."""
    problem = {"schema": {"$ref": f"#/components/schemas/{ProblemAnswer.__name__}"}}
    responses: dict[int | str, dict[str, Any]] = {200: {"model": model}}
    for status in statuses:
        responses[status] = {
            "description": Problem(status, "", "").to_dict()["title"],
            "content": {problems.MEDIA_TYPE: problem},
        }
    return responses


async def _respond(request: Request, service: Service, schemas: Schemas, work: Work) -> Response:
    """Reads a request with pictures and returns what is made of it."""
    try:
        with service.admitted():
            times_ms: dict[str, float] = {}
            with service.metrics.timed("total", times_ms):
                with service.metrics.timed("receive", times_ms):
                    parsed = await read_request(request, service.settings.limits, schemas)
                answer = await _cancel_on_disconnect(request, work(parsed, times_ms))
            return JSONResponse(answer)
    except asyncio.CancelledError:
        if not service.draining:
            raise
        raise NotReadyError("The service is stopping and cannot finish this request.") from None


async def _cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Returns the result of the work, or cancels it when the client disconnects.

    Raises:
        ClientGoneError: the client disconnected; work that had not started is dropped.
    """
    task = asyncio.create_task(work)
    disconnected = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError("The client disconnected before the response.")
        return task.result()
    finally:
        for each in (task, disconnected):
            each.cancel()
            with suppress(asyncio.CancelledError, AgeMoEError):
                await each


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _on_error(request: Request, error: Exception) -> Response:
    return _problem_response(request, problem_of(error))


async def _on_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return await _on_error(request, error)
    problem = problems.problem_of_status(error.status_code, error.detail, error.headers)
    return _problem_response(request, problem)


def _problem_response(request: Request, problem: Problem) -> Response:
    request.app.state.service.metrics.problems.labels(problem.slug).inc()
    return problem.response()
