"""Deadlines of predictions."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time after which an answer is useless."""

    at_seconds: float
    """On the monotonic clock."""
    budget_ms: float
    """Milliseconds that the caller gave, for messages."""

    @classmethod
    def of(cls, limit: float | Self | None) -> Self | None:
        """Returns a deadline as it is, or the moment `limit` milliseconds from now.

        Args:
            limit: a deadline that started earlier, milliseconds from now, or None for no limit.

        Raises:
            ValueError: the limit is not positive.
        """
        if limit is None or isinstance(limit, cls):
            return limit
        budget_ms = float(limit)  # type: ignore[arg-type]
        if not budget_ms > 0:
            raise ValueError(f"deadline_ms must be positive, got {budget_ms}.")
        return cls.after(budget_ms)

    @classmethod
    def after(cls, milliseconds: float) -> Self:
        """Returns the moment this many milliseconds from now."""
        return cls(time.monotonic() + milliseconds / 1000.0, milliseconds)

    @property
    def passed(self) -> bool:
        """True once the deadline has passed."""
        return self.remaining_seconds() == 0.0

    @property
    def reason(self) -> str:
        """The reason given for a late expert."""
        return f"deadline of {self.budget_ms:g} ms passed"

    def remaining_seconds(self) -> float:
        """Returns the seconds left, limited to what a wait accepts; 0 once it has passed."""
        return min(max(self.at_seconds - time.monotonic(), 0.0), threading.TIMEOUT_MAX)
