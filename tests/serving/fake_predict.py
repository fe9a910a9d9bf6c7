"""A fake `AgeMoE.predict` with configurable results, errors and speed."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from runtime.deadline import Deadline
from runtime.errors import AgeMoEError, DeadlineError, ImageError
from runtime.results import AgeEstimate, ExpertAge, Face

BAD, SPOILS_BATCH, SPOILS_ALWAYS = "bad picture", "spoils its batch", "spoils every batch"


def estimate(number: int) -> AgeEstimate:
    age = float(number % 101)
    return AgeEstimate(age, {"only": ExpertAge(age, age, 1.0)})


def serial(face: Any) -> AgeEstimate | type[Exception]:
    """Returns what a caller gets for a face that is predicted alone."""
    number, fault = face.image
    if fault == BAD:
        return ImageError
    return RuntimeError if fault == SPOILS_ALWAYS else estimate(number)


@dataclass
class FakePredict:
    """Predicts from faces whose image is (number, fault)."""

    seconds: float = 0.0
    batches: list[list[int]] = field(default_factory=list)
    deadlines: list[Deadline | None] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)
    """While cleared, batches are blocked."""
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        self.open.set()

    def __call__(
        self, faces: list[Face], /, *, deadline_ms: float | Deadline | None = None
    ) -> list[AgeEstimate | AgeMoEError]:
        images: list[Any] = [face.image for face in faces]
        self.batches.append([number for number, _ in images])
        deadline = Deadline.of(deadline_ms)
        self.deadlines.append(deadline)
        self.begun.release()
        assert self.open.wait(30.0)
        if self.seconds:
            time.sleep(self.seconds)
        if deadline is not None and deadline.passed:
            raise DeadlineError({"only": deadline.reason})
        faults = {fault for _, fault in images}
        if SPOILS_ALWAYS in faults or (SPOILS_BATCH in faults and len(faces) > 1):
            raise RuntimeError("device error")
        return [ImageError("bad") if fault == BAD else estimate(number) for number, fault in images]


def face(number: int, fault: str = "") -> Face:
    return Face((number, fault))  # type: ignore[arg-type]
