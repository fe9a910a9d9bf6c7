"""uvicorn's HTTP/1.1 connection with time limits on the client."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from runtime.serving.settings import Limits

_REPEAT_SECONDS = 60.0
"""Between two log lines of the same kind about what clients send."""


class Repeated(logging.Filter):
    """Passes a warning of a kind at most once a minute, with the number left out before it.

    Warnings are of one kind if their format strings are equal. Errors always pass.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes a clock, in seconds."""
        super().__init__()
        self._clock = clock
        self._kinds: dict[str, tuple[float, int]] = {}
        """When a line passed, and how many were left out since."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether a record passes."""
        if record.levelno > logging.WARNING:
            return True
        now, kind = self._clock(), str(record.msg)
        passed, left_out = self._kinds.get(kind, (-_REPEAT_SECONDS, 0))
        if now - passed < _REPEAT_SECONDS:
            self._kinds[kind] = passed, left_out + 1
            return False
        self._kinds[kind] = now, 0
        if left_out:
            record.msg = f"{kind} ({left_out:,} more since the last of these lines)"
        return True


_log = logging.getLogger("agemoe.connections")
_log.setLevel(logging.WARNING)
_log.addFilter(Repeated())


class Connection(H11Protocol):
    """A connection that closes itself when its client sends or receives too slowly.

    uvicorn itself waits without a limit for a request's head, for the rest of an unread body and
    for the client to receive a response, so a few hundred such clients would occupy all
    connections. Bodies that are read have a time limit in `request_body`.
    """

    limits: ClassVar[Limits]
    _receive_timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None
    _skipped: int | None = None
    """Bytes skipped after a response that closes the connection; None before."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - of uvicorn
        """Logs where a client cannot fill the log with lines about what it sends."""
        super().__init__(*args, **options)
        self.logger = _log

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the timer for the first request."""
        super().connection_made(_Transport(transport, self))  # type: ignore[arg-type]
        transport.set_write_buffer_limits(high=0)  # `pause_writing` comes with the first byte
        self._start_receive_timer()

    def data_received(self, data: bytes) -> None:
        """Stops the timer once the head is complete; skips what follows a final response."""
        if self._skipped is not None:
            self._skipped += len(data)
            if self._skipped > self.limits.body_bytes:
                self.transport.abort()
            return
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._start_receive_timer()
        elif not self._body_is_unread():
            _cancel(self._receive_timer)

    def on_response_complete(self) -> None:
        """Starts the timer for the rest of a body that was not read before the response."""
        super().on_response_complete()
        if self._body_is_unread():
            self._start_receive_timer()

    def pause_writing(self) -> None:
        """Starts the timer for the client to receive the response."""
        super().pause_writing()
        self._send_timer = self.loop.call_later(self.limits.body_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Stops the timer for the response."""
        super().resume_writing()
        _cancel(self._send_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops both timers."""
        _cancel(self._receive_timer)
        _cancel(self._send_timer)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP, unless a response has begun; the request in progress ends.

        Its handler would otherwise wait for a body that cannot come, and then send a second
        response, which uvicorn reports with a traceback.
        """
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def begin_skipping(self) -> bool:
        """Skips the rest of a request that was answered early, until the client has received that.

        Closing at once would reset the connection, and the client, which is still sending, would
        see the reset instead of the response. Bytes and time are limited.

        Returns:
            False if there is nothing to wait for: the connection may be closed.
        """
        if self._skipped is not None or self.conn.their_state not in (h11.SEND_BODY, h11.ERROR):
            return False
        self._skipped = 0
        self.flow.resume_reading()
        self._start_receive_timer()
        return True

    def _body_is_unread(self) -> bool:
        """Returns whether the response is complete while the client still sends its body."""
        responded = self.cycle is not None and self.cycle.response_complete
        return responded and self.conn.their_state is h11.SEND_BODY

    def _start_receive_timer(self) -> None:
        if self._receive_timer is None or self._receive_timer.cancelled():
            seconds = self.limits.header_seconds
            self._receive_timer = self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        """Closes the connection, whatever its client still sends."""
        self._skipped = self._skipped or 0
        self.transport.close()


class _Transport:
    """A transport whose `close` waits until the client has received the response."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport = transport
        self._connection = connection
        self._closing = False

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the transport has
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def close(self) -> None:
        if self._closing or self._transport.is_closing() or not self._connection.begin_skipping():
            self._transport.close()
        elif self._transport.can_write_eof():
            self._transport.write_eof()
        self._closing = True


def connection_class(limits: Limits) -> type[Connection]:
    """Returns a connection class with these limits, for uvicorn to instantiate."""
    return type("LimitedConnection", (Connection,), {"limits": limits})


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
