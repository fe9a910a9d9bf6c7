"""First-come, first-served queue for the slots of a device."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from runtime.errors import ClosedError

_POLL_SECONDS = 2e-4
"""A returned slot whose work is still in progress has to be polled."""


class Reusable(Protocol):
    """Something that serves one batch at a time."""

    def idle(self) -> bool:
        """Returns True if no work of the last batch is in progress."""


S = TypeVar("S", bound=Reusable)


class SlotQueue(Generic[S]):
    """Hands out slots in the order of the requests."""

    def __init__(self, slots: Iterable[S], check: Callable[[], None]) -> None:
        """Starts with every slot free; `check` raises once the device is lost."""
        self._returned = deque(slots)
        self._count = len(self._returned)
        self._check = check
        self._waiting: deque[object] = deque()
        self._lock = threading.RLock()
        """Entered as it is: entering a `Condition` can be interrupted after it has locked."""
        self._changed = threading.Condition(self._lock)
        self._closed = False

    def take(self, timeout: float | None) -> S:
        """Waits for a free slot, at most `timeout` seconds.

        Raises:
            TimeoutError: none became free in time.
            ClosedError: after `close`.
        """
        limit = None if timeout is None else time.monotonic() + timeout
        ticket = object()
        with self._lock:
            self._waiting.append(ticket)
            try:
                return self._wait(ticket, limit)
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def put_back(self, slot: S) -> None:
        """Returns a slot, whose work may still be in progress."""
        with self._lock:
            self._returned.append(slot)
            self._changed.notify_all()

    def close(self, timeout: float) -> bool:
        """Stops handing out slots; returns True if all are back and idle in time (seconds)."""
        limit = time.monotonic() + timeout
        with self._lock:
            self._closed = True
            self._changed.notify_all()
            while time.monotonic() < limit:
                self._check()
                if len(self._returned) == self._count and all(s.idle() for s in self._returned):
                    return True
                self._changed.wait(_POLL_SECONDS)
        return False

    def _wait(self, ticket: object, limit: float | None) -> S:
        while True:
            self._check()
            if self._closed:
                raise ClosedError("The device was closed.")
            first = self._waiting[0] is ticket
            if first and (slot := self._idle_slot()) is not None:
                return slot
            left = None if limit is None else limit - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError("No slot of the device became free in time.")
            if first and self._returned:
                left = _POLL_SECONDS if left is None else min(left, _POLL_SECONDS)
            self._changed.wait(left)

    def _idle_slot(self) -> S | None:
        slot = next((slot for slot in self._returned if slot.idle()), None)
        if slot is not None:
            self._returned.remove(slot)
        return slot
