"""Counts the calls in progress, so that closing waits for them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.errors import ClosedError


class ActiveCalls:
    """The number of calls in progress; once closed, rejects new ones."""

    def __init__(self) -> None:
        """Starts with no calls; only this process may make any."""
        self._condition = threading.Condition()
        self._count = 0
        self._open = True
        self._process = os.getpid()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Counts a call for as long as the context lasts.

        Raises:
            ClosedError: after `close`, or in a forked process.
        """
        if os.getpid() != self._process:
            raise ClosedError(
                f"This AgeMoE was opened in process {self._process} and does not survive a fork. "
                f"Open one in each process."
            )
        with self._condition:
            if not self._open:
                raise ClosedError("This AgeMoE was closed. Open a new one.")
            self._count += 1
        try:
            yield
        finally:
            with self._condition:
                self._count -= 1
                self._condition.notify_all()

    def close(self) -> bool:
        """Rejects new calls and waits for those in progress.

        Returns:
            False in a forked process, where nothing may be freed.
        """
        if os.getpid() != self._process:
            return False
        with self._condition:
            self._open = False
            self._condition.wait_for(lambda: self._count == 0)
        return True
