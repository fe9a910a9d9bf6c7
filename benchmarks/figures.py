"""From laps to figures: how long, where the time went, how much the experts overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.measuring import Floats, distribution, median_interval, paired_ratio
from benchmarks.subjects import Lap

Laps = Sequence[Lap]
Figures = dict[str, object]

YARDSTICK, SEQUENCE, LANES = "yardstick", "sequence", "lanes"
OURS = (SEQUENCE, LANES)
SLOW_ARCHITECTURES = ("janus",)
"""Beside which any overhead is small; it is compared with what the others take."""


def batch_figures(
    laps: Mapping[str, Laps], faces: int, architectures: Mapping[str, str]
) -> Figures:
    """Everything about one batch size.

    Args:
        laps: by way of running (`yardstick`, `sequence`, `lanes`, a baseline), of the same rounds.
        faces: the batch size.
        architectures: of the experts, by name.
    """
    ways = {name: own for name, own in laps.items() if name != YARDSTICK}
    baselines = [name for name in ways if name not in OURS]
    light = [name for name, kind in architectures.items() if kind not in SLOW_ARCHITECTURES]
    return {
        "faces": faces,
        "rounds": len(laps[SEQUENCE]),
        "ways": {name: _way(own, faces) for name, own in ways.items()},
        "concurrency": _concurrency(laps[SEQUENCE], laps[LANES]),
        "overhead": _overhead(laps[SEQUENCE], light),
        "answers": {
            f"{name} against {SEQUENCE}": _difference(laps[SEQUENCE][0], laps[name][0])
            for name in ways
            if name != SEQUENCE
        },
        "times_faster": {name: _times_faster(laps[name], laps, ways=OURS) for name in baselines},
        "samples_seconds": _samples(laps),
    }


def overlap(executed: Floats, joined: Floats) -> Floats:
    """How much of what could be hidden by running at the same time was hidden.

    (sum - joined) / (sum - slowest): 1 if all experts together take no longer than the slowest
    one alone, 0 if they take as long as one after the other, negative if they are in each other's
    way.

    Args:
        executed: seconds of each expert alone, (rounds, experts), at least 2 experts.
        joined: seconds from the start of all to the answer of the last, (rounds,).
    """
    total, slowest = executed.sum(axis=1), executed.max(axis=1)
    return np.asarray((total - joined) / (total - slowest), np.float64)


def _way(laps: Laps, faces: int) -> Figures:
    whole = distribution([lap.seconds for lap in laps])
    return {
        **whole.as_json(),
        "faces_per_second": faces / whole.median_seconds,
        "typical_execute_seconds": dict(_typical(laps).execute),
        "stages": _each([lap.stages for lap in laps]),
        "execute": _each([lap.execute for lap in laps]),
        "copy": _each([lap.copy for lap in laps]),
    }


def _typical(laps: Laps) -> Lap:
    """The lap that took the median time: its parts add up, as medians of parts do not."""
    return sorted(laps, key=lambda lap: lap.seconds)[len(laps) // 2]


def _each(rounds: Sequence[Mapping[str, float]]) -> Figures:
    return {name: distribution([r[name] for r in rounds]).as_json() for name in rounds[0]}


def _concurrency(sequence: Laps, lanes: Laps) -> Figures:
    executed = np.array([list(lap.execute.values()) for lap in sequence])
    joined = np.array([lap.stages["experts"] for lap in lanes])
    ratio = paired_ratio([lap.seconds for lap in lanes], [lap.seconds for lap in sequence])
    found: Figures = {
        "sum_seconds": float(np.median(executed.sum(axis=1))),
        "slowest_seconds": float(np.median(executed.max(axis=1))),
        "lanes_seconds": float(np.median(joined)),
        "lanes_over_sequence": ratio.as_json(),
        "overlap": None,
    }
    if executed.shape[1] > 1:
        shares = overlap(executed, joined)
        low, high = median_interval(shares)
        found["overlap"] = {"median": float(np.median(shares)), "low": low, "high": high}
    return found


def _overhead(sequence: Laps, light: Sequence[str]) -> Figures:
    spent = [lap.overhead for lap in sequence]
    found: Figures = {
        "total": distribution(spent).as_json(),
        "parts": _each([lap.overhead_parts for lap in sequence]),
        "beside": list(light),
        "share": None,
    }
    if light:
        beside = [sum(lap.execute[name] for name in light) for lap in sequence]
        found["share"] = paired_ratio(spent, beside).as_json()
    return found


def _times_faster(baseline: Laps, laps: Mapping[str, Laps], ways: Sequence[str]) -> Figures:
    whole = [lap.seconds for lap in baseline]
    sequence = laps[SEQUENCE]
    return {
        **{w: _ratio(whole, [lap.seconds for lap in laps[w]]) for w in ways},
        "experts": {
            name: _ratio(
                [lap.execute[name] for lap in baseline], [lap.execute[name] for lap in sequence]
            )
            for name in baseline[0].execute
        },
    }


def _ratio(baseline: Sequence[float], ours: Sequence[float]) -> Figures:
    """Also that of the fastest rounds: what other programs take, they take from both less often."""
    return {**paired_ratio(baseline, ours).as_json(), "fastest": min(baseline) / min(ours)}


def _difference(one: Lap, other: Lap) -> Figures:
    """Largest difference of each expert's ages in years, where both have them."""
    return {
        name: float(np.abs(np.subtract(ages, other.ages[name])).max())
        for name, ages in one.ages.items()
        if name in other.ages
    }


def _samples(laps: Mapping[str, Laps]) -> Figures:
    """Seconds by round: of every way, and of every expert alone."""
    found: Figures = {name: [lap.seconds for lap in own] for name, own in laps.items()}
    for name in laps[SEQUENCE][0].execute:
        found[f"{SEQUENCE}/{name}"] = [lap.execute[name] for lap in laps[SEQUENCE]]
    return found
