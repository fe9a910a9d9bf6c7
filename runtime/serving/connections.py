"""uvicorn's HTTP/1.1 connection, with a limit on how long a request's head may take."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def connection_class(header_seconds: float) -> type[H11Protocol]:
    """A connection that is closed where a request's head is not there in time.

    uvicorn itself waits for ever, so that a few thousand silent clients use up all connections.
    """

    class Connection(H11Protocol):
        """Closes itself when the head of a request takes too long."""

        _patience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            """Starts waiting for the first request."""
            super().connection_made(transport)
            self._wait_for_head()

        def data_received(self, data: bytes) -> None:
            """Goes on waiting, or stops when the head is complete."""
            super().data_received(data)
            if self.conn.their_state is h11.IDLE:
                self._wait_for_head()
            else:
                self._stop_waiting()

        def connection_lost(self, exc: Exception | None) -> None:
            """Stops waiting."""
            self._stop_waiting()
            super().connection_lost(exc)

        def _wait_for_head(self) -> None:
            if self._patience is None:
                self._patience = self.loop.call_later(header_seconds, self.transport.close)

        def _stop_waiting(self) -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

    return Connection
