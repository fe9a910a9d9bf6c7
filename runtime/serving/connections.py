"""uvicorn's HTTP/1.1 connection, with limits on how long a client may keep it waiting."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from runtime.serving.settings import Limits


class Connection(H11Protocol):
    """Ends itself where its client does not do his part in time.

    uvicorn itself waits for ever for a request's head, for the rest of a body that nobody reads
    and for an answer to be taken, so that a few hundred such clients use up all connections. The
    body of a request that is being read is the application's affair.
    """

    limits: ClassVar[Limits]
    _sending: asyncio.TimerHandle | None = None
    _taking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts waiting for the first request."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # `pause_writing` comes with the first byte
        self._wait_for_more()

    def data_received(self, data: bytes) -> None:
        """Goes on waiting, or stops when the head is complete."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._wait_for_more()
        elif not self._unread():
            _stop(self._sending)

    def on_response_complete(self) -> None:
        """Waits for the rest of a request that was answered before it was read."""
        super().on_response_complete()
        if self._unread():
            self._wait_for_more()

    def pause_writing(self) -> None:
        """Starts waiting for the client to take what was answered."""
        super().pause_writing()
        self._taking = self.loop.call_later(self.limits.body_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has taken it."""
        super().resume_writing()
        _stop(self._taking)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops waiting."""
        _stop(self._sending)
        _stop(self._taking)
        super().connection_lost(exc)

    def _unread(self) -> bool:
        """Whether the client sends what nobody reads any more."""
        answered = self.cycle is not None and self.cycle.response_complete
        return answered and self.conn.their_state is h11.SEND_BODY

    def _wait_for_more(self) -> None:
        if self._sending is None or self._sending.cancelled():
            seconds = self.limits.header_seconds
            self._sending = self.loop.call_later(seconds, self.transport.close)


def connection_class(limits: Limits) -> type[Connection]:
    """A connection with these limits, for uvicorn to make."""
    return type("LimitedConnection", (Connection,), {"limits": limits})


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
