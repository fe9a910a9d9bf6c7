"""What every request passes first: its id, Host, CORS, security headers, metrics, access log."""

from __future__ import annotations

import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.serving.logs import log_access
from runtime.serving.metrics import Metrics
from runtime.serving.problems import HostError, problem_of
from runtime.serving.request_ids import HEADER, begin_request
from runtime.serving.settings import Settings

_SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_UNROUTED = "other"
"""Route label of requests that match no route, whose paths are arbitrary."""
_PREFLIGHT_SECONDS = 600


def instrumented(app: ASGIApp, settings: Settings, metrics: Metrics) -> ASGIApp:
    """Returns an application with everything around it that its settings ask for."""
    if settings.allowed_origins:
        # A key is sent in a header by the page's own code; there are no cookies to allow.
        app = CORSMiddleware(
            app,
            allow_origins=settings.allowed_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type", HEADER),
            expose_headers=(HEADER, "Retry-After"),
            max_age=_PREFLIGHT_SECONDS,
        )
    return _Instrumentation(app, metrics, settings.allowed_hosts)


class _Instrumentation:
    """Gives requests an id, checks Host, counts, times and logs, and adds the security headers.

    HEAD is handled as GET; the server omits the body.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, hosts: tuple[str, ...] | None) -> None:
        self._app = app
        self._metrics = metrics
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, method = time.perf_counter(), 500, scope["method"]
        request = begin_request(Headers(scope=scope).get(HEADER))
        app = self._app if self._serves(scope) else _misdirected
        scope = {**scope, "method": "GET" if method == "HEAD" else method}
        page = scope["path"] == "/" or scope["path"].startswith("/page/")
        # Responses are never cached, and the page is revalidated.
        cached = "no-cache" if page else "no-store"
        headers = _SECURITY_HEADERS | {"Cache-Control": cached, HEADER: request.id}

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(headers)
            await send(message)

        try:
            await app(scope, receive, send_with_headers)
        finally:
            route = getattr(scope.get("route"), "path", _UNROUTED)
            seconds = time.perf_counter() - started
            self._metrics.record_request(route, status, seconds)
            log_access(method, scope["path"], status, seconds, request)

    def _serves(self, scope: Scope) -> bool:
        """Returns whether the request is for an allowed host.

        A web page of another site whose name was pointed to this address ("DNS rebinding") would
        otherwise read the answers of a service without keys.
        """
        if self._hosts is None:
            return True
        name = Headers(scope=scope).get("host", "").rsplit("@", 1)[-1]
        name = name[: name.find("]") + 1] if name.startswith("[") else name.partition(":")[0]
        return name.lower() in self._hosts


async def _misdirected(scope: Scope, receive: Receive, send: Send) -> None:
    error = HostError(
        "This service does not serve the host of this request. Use the address it listens on, or "
        "start it with --allowed-hosts NAME."
    )
    await problem_of(error).response()(scope, receive, send)
