"""Who gets the next free place on a device: whoever has waited longest."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from runtime.errors import ClosedError

_POLL_SECONDS = 2e-4
"""A place whose work ends after it was put back does not tell."""


class Place(Protocol):
    """Something that one batch uses at a time."""

    def settled(self) -> bool:
        """Whether nothing of its last batch is under way any more."""
        ...


P = TypeVar("P", bound=Place)


class SlotQueue(Generic[P]):
    """Hands out places in the order in which they were asked for."""

    def __init__(self, places: Iterable[P], check: Callable[[], None]) -> None:
        """Every place is free.

        Args:
            places: what is handed out.
            check: raises once no place will be of use again; nobody waits on after that.
        """
        self._returned = deque(places)
        self._count = len(self._returned)
        self._check = check
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def take(self, timeout: float | None) -> P:
        """Waits for a place.

        Args:
            timeout: in seconds; None waits as long as it takes.

        Raises:
            TimeoutError: none became free in time.
            ClosedError: after `close`.
        """
        limit = None if timeout is None else time.monotonic() + timeout
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                return self._wait(ticket, limit)
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def put_back(self, place: P) -> None:
        """Gives a place back, whose work may still be under way."""
        with self._changed:
            self._returned.append(place)
            self._changed.notify_all()

    def close(self, timeout: float) -> bool:
        """Hands out nothing any more and waits until every place is back and settled.

        Args:
            timeout: in seconds.

        Returns:
            Whether they all are.
        """
        limit = time.monotonic() + timeout
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            while time.monotonic() < limit:
                self._check()
                if len(self._returned) == self._count and all(p.settled() for p in self._returned):
                    return True
                self._changed.wait(_POLL_SECONDS)
        return False

    def _wait(self, ticket: object, limit: float | None) -> P:
        while True:
            self._check()
            if self._closed:
                raise ClosedError("The device was closed.")
            first = self._waiting[0] is ticket
            if first and (place := self._settled()) is not None:
                return place
            left = None if limit is None else limit - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError("No place on the device became free in time.")
            if first and self._returned:
                left = _POLL_SECONDS if left is None else min(left, _POLL_SECONDS)
            self._changed.wait(left)

    def _settled(self) -> P | None:
        place = next((place for place in self._returned if place.settled()), None)
        if place is not None:
            self._returned.remove(place)
        return place
