"""Experts on the CPU: each has its own thread, and nothing is copied."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from runtime.backends import Inputs, Pending, Session, Views
from runtime.manifest import Expert


@dataclass(frozen=True, slots=True)
class CpuBatch:
    """Views in host memory."""

    sessions: Mapping[str, Session]
    experts: Mapping[str, Expert]
    views: Views

    def enqueue(self, expert: str) -> Pending:
        """Starts an expert and returns at once."""
        inputs: Inputs = {spec.name: self.views[spec] for spec in self.experts[expert].inputs}
        return self.sessions[expert].enqueue(inputs)

    def release(self) -> None:
        """Does nothing: the batch holds no slot."""


class CpuDevice:
    """The CPU, for any number of batches at a time."""

    def __init__(self, experts: Mapping[str, Expert], sessions: Mapping[str, Session]) -> None:
        """Takes ownership of the experts' sessions, by name."""
        self._experts = experts
        self._sessions = sessions

    @property
    def backends(self) -> dict[str, str]:
        """Backend of each expert, by name."""
        return {name: session.backend for name, session in self._sessions.items()}

    def take(self, views: Views, timeout: float | None = None) -> CpuBatch:
        """Returns a batch of the views, without waiting."""
        del timeout
        return CpuBatch(self._sessions, self._experts, views)

    def close(self) -> None:
        """Closes every session."""
        with contextlib.ExitStack() as stack:  # a session that fails to close must not stop others
            for session in self._sessions.values():
                stack.callback(session.close)
