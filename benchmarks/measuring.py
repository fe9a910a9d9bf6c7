"""Timing that is robust on a busy machine: interleaved rounds, medians and their intervals.

Everything that is compared runs once per round, in a new random order each round, so that a machine
that slows down does so for all alike. Ratios are taken within rounds.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom, binomtest

T = TypeVar("T")
Floats = NDArray[np.float64]

MIN_ROUNDS = 5
PAUSE_SECONDS = 0.02
"""After each run, in which threads that spin while they wait for more work come to rest."""
_MIN_SAMPLES = {"p50": 1, "p90": 10, "p95": 20, "p99": 100}
"""Samples from which on a percentile is given."""
_CONFIDENCE = 0.95
_REFERENCE_SIDE = 640


def interleaved(
    runs: Mapping[str, Callable[[], T]],
    *,
    seconds: float,
    min_rounds: int = MIN_ROUNDS,
    warm_up: int = 2,
    seed: int = 0,
) -> dict[str, list[T]]:
    """Runs everything once per round, in a new order every round.

    Args:
        runs: functions to run, by name.
        seconds: no further round begins after this time; the warm-up does not count.
        min_rounds: rounds that run however long they take.
        warm_up: rounds whose results are discarded.
        seed: of the orders.

    Returns:
        The results of each function by name, one per round, in the order of the rounds.
    """
    order, generator = list(runs), random.Random(seed)
    results: dict[str, list[T]] = {name: [] for name in runs}
    started, done = time.perf_counter(), -warm_up
    while done < min_rounds or time.perf_counter() - started < seconds:
        if done == 0:
            started = time.perf_counter()
        generator.shuffle(order)
        for name in order:
            result = runs[name]()
            time.sleep(PAUSE_SECONDS)
            if done >= 0:
                results[name].append(result)
        done += 1
    return results


def timed(function: Callable[[], object]) -> Callable[[], float]:
    """Returns a function that calls the given one and returns its seconds."""

    def run() -> float:
        started = time.perf_counter()
        function()
        return time.perf_counter() - started

    return run


class ReferenceWorkload:
    """A fixed amount of work on all cores; its duration measures the machine's present speed."""

    def __init__(self, cores: int) -> None:
        """Starts one thread per core."""
        self._cores = cores
        self._pool = ThreadPoolExecutor(cores, thread_name_prefix="reference-workload")
        rng = np.random.default_rng(0)
        self._matrix = rng.random((_REFERENCE_SIDE, _REFERENCE_SIDE), np.float32)

    def __call__(self) -> float:
        """Runs the work and returns its seconds."""
        started = time.perf_counter()
        list(self._pool.map(lambda _: (self._matrix @ self._matrix)[0, 0], range(self._cores)))
        return time.perf_counter() - started

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=True)


def distribution(seconds: ArrayLike) -> dict[str, Any]:
    """Summarizes durations, (N,), N at least 1, as reports hold them.

    A percentile is None where there are too few samples.
    """
    values = np.asarray(seconds, np.float64)
    percentiles = {
        f"{name}_seconds": float(np.quantile(values, int(name[1:]) / 100))
        if len(values) >= least
        else None
        for name, least in _MIN_SAMPLES.items()
    }
    return {
        "count": len(values),
        "mean_seconds": float(values.mean()),
        "median_interval_seconds": list(median_interval(values)),
        **percentiles,
    }


def median_interval(values: ArrayLike, confidence: float = _CONFIDENCE) -> tuple[float, float]:
    """Returns the interval of the median from order statistics; assumes no distribution.

    The number of values below the median is binomial(N, 1/2), so the probability that the k-th
    smallest and k-th largest enclose it depends on k alone. With fewer than 6 values no such
    interval reaches 95 %, and the range is returned.
    """
    ranked = np.sort(np.asarray(values, np.float64))
    outside = max(int(binom.ppf((1.0 - confidence) / 2.0, len(ranked), 0.5)) - 1, 0)
    return float(ranked[outside]), float(ranked[len(ranked) - 1 - outside])


def paired_ratio(numerator: ArrayLike, denominator: ArrayLike) -> dict[str, float]:
    """Compares durations of the same rounds, both (N,).

    Returns:
        `median` of the ratios within rounds, `low` and `high` of its 95 % interval, and the
        `p_value` of a sign test: the probability of such a one-sided result if neither is slower.
    """
    ratios = np.asarray(numerator, np.float64) / np.asarray(denominator, np.float64)
    return {**median_with_interval(ratios), "p_value": sign_test(ratios)}


def median_with_interval(values: Floats) -> dict[str, float]:
    """Returns the `median`, and `low` and `high` of its interval."""
    low, high = median_interval(values)
    return {"median": float(np.median(values)), "low": low, "high": high}


def sign_test(ratios: ArrayLike) -> float:
    """Returns the two-sided p-value of the signs of log(ratio); ratios of exactly 1 are ignored."""
    values = np.asarray(ratios, np.float64)
    above, below = int((values > 1.0).sum()), int((values < 1.0).sum())
    return float(binomtest(above, above + below).pvalue) if above + below else 1.0
