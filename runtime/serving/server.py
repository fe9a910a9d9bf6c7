"""The uvicorn server: signals, graceful shutdown, limits on connections."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

import uvicorn

from runtime.serving.app import create_app
from runtime.serving.connections import connection_class
from runtime.serving.listening import bound_sockets, listen, url_of
from runtime.serving.problems import ServiceError
from runtime.serving.service import Service
from runtime.serving.settings import Settings

log = logging.getLogger("agemoe")

_Handler = Callable[[int, FrameType | None], None]

_HANGUP: int | None = getattr(signal, "SIGHUP", None)
"""Reloads; Windows has none, so there the request /v1/reload is the only way."""
_BREAK: int | None = getattr(signal, "SIGBREAK", None)
"""Ctrl+Break on Windows, where no other process can send a SIGTERM that is handled."""
_EXIT_SECONDS = 1.0
"""Time after the drain for what was cancelled to end."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Options of a graceful shutdown."""

    notice_seconds: float = 0.0
    """Keep serving this long while reporting not ready, for load balancers to stop sending."""
    drain_seconds: float = 30.0
    """Time for requests in progress to finish."""


class Server(uvicorn.Server):
    """A server that stops gracefully on SIGTERM and SIGINT, and reloads on SIGHUP."""

    def __init__(self, config: uvicorn.Config, service: Service, shutdown: Shutdown) -> None:
        """Takes the service to reload, and the options of a shutdown."""
        super().__init__(config)
        self.service = service
        self.exits_process = False
        """The process ends when the time for a shutdown is over, whatever still runs in it."""
        self._shutdown = shutdown
        self._reloads = _Reloads(service)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles the signals; unlike in uvicorn, a requested shutdown is a success."""
        with self._handling({signal.SIGTERM: self.handle_exit, signal.SIGINT: self.handle_exit}):
            yield

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Handles SIGHUP and SIGTERM within the context, in which the service need not be open.

        The first process of a container would ignore a SIGTERM that it does not handle.
        """
        with self._handling({signal.SIGTERM: _exit_now}):
            try:
                yield
            finally:
                self._reloads.stop()

    @contextmanager
    def _handling(self, handlers: Mapping[int, _Handler]) -> Iterator[None]:
        """Handles these signals and SIGHUP within the context, where it is the main thread's."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._reloads.start()
        all_handlers: dict[int, _Handler] = dict(handlers)
        if _HANGUP is not None:
            all_handlers[_HANGUP] = self._reloads.request
        if _BREAK is not None:
            all_handlers[_BREAK] = handlers[signal.SIGTERM]
        before = {number: signal.signal(number, one) for number, one in all_handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves for the notice period, then closes the sockets and shuts down."""
        self.service.draining = True
        self._reloads.stop()
        await asyncio.sleep(self._shutdown.notice_seconds)
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to accept connections, and logs where."""
        await super().startup(sockets)
        if sockets:  # uvicorn logs its own
            log.info("serving on %s (Ctrl+C stops it)", url_of(self.config.host, sockets))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Starts the shutdown; a second SIGINT skips the drain."""
        if self.exits_process and not self.service.draining:
            seconds = self._shutdown.notice_seconds + self._shutdown.drain_seconds + _EXIT_SECONDS
            with suppress(RuntimeError):  # no thread can be started: the drain has no limit then
                threading.Thread(target=_exit_after, args=(seconds,), daemon=True).start()
        self.service.draining = True
        super().handle_exit(sig, frame)


class _Reloads:
    """Reloads the engines on request, one reload at a time.

    Requests during a reload lead to one more, because the folder may have changed again.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._requests: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread that reloads, unless it runs."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="agemoe-reload", daemon=True)
            self._thread.start()

    def request(self, _number: int, _frame: FrameType | None) -> None:
        """Handles the signal; it may interrupt itself, so it only uses what is reentrant."""
        self._requests.put(True)  # noqa: FBT003 - not False, which ends the thread

    def stop(self) -> None:
        """Ends the thread after the reload in progress."""
        self._requests.put(False)  # noqa: FBT003

    def _work(self) -> None:
        while self._requests.get():
            with suppress(queue.Empty):
                while self._requests.get_nowait():
                    pass
                return
            with suppress(ServiceError):  # logged by the service
                self._service.reload(wait=True)


def _exit_now(_number: int, _frame: FrameType | None) -> None:
    """Ends the process: nothing is accepted yet."""
    os._exit(128 + signal.SIGTERM)


def _exit_after(seconds: float) -> None:
    """Ends the process: threads that decode or compute cannot be stopped otherwise."""
    time.sleep(seconds)
    log.error("the time for the shutdown is over; what is still in progress is given up")
    sys.stderr.flush()
    os._exit(1)


def make_server(settings: Settings, host: str, port: int, shutdown: Shutdown) -> Server:
    """Builds the server without starting it; port 0 selects a free one."""
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=connection_class(settings.limits),
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        limit_concurrency=settings.limits.connections,
        timeout_graceful_shutdown=int(shutdown.drain_seconds),
    )
    return Server(config, app.state.service, shutdown)


def run(settings: Settings, host: str, port: int, shutdown: Shutdown) -> int:
    """Serves until a signal ends the process; returns the exit status.

    Raises:
        AddressError: the address cannot be listened on; no engine has been opened.
        AgeMoEError: the engines, the keys or the detector cannot be used.
        ValueError: the detector is unknown.
    """
    server = make_server(settings, host, port, shutdown)
    server.exits_process = True
    with bound_sockets(host, port) as sockets, server.opening():
        log.info("opening the engines, to serve on %s", url_of(host, sockets))
        server.service.open()  # uvicorn would report an error as a traceback
        listen(sockets)
        server.run(sockets)
    return 0 if server.started else 1
