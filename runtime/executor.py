"""All experts at once: start every lane, then join; late and failed experts become reasons."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from runtime.errors import ContractError, DeadlineError, PredictionError
from runtime.manifest import Expert
from runtime.sessions import Inputs, Outputs, Pending, Session


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment after which an answer is of no use."""

    at_seconds: float
    """On the monotonic clock."""
    budget_ms: float
    """What the caller gave, for the message."""

    @classmethod
    def after(cls, budget_ms: float | None) -> Self | None:
        """The moment `budget_ms` from now; None without a budget.

        Raises:
            ValueError: the budget is not positive.
        """
        if budget_ms is None:
            return None
        if not budget_ms > 0:
            raise ValueError(f"deadline_ms must be positive, got {budget_ms}.")
        return cls(time.monotonic() + budget_ms / 1000.0, budget_ms)

    @property
    def passed(self) -> bool:
        """Whether it is too late."""
        return self.remaining_seconds() == 0.0

    @property
    def reason(self) -> str:
        """What is said of an expert that was late."""
        return f"deadline of {self.budget_ms:g} ms passed"

    def remaining_seconds(self) -> float:
        """Seconds left, as many as a wait can take; 0 when it has passed."""
        return min(max(self.at_seconds - time.monotonic(), 0.0), threading.TIMEOUT_MAX)


@dataclass(frozen=True, slots=True)
class Answers:
    """What the experts said of one batch."""

    outputs: Mapping[str, Outputs]
    """By the name of each expert that answered."""
    missing: Mapping[str, str]
    """Why an expert did not, by its name."""


class _LateError(Exception):
    """An expert has not answered in time."""


@dataclass(frozen=True, slots=True)
class _Started:
    """What one expert has under way."""

    faces: int
    pending: Sequence[Pending]
    error: Exception | None = None


class Executor:
    """Runs a batch through all experts, each in its own lane."""

    def __init__(self, experts: Mapping[str, Expert]) -> None:
        """Takes the experts by name; each needs a session before the first run."""
        self._experts = experts
        self._sessions: dict[str, Session] = {}

    def add(self, name: str, session: Session) -> None:
        """Gives an expert its session, which is closed with the executor."""
        self._sessions[name] = session

    @property
    def backends(self) -> dict[str, str]:
        """What each expert runs on, by its name."""
        return {name: session.backend for name, session in self._sessions.items()}

    def run(self, inputs: Mapping[str, Inputs], deadline: Deadline | None = None) -> Answers:
        """Starts every expert on a batch, then waits for all of them.

        Args:
            inputs: by expert, its inputs with N faces each.
            deadline: experts that have not answered by then are missing.

        Returns:
            Answers of at least one expert.

        Raises:
            DeadlineError: no expert was in time.
            PredictionError: no expert answered.
        """
        under_way = {name: self._start(name, batch, deadline) for name, batch in inputs.items()}
        outputs: dict[str, Outputs] = {}
        missing: dict[str, str] = {}
        failed = False
        for name, started in under_way.items():
            try:
                outputs[name] = self._join(name, started, deadline)
            except _LateError as error:
                missing[name] = str(error)
            except Exception as error:  # noqa: BLE001 - one expert's fault must not stop the others
                missing[name] = f"failed: {type(error).__name__}: {error}"
                failed = True
        if not outputs:
            raise (PredictionError if failed else DeadlineError)(missing)
        return Answers(outputs, missing)

    def close(self) -> None:
        """Closes every session; harmless when repeated."""
        with contextlib.ExitStack() as stack:  # one that cannot be closed must not stop the others
            for session in self._sessions.values():
                stack.callback(session.close)

    def _start(self, name: str, batch: Inputs, deadline: Deadline | None) -> _Started:
        faces = len(next(iter(batch.values())))
        if deadline is not None and deadline.passed:
            return _Started(faces, [], _LateError(deadline.reason))
        pending: list[Pending] = []
        try:
            pending.extend(self._sessions[name].enqueue(part) for part in self._parts(name, batch))
        except Exception as error:  # noqa: BLE001 - told at the join, like any fault of an expert
            return _Started(faces, pending, error)
        return _Started(faces, pending)

    def _join(self, name: str, started: _Started, deadline: Deadline | None) -> Outputs:
        try:
            if started.error is not None:
                raise started.error
            parts = [_wait(pending, deadline) for pending in started.pending]
        finally:
            for pending in started.pending:
                pending.cancel()
        expert = self._experts[name]
        joined = {key: np.concatenate([part[key] for part in parts]) for key in expert.outputs}
        _check_shapes(expert, joined, started.faces)
        return joined

    def _parts(self, name: str, batch: Inputs) -> Iterator[Inputs]:
        largest = self._experts[name].profile.largest
        count = len(next(iter(batch.values())))
        for start in range(0, count, largest):
            yield {key: array[start : start + largest] for key, array in batch.items()}


def _wait(pending: Pending, deadline: Deadline | None) -> Outputs:
    if deadline is None:
        return pending.result()
    try:
        return pending.result(deadline.remaining_seconds())
    except TimeoutError:
        if not deadline.passed:  # the expert's own TimeoutError
            raise
        raise _LateError(deadline.reason) from None


def _check_shapes(expert: Expert, outputs: Outputs, count: int) -> None:
    wanted = {
        "age_years": (count,),
        "age_probs": (count, len(expert.age_grid or ())),
        "gender_probs": (count, 2),
        "answer_mass": (count,),
    }
    for name, array in outputs.items():
        if array.shape != wanted[name]:
            raise ContractError(f"{name} must have shape {wanted[name]}, got {array.shape}.")
