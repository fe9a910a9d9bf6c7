"""Kills decoders whose time is over, from a thread of its own."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable

_LONGEST_WAIT_SECONDS = 3600.0


class Watch:
    """A moment, on the monotonic clock, at which something is to be stopped."""

    __slots__ = ("at_seconds", "stop")

    def __init__(self, at_seconds: float, stop: Callable[[], None]) -> None:
        """Takes the moment and what stops it."""
        self.at_seconds = at_seconds
        self.stop = stop


class Watchdog:
    """Stops what has not ended at its moment."""

    def __init__(self) -> None:
        """Starts the thread."""
        self._watches: dict[Watch, None] = {}
        self._next_seconds = math.inf
        self._open = True
        self._changed = threading.Lock()
        self._changed.acquire()
        self._thread = threading.Thread(target=self._run, name="agemoe-decoding", daemon=True)
        self._thread.start()

    def add(self, watch: Watch) -> None:
        """Stops `watch` at its moment, unless it is removed first."""
        self._watches[watch] = None
        if watch.at_seconds < self._next_seconds:
            self._notify()

    def remove(self, watch: Watch) -> bool:
        """Stops watching; returns False if it was stopped, or is just being."""
        return self._watches.pop(watch, watch) is None

    def close(self) -> None:
        """Ends the thread."""
        self._open = False
        self._notify()
        self._thread.join()

    def _notify(self) -> None:
        with contextlib.suppress(RuntimeError):  # noticed already
            self._changed.release()

    def _run(self) -> None:
        while self._open:
            self._next_seconds = math.inf  # what is added from here on notifies
            watches, now = tuple(self._watches), time.monotonic()
            for watch in watches:
                if watch.at_seconds <= now and self.remove(watch):
                    watch.stop()
            next_seconds = min((w.at_seconds for w in tuple(self._watches)), default=math.inf)
            self._next_seconds = next_seconds
            wait_seconds = min(max(next_seconds - now, 0.0), _LONGEST_WAIT_SECONDS)
            self._changed.acquire(timeout=wait_seconds)
