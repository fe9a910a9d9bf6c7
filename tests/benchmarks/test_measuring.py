"""The arithmetic of timing: rounds, percentiles, intervals, tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.measuring import (
    Series,
    change,
    distribution,
    holm,
    interleaved,
    median_interval,
    paired_ratio,
    sign_test,
)

TOLERANCE = 0.05


def counting(calls: list[str], name: str) -> Callable[[], int]:
    def run() -> int:
        calls.append(name)
        return len(calls)

    return run


def test_every_round_runs_everything_once_in_changing_order() -> None:
    calls: list[str] = []
    names = ["a", "b", "c"]
    laps = interleaved(
        {name: counting(calls, name) for name in names}, seconds=0.0, least_rounds=9, warm_up=2
    )
    rounds = [tuple(calls[start : start + 3]) for start in range(0, len(calls), 3)]
    assert len(rounds) == 2 + 9
    assert all(sorted(order) == names for order in rounds)
    assert len(set(rounds)) > 1
    assert {len(own) for own in laps.values()} == {9}
    assert min(lap for own in laps.values() for lap in own) == 7  # the warm-up is forgotten


def test_rounds_go_on_until_the_time_is_over() -> None:
    laps = interleaved({"a": lambda: 0}, seconds=0.2, least_rounds=1, warm_up=0)
    assert len(laps["a"]) > 1


@pytest.mark.parametrize(
    ("count", "known"),
    [
        (1, {"p50"}),
        (10, {"p50", "p90"}),
        (20, {"p50", "p90", "p95"}),
        (100, {"p50", "p90", "p95", "p99"}),
    ],
)
def test_percentiles_are_not_made_up(count: int, known: set[str]) -> None:
    found = distribution(np.arange(count) + 1.0)
    assert {n for n, value in found.percentiles_seconds.items() if value is not None} == known
    assert found.median_seconds == (count + 1) / 2


def test_the_interval_of_the_median_is_the_binomials() -> None:
    # Of 10 values the second and second largest enclose the median with 1 - 2 · 11/1024.
    assert median_interval(np.arange(10.0)) == (1.0, 8.0)
    assert median_interval(np.arange(5.0)) == (0.0, 4.0)  # no more can be said with five


def test_the_interval_of_the_median_covers() -> None:
    rng = np.random.default_rng(0)
    draws = rng.lognormal(size=(2000, 25))
    inside = [low <= 1.0 <= high for low, high in map(median_interval, draws)]
    assert 0.94 <= np.mean(inside) <= 0.985


def test_sign_test() -> None:
    assert sign_test([1.1] * 10) == pytest.approx(2 / 1024)
    assert sign_test([1.1] * 5 + [0.9] * 5) == 1.0
    assert sign_test([1.1] * 6 + [1.0] * 100) == pytest.approx(2 / 64)  # ties say nothing
    assert sign_test([]) == 1.0


def test_a_ratio_is_taken_within_rounds() -> None:
    drift = np.linspace(1.0, 5.0, 40)
    found = paired_ratio(2.0 * drift, drift)
    assert (found.median, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))
    assert found.p_value < 1e-9


def noisy(level: float, seed: int, rounds: int = 60, machine: float = 1.0) -> Series:
    rng = np.random.default_rng(seed)
    seconds = machine * level * rng.lognormal(sigma=0.08, size=rounds)
    yardstick = machine * 0.01 * rng.lognormal(sigma=0.03, size=rounds)
    return Series(list(seconds), list(yardstick))


@pytest.mark.parametrize("machine", [0.8, 1.0, 1.3])
def test_a_machine_that_changed_is_no_change(machine: float) -> None:
    found = change(noisy(0.1, 0), noisy(0.1, 1, machine=machine), TOLERANCE)
    assert found is not None
    assert found.p_slower > 0.05
    assert found.p_faster > 0.05
    assert found.corrected_ratio == pytest.approx(1.0, abs=0.05)
    assert found.ratio == pytest.approx(machine, rel=0.05)


def test_what_got_slower_is_found_and_what_got_faster() -> None:
    slower = change(noisy(0.1, 0), noisy(0.13, 1), TOLERANCE)
    faster = change(noisy(0.13, 0), noisy(0.1, 1), TOLERANCE)
    assert slower is not None
    assert faster is not None
    assert slower.p_slower < 0.001
    assert faster.p_faster < 0.001
    assert slower.p_faster > 0.5


def test_less_than_the_tolerance_never_counts() -> None:
    found = change(noisy(0.1, 0, 4000), noisy(0.103, 1, 4000), TOLERANCE)
    assert found is not None
    assert found.p_slower > 0.9


def test_without_a_yardstick_what_was_measured_decides() -> None:
    base, new = Series([0.1, 0.101] * 20), Series([0.12, 0.121] * 20)
    found = change(base, new, TOLERANCE)
    assert found is not None
    assert found.ratio == found.corrected_ratio == pytest.approx(1.2, rel=0.01)


def test_runs_of_the_same_differ_rarely() -> None:
    found = [change(noisy(0.1, 2 * n), noisy(0.1, 2 * n + 1), TOLERANCE) for n in range(60)]
    assert sum(f is not None and f.p_slower < 0.01 for f in found) <= 2


def drifting(seed: int, level: float = 0.1, rounds: int = 60, memory: float = 0.5) -> Series:
    """Rounds of which each resembles the one before it, on a yardstick that does not notice."""
    rng = np.random.default_rng(seed)
    log = np.empty(rounds)
    for place, shock in enumerate(rng.normal(0.0, 0.05, rounds)):
        log[place] = (
            shock if place == 0 else memory * log[place - 1] + (1 - memory**2) ** 0.5 * shock
        )
    return Series(list(level * np.exp(log)), list(0.01 * rng.lognormal(sigma=0.03, size=rounds)))


def test_runs_that_drift_differ_rarely_and_ten_percent_is_found() -> None:
    pairs = [(drifting(3 * n), drifting(3 * n + 1)) for n in range(40)]
    same = [change(base, new, TOLERANCE) for base, new in pairs]
    assert not any(found is None or found.p_slower < 0.01 for found in same)
    slower = [
        change(base, drifting(3 * n + 2, level=0.115), TOLERANCE)
        for n, (base, _) in enumerate(pairs)
    ]
    assert sum(found is not None and found.p_slower < 0.01 for found in slower) >= 30


@pytest.mark.parametrize("memory", [0.0, 0.8])
def test_noise_is_how_much_medians_vary(memory: float) -> None:
    series = [drifting(n, memory=memory) for n in range(400)]
    ratios = [
        np.log(np.median(new.seconds) / np.median(base.seconds))
        for base, new in zip(series[::2], series[1::2], strict=True)
    ]
    pairs = zip(series[:80:2], series[1:80:2], strict=True)
    plain = [change(Series(a.seconds), Series(b.seconds), TOLERANCE) for a, b in pairs]
    told = np.median([found.noise for found in plain if found is not None])
    assert told == pytest.approx(np.std(ratios), rel=0.35)


def test_a_few_rounds_tell_nothing() -> None:
    assert change(Series([0.1] * 9), Series([0.2] * 100), TOLERANCE) is None


def test_holm_asks_more_of_many() -> None:
    assert holm({"a": 0.004}) == {"a"}
    assert holm({"a": 0.004, "b": 0.5, "c": 0.6}) == set()
    assert holm({"a": 0.003, "b": 0.004, "c": 0.6}) == {"a", "b"}
    assert holm({}) == set()
