"""Fake sessions, in place of ONNX Runtime, and a predictor without any."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from runtime.backends import Answer, Inputs, Outputs, Session, SessionFactory
from runtime.deadline import Deadline
from runtime.errors import AgeMoEError
from runtime.results import AgeEstimate, Face

Predicts = Callable[[Inputs], Outputs]


def bright(inputs: Inputs) -> Outputs:
    """Returns the brightness of the pictures, in years, as a tiny expert predicts it."""
    means = [array.mean(axis=(1, 2, 3)) * (100.0 / 255.0) for array in inputs.values()]
    return {"age_years": np.mean(means, axis=0).astype(np.float32)}


class FakeSession:
    """A session with its own thread, as ONNX Runtime's."""

    backend = "fake"

    def __init__(self, answer: Predicts = bright) -> None:
        self.answer = answer
        self.batches: list[int] = []
        self.closes = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="agemoe-fake")

    def enqueue(self, inputs: Inputs) -> Future[Answer]:
        return self._thread.submit(self._run, inputs)

    def close(self) -> None:
        self.closes += 1
        self._thread.shutdown(wait=True)

    def _run(self, inputs: Inputs) -> Answer:
        self.batches.append(len(next(iter(inputs.values()))))
        return Answer(self.answer(inputs))


def factory(sessions: Mapping[str, Session]) -> SessionFactory:
    """Returns a factory that opens each expert with a given session."""

    return lambda variant: sessions[variant.name]


class Hold:
    """A prediction that blocks while `holding` is set, until it is released."""

    def __init__(self) -> None:
        self.holding = False
        self.reached = threading.Event()
        self.released = threading.Event()

    def __call__(self, inputs: Inputs) -> Outputs:
        if self.holding:
            self.reached.set()
            assert self.released.wait(30.0)
        return bright(inputs)


class InOneStep(ABC):
    """Predictors that take faces as they are, also where `AgeMoE` crops them first."""

    @abstractmethod
    def predict(
        self, faces: list[Face], *, deadline_ms: float | Deadline | None = None
    ) -> list[AgeEstimate | AgeMoEError]: ...

    def prepare(self, faces: Sequence[Face], *, quality: bool = True) -> Sequence[Any]:
        del quality
        return faces

    def predict_prepared(self, faces: Sequence[Any]) -> list[AgeEstimate | AgeMoEError]:
        return self.predict(list(faces))


class FakePredictor(InOneStep):
    """Answers each face by a function; records the sizes of its batches."""

    def __init__(self, answer: Callable[[Face], AgeEstimate | AgeMoEError]) -> None:
        self.answer = answer
        self.batches: list[int] = []

    def predict(
        self, faces: list[Face], *, deadline_ms: float | Deadline | None = None
    ) -> list[AgeEstimate | AgeMoEError]:
        del deadline_ms
        self.batches.append(len(faces))
        return [self.answer(face) for face in faces]
