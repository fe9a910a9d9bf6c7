"""Lets callers in until it is shut, and waits for those inside."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.errors import ClosedError


class ActiveCalls:
    """Counts the calls under way, so that closing never pulls anything away from under one."""

    def __init__(self) -> None:
        """Opens the gate for this process."""
        self._condition = threading.Condition()
        self._inside = 0
        self._open = True
        self._process = os.getpid()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Holds the gate open for one call.

        Raises:
            ClosedError: the gate is shut, or this is a fork of the process that opened it.
        """
        if os.getpid() != self._process:
            raise ClosedError(
                f"This AgeMoE was opened in process {self._process} and does not survive a fork. "
                f"Open one in each process."
            )
        with self._condition:
            if not self._open:
                raise ClosedError("This AgeMoE was closed. Open a new one.")
            self._inside += 1
        try:
            yield
        finally:
            with self._condition:
                self._inside -= 1
                self._condition.notify_all()

    def shut(self) -> bool:
        """Lets nobody in any more and waits until everybody is out.

        Returns:
            False in a forked process, where nothing may be freed.
        """
        if os.getpid() != self._process:
            return False
        with self._condition:
            self._open = False
            self._condition.wait_for(lambda: self._inside == 0)
        return True
