"""Time of a prediction by stage and expert, and the figures of one batch size."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np

from benchmarks.measuring import Floats, distribution, median_with_interval, paired_ratio
from runtime import AgeEstimate, AgeMoE, AgeMoEError, Face, Stats
from runtime.geometry import Pixels
from runtime.stats import Durations

Seconds = Mapping[str, float]
Figures = dict[str, object]

SEQUENCE, LANES = MODES = ("sequence", "lanes")
"""Values of `AgeMoE.concurrency`: experts one after the other, or all at once."""
REFERENCE = "yardstick"
"""The key of the reference workload in reports."""
SLOW_ARCHITECTURES = ("janus",)
"""Left out when the overhead is compared with the experts' time: any overhead is small beside."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One prediction of one batch."""

    seconds: float
    """Total time."""
    stages: Seconds
    """By stage; see `runtime.stats.STAGES`."""
    execute: Seconds
    """By expert: its own computation."""
    copy: Seconds = field(default_factory=dict)
    """By expert: to the device and back."""
    ages: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """By expert: its age in years of each face."""

    @property
    def overhead(self) -> float:
        """Seconds outside the experts' execution, for experts that run one after the other."""
        return self.seconds - sum(self.execute.values())

    @property
    def overhead_parts(self) -> dict[str, float]:
        """The parts of `overhead`; meaningless where experts run at the same time."""
        executed, copied = sum(self.execute.values()), sum(self.copy.values())
        stages = dict(self.stages)
        dispatch = stages.pop("experts") - executed - copied
        rest = self.seconds - sum(self.stages.values())
        return {**stages, "copy": copied, "dispatch": dispatch, "rest": rest}


def timed_model(
    moe: AgeMoE, mode: str, faces: Sequence[Face | Pixels]
) -> Callable[[], Measurement]:
    """Returns a function that predicts a batch in one mode (`sequence` or `lanes`) and measures it.

    It raises AgeMoEError if a face has no estimate.
    """
    batch = list(faces)

    def run() -> Measurement:
        moe.concurrency = mode  # both modes share the sessions: a second AgeMoE doubles the memory
        before = moe.stats()
        started = time.perf_counter()
        results = moe.predict(batch)
        seconds = time.perf_counter() - started
        return _measurement(seconds, before, moe.stats(), estimates_of(results))

    return run


Rounds = Sequence[Measurement]


def estimates_of(results: Sequence[AgeEstimate | AgeMoEError]) -> list[AgeEstimate]:
    """Returns the results; raises the first AgeMoEError among them."""
    estimates = []
    for result in results:
        if isinstance(result, AgeMoEError):
            raise result
        estimates.append(result)
    return estimates


def _measurement(
    seconds: float, before: Stats, after: Stats, estimates: Sequence[AgeEstimate]
) -> Measurement:
    ages = {
        name: tuple(e.experts[name].age_years for e in estimates if name in e.experts)
        for name in after.experts
    }
    stages = _spent(before.stages, after.stages)
    earlier, later = before.experts, after.experts
    execute, copy = (
        _spent({n: of(e) for n, e in earlier.items()}, {n: of(e) for n, e in later.items()})
        for of in (attrgetter("execute"), attrgetter("copy"))
    )
    return Measurement(seconds, stages, execute, copy, ages)


def _spent(before: Mapping[str, Durations], after: Mapping[str, Durations]) -> Seconds:
    return {name: now.total_seconds - before[name].total_seconds for name, now in after.items()}


def batch_figures(
    rounds: Mapping[str, Rounds], faces: int, architectures: Mapping[str, str]
) -> Figures:
    """Returns the figures of one batch size, as `latency.py --json` writes them.

    The rounds are interleaved, by configuration: `yardstick`, `sequence`, `lanes`, a baseline.
    """
    predictions = {name: own for name, own in rounds.items() if name != REFERENCE}
    sequence = rounds[SEQUENCE]
    light = [name for name, kind in architectures.items() if kind not in SLOW_ARCHITECTURES]
    return {
        "faces": faces,
        "rounds": len(sequence),
        "ways": {name: _configuration(own, faces) for name, own in predictions.items()},
        "concurrency": _concurrency(sequence, rounds[LANES]),
        "overhead": _overhead(sequence, light),
        "answers": {
            f"{name} against {SEQUENCE}": _age_differences(sequence[0], own[0])
            for name, own in predictions.items()
            if name != SEQUENCE
        },
        "times_faster": {
            name: _times_faster(own, rounds)
            for name, own in predictions.items()
            if name not in MODES
        },
        "samples_seconds": {
            **{name: _total(own) for name, own in rounds.items()},
            **{f"{SEQUENCE}/{name}": _execute(sequence, name) for name in sequence[0].execute},
        },
    }


def overlap(executed: Floats, joined: Floats) -> Floats:
    """Returns the share of the possible gain from running at the same time that was reached.

    (sum - joined) / (sum - slowest): 1 if all experts together take no longer than the slowest
    alone, 0 if they take as long as one after the other, negative if they slow one another down.

    Args:
        executed: seconds of each expert alone, (rounds, experts), at least 2 experts.
        joined: seconds from the start of all experts to the last answer, (rounds,).
    """
    total, slowest = executed.sum(axis=1), executed.max(axis=1)
    return np.asarray((total - joined) / (total - slowest), np.float64)


def _total(rounds: Rounds) -> list[float]:
    return [one.seconds for one in rounds]


def _execute(rounds: Rounds, expert: str) -> list[float]:
    return [one.execute[expert] for one in rounds]


def _configuration(rounds: Rounds, faces: int) -> Figures:
    total = distribution(_total(rounds))
    # The round of median time: its parts add up, which medians of parts do not.
    typical = sorted(rounds, key=lambda one: one.seconds)[len(rounds) // 2]
    return {
        **total,
        "faces_per_second": faces / total["p50_seconds"],
        "typical_execute_seconds": dict(typical.execute),
        "stages": _distributions([one.stages for one in rounds]),
        "execute": _distributions([one.execute for one in rounds]),
        "copy": _distributions([one.copy for one in rounds]),
    }


def _distributions(rounds: Sequence[Seconds]) -> Figures:
    return {name: distribution([r[name] for r in rounds]) for name in rounds[0]}


def _concurrency(sequence: Rounds, lanes: Rounds) -> Figures:
    executed = np.array([list(one.execute.values()) for one in sequence])
    joined = np.array([one.stages["experts"] for one in lanes])
    found: Figures = {
        "sum_seconds": float(np.median(executed.sum(axis=1))),
        "slowest_seconds": float(np.median(executed.max(axis=1))),
        "lanes_seconds": float(np.median(joined)),
        "lanes_over_sequence": paired_ratio(_total(lanes), _total(sequence)),
        "overlap": None,
    }
    if executed.shape[1] > 1:
        found["overlap"] = median_with_interval(overlap(executed, joined))
    return found


def _overhead(sequence: Rounds, light: Sequence[str]) -> Figures:
    spent = [one.overhead for one in sequence]
    executed = [sum(one.execute[name] for name in light) for one in sequence]
    return {
        "total": distribution(spent),
        "parts": _distributions([one.overhead_parts for one in sequence]),
        "beside": list(light),
        "share": paired_ratio(spent, executed) if light else None,
    }


def _times_faster(baseline: Rounds, rounds: Mapping[str, Rounds]) -> Figures:
    experts = {
        name: _ratio(_execute(baseline, name), _execute(rounds[SEQUENCE], name))
        for name in baseline[0].execute
    }
    modes = {mode: _ratio(_total(baseline), _total(rounds[mode])) for mode in MODES}
    return {**modes, "experts": experts}


def _ratio(baseline: Sequence[float], ours: Sequence[float]) -> Figures:
    """Also compares the fastest rounds, which other programs disturb least."""
    return {**paired_ratio(baseline, ours), "fastest": min(baseline) / min(ours)}


def _age_differences(one: Measurement, other: Measurement) -> Figures:
    """Returns each expert's largest difference in years, where both have its ages."""
    return {
        name: float(np.abs(np.subtract(ages, other.ages[name])).max())
        for name, ages in one.ages.items()
        if name in other.ages
    }
