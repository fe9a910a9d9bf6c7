"""Experts on the CPU: each has a thread of its own, and the views stay where they are."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from runtime.backends import Inputs, Pending, Session, Views
from runtime.manifest import Expert


@dataclass(frozen=True, slots=True)
class CpuBatch:
    """Views that are where they are needed already."""

    sessions: Mapping[str, Session]
    experts: Mapping[str, Expert]
    views: Views

    def enqueue(self, expert: str) -> Pending:
        """Starts an expert and returns at once."""
        inputs: Inputs = {spec.name: self.views[spec] for spec in self.experts[expert].inputs}
        return self.sessions[expert].enqueue(inputs)

    def release(self) -> None:
        """Nothing was taken."""


class CpuDevice:
    """The CPU, with room for any number of batches."""

    def __init__(self, experts: Mapping[str, Expert], sessions: Mapping[str, Session]) -> None:
        """Takes over the sessions of some experts, by name."""
        self._experts = experts
        self._sessions = sessions

    @property
    def backends(self) -> dict[str, str]:
        """What each expert runs on, by its name."""
        return {name: session.backend for name, session in self._sessions.items()}

    def take(self, views: Views, timeout: float | None = None) -> CpuBatch:
        """A batch; there is always room."""
        del timeout
        return CpuBatch(self._sessions, self._experts, views)

    def close(self) -> None:
        """Closes every session."""
        with contextlib.ExitStack() as stack:  # one that cannot be closed must not stop the others
            for session in self._sessions.values():
                stack.callback(session.close)
