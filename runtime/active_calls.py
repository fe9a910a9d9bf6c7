"""Counts the calls in progress, so that closing waits for them."""

from __future__ import annotations

import os
import time

from runtime.errors import ClosedError

_POLL_SECONDS = 1e-3


class ActiveCalls:
    """The calls in progress; once closed, rejects new ones.

    Usable under Ctrl-C: an interrupt can arrive whenever a function written in Python is called, so
    a call is left by a builtin, and there is no lock that an interrupt could leave locked.

    Example:
        call = object()
        try:
            calls.enter(call)
            …
        finally:
            calls.leave(call)
    """

    def __init__(self, owner: str = "AgeMoE") -> None:
        """Starts with no calls of the owner, named in errors; only this process may make any."""
        self._owner = owner
        self._calls: set[object] = set()
        self._open = True
        self._process = os.getpid()
        self.leave = self._calls.discard
        """Ends a call; does nothing for one that was not entered."""

    def enter(self, call: object) -> None:
        """Adds a call, any object of its own.

        Raises:
            ClosedError: after `close`, or in a forked process.
        """
        if os.getpid() != self._process:
            raise ClosedError(
                f"This {self._owner} was opened in process {self._process} and does not survive a "
                f"fork. Open one in each process."
            )
        self._calls.add(call)  # before the test, so that `close` either sees it or rejects it
        if not self._open:
            self.leave(call)
            raise ClosedError(f"This {self._owner} was closed. Open a new one.")

    def close(self) -> bool:
        """Rejects new calls and waits for those in progress.

        Returns:
            False in a forked process, where nothing may be freed.
        """
        if os.getpid() != self._process:
            return False
        self._open = False
        while self._calls:
            time.sleep(_POLL_SECONDS)
        return True
