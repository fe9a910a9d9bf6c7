"""Timing that a busy machine cannot mislead: interleaved rounds, medians, and what is noise.

Whatever is to be compared is run in turn, once per round and in a new order every round, so that a
machine that gets slower gets slower for all. Ratios are taken within rounds.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

T = TypeVar("T")
Floats = NDArray[np.float64]

LEAST_ROUNDS = 5
_PAUSE_SECONDS = 0.02
"""After each run: threads that spin while they wait for more work come to rest."""
_LEAST_SAMPLES = {"p50": 1, "p90": 10, "p95": 20, "p99": 100}
"""Fewer say nothing of a percentile."""
_CONFIDENCE = 0.95
_RESAMPLES = 400
_LEAST_FOR_NOISE = 10
"""Rounds from which on the noise of a median can be told."""
_YARDSTICK_SIDE = 640


def interleaved(
    runs: Mapping[str, Callable[[], T]],
    *,
    seconds: float,
    least_rounds: int = LEAST_ROUNDS,
    warm_up: int = 2,
    seed: int = 0,
) -> dict[str, list[T]]:
    """Runs everything once per round, in a new order every round.

    Args:
        runs: what to run, by name.
        seconds: after which no further round begins, the warm-up not counted.
        least_rounds: are run however long they take.
        warm_up: rounds that are forgotten.
        seed: of the orders.

    Returns:
        What each run returned, by name: as many as there were rounds, in their order.
    """
    order, shuffled = list(runs), random.Random(seed)
    laps: dict[str, list[T]] = {name: [] for name in runs}
    started = time.perf_counter()
    for round_number in range(-warm_up, 1 << 60):
        if round_number == 0:
            started = time.perf_counter()
        if round_number >= least_rounds and time.perf_counter() - started >= seconds:
            break
        shuffled.shuffle(order)
        for name in order:
            lap = runs[name]()
            time.sleep(_PAUSE_SECONDS)
            if round_number >= 0:
                laps[name].append(lap)
    return laps


def timed(function: Callable[[], object]) -> Callable[[], float]:
    """A run of a function, as `interleaved` takes it, that gives its seconds."""

    def run() -> float:
        started = time.perf_counter()
        function()
        return time.perf_counter() - started

    return run


class Yardstick:
    """A fixed piece of work on all cores; how long it takes tells how fast the machine is now."""

    def __init__(self, cores: int) -> None:
        """Takes the number of threads that work at a time."""
        self._cores = cores
        self._pool = ThreadPoolExecutor(cores, thread_name_prefix="yardstick")
        rng = np.random.default_rng(0)
        self._matrix = rng.random((_YARDSTICK_SIDE, _YARDSTICK_SIDE), np.float32)

    def __call__(self) -> float:
        """Seconds that it takes now."""
        started = time.perf_counter()
        list(self._pool.map(self._work, range(self._cores)))
        return time.perf_counter() - started

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=True)

    def _work(self, _: int) -> float:
        return float((self._matrix @ self._matrix)[0, 0])


@dataclass(frozen=True, slots=True)
class Distribution:
    """How long something took, over all rounds."""

    count: int
    mean_seconds: float
    percentiles_seconds: Mapping[str, float | None]
    """`p50`, `p90`, `p95`, `p99`; None where there are too few samples to tell."""
    low_seconds: float
    """Of the 95 % interval of the median."""
    high_seconds: float

    @property
    def median_seconds(self) -> float:
        """The median."""
        return self.percentiles_seconds["p50"] or 0.0

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "count": self.count,
            "mean_seconds": self.mean_seconds,
            "median_interval_seconds": [self.low_seconds, self.high_seconds],
            **{f"{name}_seconds": value for name, value in self.percentiles_seconds.items()},
        }


def distribution(seconds: ArrayLike) -> Distribution:
    """Summarizes durations, (N,), N at least 1."""
    values = np.asarray(seconds, np.float64)
    low, high = median_interval(values)
    percentiles = {
        name: float(np.quantile(values, int(name[1:]) / 100)) if len(values) >= least else None
        for name, least in _LEAST_SAMPLES.items()
    }
    return Distribution(len(values), float(values.mean()), percentiles, low, high)


def median_interval(values: ArrayLike, confidence: float = _CONFIDENCE) -> tuple[float, float]:
    """Interval of the median from order statistics: no distribution is assumed.

    The number of values below the median is binomial(N, 1/2); so the k-th smallest and k-th
    largest enclose it with a probability that depends on k alone. With fewer than 6 values no
    such interval reaches 95 %, and the range is returned.
    """
    ranked = np.sort(np.asarray(values, np.float64))
    count, tail = len(ranked), 0.0
    outside = 0
    for below in range(count // 2):
        tail += math.comb(count, below) * 0.5**count
        if tail > (1.0 - confidence) / 2.0:
            break
        outside = below
    return float(ranked[outside]), float(ranked[count - 1 - outside])


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as long one thing took as another, round by round."""

    median: float
    low: float
    """Of the 95 % interval."""
    high: float
    p_value: float
    """Of the sign test: how probable such one-sidedness is if neither is slower."""

    def as_json(self) -> dict[str, float]:
        """Plain values."""
        return {
            "median": self.median,
            "low": self.low,
            "high": self.high,
            "p_value": self.p_value,
        }


def paired_ratio(numerator: ArrayLike, denominator: ArrayLike) -> Ratio:
    """Compares two things that ran in the same rounds.

    Args:
        numerator: seconds, (N,).
        denominator: seconds of the same rounds, (N,).
    """
    ratios = np.asarray(numerator, np.float64) / np.asarray(denominator, np.float64)
    low, high = median_interval(ratios)
    return Ratio(float(np.median(ratios)), low, high, sign_test(ratios))


def sign_test(ratios: ArrayLike) -> float:
    """Two-sided p-value for as many ratios on one side of 1; ratios of exactly 1 are left out."""
    values = np.asarray(ratios, np.float64)
    above, below = int((values > 1.0).sum()), int((values < 1.0).sum())
    count = above + below
    tail = sum(math.comb(count, k) for k in range(min(above, below) + 1)) * 0.5**count
    return min(1.0, 2.0 * float(tail))


@dataclass(frozen=True, slots=True)
class Series:
    """Durations of one thing in one run of a benchmark."""

    seconds: Sequence[float]
    """By round."""
    yardstick: Sequence[float] | None = None
    """The yardstick's seconds in the same rounds; None where it says nothing of this."""


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one thing between two runs that were not interleaved."""

    ratio: float
    """New over base, medians."""
    corrected_ratio: float
    """The same, each in units of its own run's yardstick."""
    noise: float
    """Standard error of the logarithm of the ratio, the larger of the two."""
    p_slower: float
    """How probable it is to see this if it did not get slower by more than the tolerance."""
    p_faster: float


def change(base: Series, new: Series, tolerance: float) -> Change | None:
    """Compares two runs; None where they have too few rounds to know their noise.

    Something counts as slower only if it is, beyond the tolerance and the noise, both as measured
    and in units of the yardstick. Noise is how much medians vary when stretches of rounds are
    drawn anew (circular block bootstrap: neighboring rounds resemble one another).

    Args:
        base: before.
        new: after.
        tolerance: relative change that never counts: two runs of the same differ by as much.
    """
    if min(len(base.seconds), len(new.seconds)) < _LEAST_FOR_NOISE:
        return None
    plain = _log_ratio(Series(base.seconds), Series(new.seconds))
    corrected = plain if None in (base.yardstick, new.yardstick) else _log_ratio(base, new)
    limit = math.log1p(tolerance)
    return Change(
        ratio=math.exp(plain[0]),
        corrected_ratio=math.exp(corrected[0]),
        noise=max(plain[1], corrected[1]),
        p_slower=max(_above(log, noise, limit) for log, noise in (plain, corrected)),
        p_faster=max(_above(-log, noise, limit) for log, noise in (plain, corrected)),
    )


def holm(p_values: Mapping[str, float], level: float = 0.01) -> set[str]:
    """Names whose p-values hold although there are many (Holm's step-down procedure)."""
    found: set[str] = set()
    for rank, (name, p_value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if p_value > level / (len(p_values) - rank):
            break
        found.add(name)
    return found


def _log_ratio(base: Series, new: Series) -> tuple[float, float]:
    """Logarithm of the ratio of medians, and its standard error."""
    (first, first_error), (second, second_error) = _log_median(base), _log_median(new)
    return second - first, math.hypot(first_error, second_error)


def _log_median(series: Series) -> tuple[float, float]:
    """Logarithm of the median and its standard error: of short or long stretches, the larger."""
    count = len(series.seconds)
    blocks = {round(math.sqrt(count)), max(count // 4, 1)}
    (whole,) = _log_level(series, np.arange(count)[None])
    errors = [_log_level(series, _drawn(count, block)).std(ddof=1) for block in blocks]
    return float(whole), float(max(errors))


def _drawn(count: int, block: int) -> NDArray[np.int64]:
    """Rounds drawn anew in stretches, (resamples, count)."""
    rng = np.random.default_rng(0)
    starts = rng.integers(0, count, (_RESAMPLES, math.ceil(count / block), 1))
    stretches = (starts + np.arange(block)) % count
    return np.asarray(stretches.reshape(_RESAMPLES, -1)[:, :count], np.int64)


def _log_level(series: Series, rows: NDArray[np.int64]) -> Floats:
    level = np.log(np.median(np.asarray(series.seconds, np.float64)[rows], axis=1))
    if series.yardstick is not None:
        level -= np.log(np.median(np.asarray(series.yardstick, np.float64)[rows], axis=1))
    return np.asarray(level, np.float64)


def _above(value: float, noise: float, limit: float) -> float:
    """Probability of a normal variable this far above the limit."""
    return 0.5 * math.erfc((value - limit) / (max(noise, 1e-9) * math.sqrt(2.0)))
