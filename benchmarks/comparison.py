"""Comparison of two latency reports (`--compare`): which configurations became slower or faster."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, norm

from benchmarks.breakdown import MODES, REFERENCE
from runtime.backends import all_on_cpu
from runtime.files import read_json
from runtime.printing import printable

SCHEMA_VERSION = 1
"""Of the files that `latency.py --json` writes."""
TOLERANCE = 0.05
"""Relative change by which two runs of the same engines on the same machine may differ."""
_LEVEL = 0.01
_RESAMPLES = 400
_MIN_ROUNDS = 10
"""Rounds from which on the noise of a median can be estimated."""

Report = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Series:
    """Durations of one thing in one run of a benchmark."""

    seconds: Sequence[float]
    """By round."""
    reference: Sequence[float] | None = None
    """Seconds of the reference workload in the same rounds; None where it does not apply."""


@dataclass(frozen=True, slots=True)
class Change:
    """Change of one thing between two runs that were not interleaved."""

    ratio: float
    """Median of the new run over that of the base."""
    corrected_ratio: float
    """The same, each median in units of its own run's reference workload."""
    noise: float
    """Standard error of the logarithm of the ratio, the larger of the two."""
    p_slower: float
    """Probability of this result if the slowdown does not exceed the tolerance."""
    p_faster: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Changes of everything that both runs measured."""

    changes: Mapping[str, Change | None]
    """By batch size and configuration; None where there were too few rounds."""
    slower: frozenset[str]
    faster: frozenset[str]
    notes: Sequence[str]
    """Other differences between the runs."""


def read_report(path: Path) -> Report:
    """Reads a file written by `latency.py --json`; raises ValueError if it is something else."""
    try:
        report = read_json(path)
    except ValueError as error:
        raise ValueError(f"{printable(path)} is not JSON: {error}.") from error
    if not isinstance(report, dict) or report.get("benchmark") != "latency":
        raise ValueError(f"{printable(path)} was not written by latency.py --json.")
    if (version := report.get("schema_version")) != SCHEMA_VERSION:
        raise ValueError(
            f"{printable(path)} has schema version {version}, this is {SCHEMA_VERSION}. "
            "Measure it again."
        )
    return report


def compare(base: Report, new: Report, tolerance: float = TOLERANCE) -> Comparison:
    """Compares an earlier and a later run; relative changes within the tolerance never count.

    Raises:
        ValueError: the runs are not comparable.
    """
    _check_comparable(base, new)
    before, after = _series(base), _series(new)
    common = [name for name in after if name in before]
    if not common:
        raise ValueError("The runs have no batch size in common. Give --batch as before.")
    changes = {name: change(before[name], after[name], tolerance) for name in common}
    known = {name: found for name, found in changes.items() if found is not None}
    return Comparison(
        changes,
        frozenset(holm({name: found.p_slower for name, found in known.items()}, _LEVEL)),
        frozenset(holm({name: found.p_faster for name, found in known.items()}, _LEVEL)),
        _notes(base, new),
    )


def change(base: Series, new: Series, tolerance: float) -> Change | None:
    """Compares two series; returns None if either has too few rounds to estimate its noise.

    A change counts only if it exceeds the tolerance and the noise both as measured and in units of
    the reference workload. Noise comes from a circular block bootstrap of the medians, because
    neighboring rounds resemble one another.
    """
    if min(len(base.seconds), len(new.seconds)) < _MIN_ROUNDS:
        return None
    plain = _log_ratio(Series(base.seconds), Series(new.seconds))
    corrected = plain if None in (base.reference, new.reference) else _log_ratio(base, new)
    limit = math.log1p(tolerance)

    def p_value(sign: float) -> float:
        return max(
            float(norm.sf(sign * log, limit, max(noise, 1e-9))) for log, noise in (plain, corrected)
        )

    return Change(
        ratio=math.exp(plain[0]),
        corrected_ratio=math.exp(corrected[0]),
        noise=max(plain[1], corrected[1]),
        p_slower=p_value(1.0),
        p_faster=p_value(-1.0),
    )


def holm(p_values: Mapping[str, float], level: float = 0.01) -> set[str]:
    """Returns the names whose p-values are significant together (Holm's step-down procedure)."""
    found: set[str] = set()
    for rank, (name, p_value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if p_value > level / (len(p_values) - rank):
            break
        found.add(name)
    return found


def _log_ratio(base: Series, new: Series) -> tuple[float, float]:
    """Returns the logarithm of the ratio of medians, and its standard error."""
    (first, first_error), (second, second_error) = _log_median(base), _log_median(new)
    return second - first, math.hypot(first_error, second_error)


def _log_median(series: Series) -> tuple[float, float]:
    """Returns the log of the median and its standard error: the larger of two block lengths'."""
    count = len(series.seconds)
    rounds = np.arange(count)
    blocks = {round(math.sqrt(count)), max(count // 4, 1)}
    return float(_log_level(series, rounds)), max(_error(series, rounds, b) for b in blocks)


def _error(series: Series, rounds: NDArray[np.int64], block: int) -> float:
    count = len(rounds)

    def resampled(starts: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
        """Log level of the blocks that begin at the drawn rounds, over the last axis."""
        del axis
        starts = starts[..., : math.ceil(count / block), None]
        rows = (starts + np.arange(block)) % count
        return _log_level(series, rows.reshape(*rows.shape[:-2], -1)[..., :count])

    how: Any = {"n_resamples": _RESAMPLES, "method": "percentile", "vectorized": True, "rng": 0}
    return float(bootstrap((rounds,), resampled, **how).standard_error)


def _log_level(series: Series, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    level = np.log(np.median(np.asarray(series.seconds, np.float64)[rows], axis=-1))
    if series.reference is not None:
        level = level - np.log(np.median(np.asarray(series.reference, np.float64)[rows], axis=-1))
    return np.asarray(level, np.float64)


def _check_comparable(base: Report, new: Report) -> None:
    facts: dict[str, Callable[[Report], object]] = {
        "processor": lambda report: report["machine"]["processor"],
        "cores": lambda report: report["machine"]["cores"],
        "GPUs": lambda report: [gpu.partition(",")[0] for gpu in report["machine"]["gpus"]],
        "backends": _backends,
        "input": lambda report: report["settings"]["input"],
    }
    problems = [
        f"\n- {what}: {was!r} then, {now!r} now"
        for what, fact in facts.items()
        if (was := fact(base)) != (now := fact(new))
    ]
    if problems:
        raise ValueError("The runs cannot be compared:" + "".join(problems))


def _backends(report: Report) -> dict[str, str]:
    return {name: expert["backend"] for name, expert in report["experts"].items()}


def _series(report: Report) -> dict[str, Series]:
    on_cpu = all_on_cpu(_backends(report).values())
    found = {}
    for size, batch in report["batches"].items():
        samples = batch["samples_seconds"]
        reference = samples[REFERENCE] if on_cpu else None
        for name, seconds in samples.items():
            if name.partition("/")[0] in MODES:
                found[f"batch {size}, {name}"] = Series(seconds, reference)
    return found


def _notes(base: Report, new: Report) -> list[str]:
    files, versions = (
        [{name: expert["sha256"] for name, expert in r["experts"].items()} for r in (base, new)],
        [report["machine"]["versions"] for report in (base, new)],
    )
    pairs = [
        *((f"{name}'s file", files[0].get(name), now) for name, now in files[1].items()),
        *((package, versions[0].get(package), now) for package, now in versions[1].items()),
        ("threads", base["settings"]["threads"], new["settings"]["threads"]),
    ]
    return [
        f"{what}: {str(was)[:12]} then, {str(now)[:12]} now"
        for what, was, now in pairs
        if was != now
    ]
