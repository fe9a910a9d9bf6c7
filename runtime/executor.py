"""Runs all experts at once: starts each, then joins; late and failed experts become reasons."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from runtime.backends import Answer, Batch, Device, Outputs, Pending, Views
from runtime.deadline import Deadline
from runtime.errors import ContractError, DeadlineError, PredictionError
from runtime.manifest import Expert, output_shape
from runtime.stats import Statistics

MODES = ("lanes", "sequence")
"""All experts at the same time, or one after the other.

A batch with a deadline always runs in lanes: in a sequence, a slow expert would delay those behind
it.
"""


@dataclass(frozen=True, slots=True)
class Answers:
    """The experts' outputs for one batch."""

    outputs: Mapping[str, Outputs]
    """By name of each expert that answered."""
    missing: Mapping[str, str]
    """Reason for each expert that did not, by its name."""
    no_answer: Mapping[str, str] = field(default_factory=dict)
    """What an age of NaN means, by name of the experts whose networks may have none for a face."""


class _LateError(Exception):
    """An expert did not answer in time."""


class Executor:
    """Runs batches through all experts on their devices."""

    def __init__(
        self, experts: Mapping[str, Expert], devices: Sequence[Device], statistics: Statistics
    ) -> None:
        """Takes ownership of the devices: closing the executor closes them.

        Args:
            experts: by name.
            devices: each expert runs on one of them. They are started in this order, so those on
                which a batch never waits for a slot come first.
            statistics: records the outcome and times of each expert.
        """
        self.mode = "lanes"
        self._experts = experts
        self._devices = devices
        self._homes = {name: device for device in devices for name in device.backends}
        self._statistics = statistics
        self._largest = min(expert.profile.largest for expert in experts.values())

    @property
    def backends(self) -> dict[str, str]:
        """The backend of each expert, by its name."""
        return {name: self._homes[name].backends[name] for name in self._experts}

    def run(self, views: Views, deadline: Deadline | None = None) -> Answers:
        """Starts every expert on a batch, then waits for all of them.

        Batches larger than the experts' profiles are run in parts, as many at a time as the devices
        have slots for.

        Args:
            views: N faces.
            deadline: experts that answer later are missing.

        Returns:
            The answers of at least one expert.

        Raises:
            DeadlineError: every expert was late.
            PredictionError: no expert answered.
        """
        outputs: dict[str, list[Outputs]] = {name: [] for name in self._experts}
        missing: dict[str, Exception] = {}
        for results in self._results(self._parts(views), deadline):
            for name, result in results.items():
                if isinstance(result, Answer):
                    outputs[name].append(result.outputs)
                else:
                    missing.setdefault(name, result)
            if len(missing) == len(outputs):
                raise _all_missing(missing)
        return Answers(
            {name: _joined(parts) for name, parts in outputs.items() if name not in missing},
            {name: _reason(error) for name, error in missing.items()},
            {name: e.no_answer for name, e in self._experts.items() if e.no_answer},
        )

    def close(self) -> None:
        """Closes every device; may be called repeatedly."""
        with contextlib.ExitStack() as stack:  # closes all, even if one of them fails
            for device in self._devices:
                stack.callback(device.close)

    def _parts(self, views: Views) -> Iterator[Views]:
        for start in range(0, _faces(views), self._largest):
            yield {spec: array[start : start + self._largest] for spec, array in views.items()}

    def _results(
        self, parts: Iterator[Views], deadline: Deadline | None
    ) -> Iterator[dict[str, Answer | Exception]]:
        """Yields for each part, in order, the answer or error of every expert."""
        running: deque[_Run] = deque()
        part = next(parts, None)
        with contextlib.ExitStack() as stack:
            while part is not None or running:
                if part is not None and (run := self._started_run(part, deadline, running)):
                    stack.callback(run.release)
                    running.append(run)
                    part = next(parts, None)
                else:
                    yield self._finished(running.popleft())

    def _started_run(
        self, part: Views, deadline: Deadline | None, running: Sequence[_Run]
    ) -> _Run | None:
        """Returns a part that holds its slots; None if it has to wait for those running.

        A caller that holds slots never waits for more, so that no two callers wait for each other.
        """
        lanes = self.mode == "lanes" or deadline is not None
        if running and not lanes:
            return None
        run = _Run(self._homes, part, deadline)
        if running and not run.take_slots():
            return None
        run.begin(start=lanes)
        return run

    def _finished(self, run: _Run) -> dict[str, Answer | Exception]:
        try:
            return {n: self._checked(n, run.answer(n), run.faces) for n in self._experts}
        finally:
            run.release()

    def _checked(self, name: str, result: Answer | Exception, faces: int) -> Answer | Exception:
        """Validates and counts an expert's answer; returns it, or the error in its place."""
        if isinstance(result, Answer):
            try:
                answer = Answer(_in_shape(self._experts[name], result.outputs, faces), result.times)
            except (ContractError, KeyError) as error:
                result = error
            else:
                self._statistics.answered(name, faces, answer.times)
                return answer
        self._statistics.missed(name, faces, late=isinstance(result, _LateError))
        return result


class _Run:
    """One part of a batch on its way through the devices."""

    def __init__(
        self, homes: Mapping[str, Device], views: Views, deadline: Deadline | None
    ) -> None:
        self.faces = _faces(views)
        self._homes = homes
        self._views = views
        self._deadline = deadline
        self._batches: dict[Device, Batch | Exception] = {}
        self._started: dict[str, Pending | Exception] = {}

    def take_slots(self) -> bool:
        """Takes a slot on every device without waiting; on failure takes none, returns False."""
        try:
            for device in self._devices():
                self._take(device, 0.0)
        except TimeoutError:
            self.release()
            return False
        return True

    def begin(self, *, start: bool) -> None:
        """Waits for a slot on each device and, with `start`, starts the device's experts.

        Experts that are started run while this waits for the next device.
        """
        for device in self._devices():
            if device not in self._batches:
                try:
                    self._take(device, self._remaining())
                except TimeoutError:
                    self._batches[device] = self._late()
            if start:
                names = [name for name, home in self._homes.items() if home is device]
                self._started |= {name: self._start(name) for name in names}

    def answer(self, name: str) -> Answer | Exception:
        """Waits for an expert; starts it if necessary."""
        pending = self._started.get(name) or self._started.setdefault(name, self._start(name))
        if isinstance(pending, Exception):
            return pending
        try:
            return pending.result(self._remaining())
        except TimeoutError as error:
            late = self._deadline is not None and self._deadline.passed
            return self._late() if late else error  # otherwise the expert's own error
        except Exception as error:  # noqa: BLE001 - a failing expert must not stop the others
            return error

    def release(self) -> None:
        """Cancels what is still running and frees the slots; may be called repeatedly."""
        for pending in self._started.values():
            if not isinstance(pending, Exception):
                pending.cancel()
        for batch in self._batches.values():
            if not isinstance(batch, Exception):
                batch.release()
        self._batches.clear()
        self._started.clear()

    def _devices(self) -> Iterable[Device]:
        return dict.fromkeys(self._homes.values())

    def _take(self, device: Device, timeout: float | None) -> None:
        try:
            self._batches[device] = device.take(self._views, timeout)
        except TimeoutError:
            raise
        except Exception as error:  # noqa: BLE001 - the other devices still run
            self._batches[device] = error

    def _start(self, name: str) -> Pending | Exception:
        if self._deadline is not None and self._deadline.passed:
            return self._late()
        batch = self._batches[self._homes[name]]
        if isinstance(batch, Exception):
            return batch
        try:
            return batch.enqueue(name)
        except Exception as error:  # noqa: BLE001 - reported at the join, like any error of an expert
            return error

    def _late(self) -> _LateError:
        return _LateError("" if self._deadline is None else self._deadline.reason)

    def _remaining(self) -> float | None:
        return None if self._deadline is None else self._deadline.remaining_seconds()


def _all_missing(missing: Mapping[str, Exception]) -> PredictionError:
    late = all(isinstance(error, _LateError) for error in missing.values())
    reasons = {name: _reason(error) for name, error in missing.items()}
    return DeadlineError(reasons) if late else PredictionError(reasons)


def _faces(views: Views) -> int:
    return len(next(iter(views.values())))


def _reason(error: Exception) -> str:
    if isinstance(error, _LateError):
        return str(error)
    return f"failed: {type(error).__name__}: {error}"


def _joined(parts: Sequence[Outputs]) -> Outputs:
    if len(parts) == 1:
        return parts[0]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _in_shape(expert: Expert, outputs: Outputs, count: int) -> Outputs:
    found = {name: outputs[name] for name in expert.outputs}
    for name, array in found.items():
        shape = output_shape(name, count, expert.age_grid)
        if array.shape != shape:
            raise ContractError(f"{name} must have shape {shape}, got {array.shape}.")
    return found
