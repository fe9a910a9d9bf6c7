"""Objects that threads must not share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerThread(threading.local, Generic[T]):
    """An object of each thread, made when this is created or first used there."""

    def __init__(self, make: Callable[[], T]) -> None:
        """Makes this thread's own."""
        self.own = make()
