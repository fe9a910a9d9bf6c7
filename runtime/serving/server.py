"""uvicorn around the application: signals, drain, limits on connections."""

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
class Stopping:
    """How the service ends when it is told to."""

    notice_seconds: float = 0.0
    """It serves on so long, not ready, until a load balancer has seen that and sends no more."""
    drain_seconds: float = 30.0
    """For what is under way then."""


class Server(uvicorn.Server):
    """A server that stops gracefully on SIGTERM and SIGINT, and reloads on SIGHUP."""

    def __init__(self, config: uvicorn.Config, service: Service, notice_seconds: float) -> None:
        """Takes the service that reloads, and the notice that is given before the end."""
        super().__init__(config)
        self.service = service
        self._notice_seconds = notice_seconds

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Listens to the signals; unlike uvicorn, a stop that was asked for is a success."""
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
        """Serves on for the notice, then takes no new connection and ends."""
        self.service.draining = True
        await asyncio.sleep(self._notice_seconds)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Gives notice, finishes what is under way, ends; a second SIGINT hurries."""
        self.service.draining = True
        super().handle_exit(sig, frame)

    def _reload(self, _number: int, _frame: FrameType | None) -> None:
        def reload() -> None:
            with suppress(ServiceError):  # it is in the log, where the sender of a signal looks
                self.service.reload(wait=True)

        threading.Thread(target=reload, name="agemoe-reload", daemon=True).start()


def make_server(settings: Settings, host: str, port: int, stopping: Stopping) -> Server:
    """Builds the server, which is not started.

    Args:
        settings: of the service.
        host: address to listen on.
        port: to listen on; 0 takes a free one.
        stopping: how it ends.
    """
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
        timeout_graceful_shutdown=int(stopping.drain_seconds),
    )
    return Server(config, app.state.service, stopping.notice_seconds)


def run(settings: Settings, host: str, port: int, stopping: Stopping) -> int:
    """Serves until told to stop; returns the exit status.

    Raises:
        AgeMoEError: the engines, the keys or the detector are not in order.
        ValueError: there is no such detector.
    """
    server = make_server(settings, host, port, stopping)
    server.service.open()  # here a problem is a message; within uvicorn it were a traceback
    server.run()
    return 0 if server.started else 1
