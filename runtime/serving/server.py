"""The uvicorn server: signals, graceful shutdown, limits on connections."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

import uvicorn

from runtime.serving.app import create_app
from runtime.serving.connections import connection_class
from runtime.serving.problems import ServiceError
from runtime.serving.service import Service
from runtime.serving.settings import Settings

log = logging.getLogger("agemoe")


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Options of a graceful shutdown."""

    notice_seconds: float = 0.0
    """Keep serving this long while reporting not ready, for load balancers to stop sending."""
    drain_seconds: float = 30.0
    """Time for requests in progress to finish."""


class Server(uvicorn.Server):
    """A server that stops gracefully on SIGTERM and SIGINT, and reloads on SIGHUP."""

    def __init__(self, config: uvicorn.Config, service: Service, notice_seconds: float) -> None:
        """Takes the service to reload and the notice period before a shutdown."""
        super().__init__(config)
        self.service = service
        self._notice_seconds = notice_seconds

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles the signals; unlike in uvicorn, a requested shutdown is a success."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {
            signal.SIGTERM: self.handle_exit,
            signal.SIGINT: self.handle_exit,
            signal.SIGHUP: self._reload,
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves for the notice period, then closes the sockets and shuts down."""
        self.service.draining = True
        await asyncio.sleep(self._notice_seconds)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Starts the shutdown; a second SIGINT skips the drain."""
        self.service.draining = True
        super().handle_exit(sig, frame)

    def _reload(self, _number: int, _frame: FrameType | None) -> None:
        def reload() -> None:
            with suppress(ServiceError):  # logged by the service
                self.service.reload(wait=True)

        threading.Thread(target=reload, name="agemoe-reload", daemon=True).start()


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
    return Server(config, app.state.service, shutdown.notice_seconds)


def run(settings: Settings, host: str, port: int, shutdown: Shutdown) -> int:
    """Serves until a signal ends the process; returns the exit status.

    Raises:
        AgeMoEError: the engines, the keys or the detector cannot be used.
        ValueError: the detector is unknown.
    """
    server = make_server(settings, host, port, shutdown)
    server.service.open()  # uvicorn would report an error as a traceback
    server.run()
    return 0 if server.started else 1
