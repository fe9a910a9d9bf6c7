"""Many callers at once, and every answer against that of a serial run."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from runtime import AgeEstimate, AgeMoE, DeadlineError
from runtime.geometry import Pixels


@dataclass
class Found:
    """What became of all faces."""

    answers: int = 0
    """Right ones."""
    late: int = 0
    """Without an answer because of the caller's own deadline."""
    wrong: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """How often, by what was said."""


def soak(
    moe: AgeMoE,
    faces: Sequence[Pixels],
    serial: Mapping[str, Sequence[float]],
    *,
    callers: int,
    seconds: float,
    years: float,
) -> Found:
    """Calls from many threads, with batches of 1 to 8 faces; a fifth of the calls has a deadline.

    Args:
        moe: to call.
        faces: to choose from.
        serial: by expert, its age in years of each face.
        callers: threads.
        seconds: how long.
        years: what an expert may say otherwise than in the serial run.
    """
    found = Found()
    lock = threading.Lock()
    until = time.monotonic() + seconds

    def caller(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while time.monotonic() < until:
            chosen = rng.integers(0, len(faces), rng.integers(1, 9))
            deadline = float(rng.uniform(1, 50)) if rng.random() < 0.2 else None
            answers = _answers(moe, [faces[i] for i in chosen], deadline)
            with lock:
                for said, face in zip(answers, chosen, strict=True):
                    expected = {name: ages[face] for name, ages in serial.items()}
                    _count(found, said, expected, years, late_is_fine=deadline is not None)

    threads = [threading.Thread(target=caller, args=(seed,)) for seed in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _answers(
    moe: AgeMoE, faces: list[Pixels], deadline: float | None
) -> Sequence[AgeEstimate | Exception]:
    try:
        return moe.predict(faces, deadline_ms=deadline)
    except Exception as error:  # noqa: BLE001 - counted, and told in the report
        return [error] * len(faces)


def _count(
    found: Found,
    said: AgeEstimate | Exception,
    expected: Mapping[str, float],
    years: float,
    *,
    late_is_fine: bool,
) -> None:
    if isinstance(said, DeadlineError) and late_is_fine:
        found.late += 1
    elif isinstance(said, Exception):
        found.errors[f"{type(said).__name__}: {said}"] += 1
    elif said.missing and not (late_is_fine and _only_late(said)):
        found.errors[f"missing: {dict(said.missing)}"] += 1
    elif any(abs(e.age_years - expected[name]) > years for name, e in said.experts.items()):
        found.wrong += 1
    else:
        found.answers += 1


def _only_late(estimate: AgeEstimate) -> bool:
    return all(reason.startswith("deadline") for reason in estimate.missing.values())
