"""Statistics of timing: rounds, percentiles, intervals, tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.comparison import Series, change, holm
from benchmarks.measuring import (
    distribution,
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


def test_each_round_runs_everything_once_in_a_new_order() -> None:
    calls: list[str] = []
    names = ["a", "b", "c"]
    results = interleaved(
        {name: counting(calls, name) for name in names}, seconds=0.0, min_rounds=9, warm_up=2
    )
    rounds = [tuple(calls[start : start + 3]) for start in range(0, len(calls), 3)]
    assert len(rounds) == 2 + 9
    assert all(sorted(order) == names for order in rounds)
    assert len(set(rounds)) > 1
    assert {len(own) for own in results.values()} == {9}
    assert min(map(min, results.values())) == 7  # the warm-up is discarded


def test_rounds_continue_until_the_time_is_up() -> None:
    results = interleaved({"a": lambda: 0}, seconds=0.2, min_rounds=1, warm_up=0)
    assert len(results["a"]) > 1


@pytest.mark.parametrize(
    ("count", "known"),
    [
        (1, {"p50"}),
        (10, {"p50", "p90"}),
        (20, {"p50", "p90", "p95"}),
        (100, {"p50", "p90", "p95", "p99"}),
    ],
)
def test_percentiles_need_enough_samples(count: int, known: set[str]) -> None:
    found = distribution(np.arange(count) + 1.0)
    percentiles = {name: found[f"{name}_seconds"] for name in ("p50", "p90", "p95", "p99")}
    assert {name for name, value in percentiles.items() if value is not None} == known
    assert found["p50_seconds"] == (count + 1) / 2


def test_median_interval_is_binomial() -> None:
    # Of 10 values the second and second largest enclose the median with 1 - 2 · 11/1024.
    assert median_interval(np.arange(10.0)) == (1.0, 8.0)
    assert median_interval(np.arange(5.0)) == (0.0, 4.0)  # five values: the range


def test_median_interval_has_its_coverage() -> None:
    rng = np.random.default_rng(0)
    draws = rng.lognormal(size=(2000, 25))
    inside = [low <= 1.0 <= high for low, high in map(median_interval, draws)]
    assert 0.94 <= np.mean(inside) <= 0.985


def test_sign_test() -> None:
    assert sign_test([1.1] * 10) == pytest.approx(2 / 1024)
    assert sign_test([1.1] * 5 + [0.9] * 5) == 1.0
    assert sign_test([1.1] * 6 + [1.0] * 100) == pytest.approx(2 / 64)  # ties are ignored
    assert sign_test([]) == 1.0


def test_ratios_are_taken_within_rounds() -> None:
    drift = np.linspace(1.0, 5.0, 40)
    found = paired_ratio(2.0 * drift, drift)
    assert [found[key] for key in ("median", "low", "high")] == pytest.approx([2.0, 2.0, 2.0])
    assert found["p_value"] < 1e-9


def noisy(level: float, seed: int, rounds: int = 60, machine: float = 1.0) -> Series:
    rng = np.random.default_rng(seed)
    seconds = machine * level * rng.lognormal(sigma=0.08, size=rounds)
    reference = machine * 0.01 * rng.lognormal(sigma=0.03, size=rounds)
    return Series(list(seconds), list(reference))


@pytest.mark.parametrize("machine", [0.8, 1.0, 1.3])
def test_another_machine_speed_is_no_change(machine: float) -> None:
    found = change(noisy(0.1, 0), noisy(0.1, 1, machine=machine), TOLERANCE)
    assert found is not None
    assert found.p_slower > 0.05
    assert found.p_faster > 0.05
    assert found.corrected_ratio == pytest.approx(1.0, abs=0.05)
    assert found.ratio == pytest.approx(machine, rel=0.05)


def test_slower_and_faster_are_found() -> None:
    slower = change(noisy(0.1, 0), noisy(0.13, 1), TOLERANCE)
    faster = change(noisy(0.13, 0), noisy(0.1, 1), TOLERANCE)
    assert slower is not None
    assert faster is not None
    assert slower.p_slower < 0.001
    assert faster.p_faster < 0.001
    assert slower.p_faster > 0.5


def test_changes_below_the_tolerance_never_count() -> None:
    found = change(noisy(0.1, 0, 4000), noisy(0.103, 1, 4000), TOLERANCE)
    assert found is not None
    assert found.p_slower > 0.9


def test_without_a_reference_workload_there_is_no_correction() -> None:
    base, new = Series([0.1, 0.101] * 20), Series([0.12, 0.121] * 20)
    found = change(base, new, TOLERANCE)
    assert found is not None
    assert found.ratio == found.corrected_ratio == pytest.approx(1.2, rel=0.01)


def test_identical_runs_rarely_differ() -> None:
    found = [change(noisy(0.1, 2 * n), noisy(0.1, 2 * n + 1), TOLERANCE) for n in range(60)]
    assert sum(f is not None and f.p_slower < 0.01 for f in found) <= 2


def drifting(seed: int, level: float = 0.1, rounds: int = 60, memory: float = 0.5) -> Series:
    """Autocorrelated rounds, with a reference workload that is independent of them."""
    rng = np.random.default_rng(seed)
    log = np.empty(rounds)
    for place, shock in enumerate(rng.normal(0.0, 0.05, rounds)):
        log[place] = (
            shock if place == 0 else memory * log[place - 1] + (1 - memory**2) ** 0.5 * shock
        )
    return Series(list(level * np.exp(log)), list(0.01 * rng.lognormal(sigma=0.03, size=rounds)))


def test_drifting_runs_rarely_differ_and_a_slowdown_is_found() -> None:
    pairs = [(drifting(3 * n), drifting(3 * n + 1)) for n in range(40)]
    same = [change(base, new, TOLERANCE) for base, new in pairs]
    assert not any(found is None or found.p_slower < 0.01 for found in same)
    slower = [
        change(base, drifting(3 * n + 2, level=0.115), TOLERANCE)
        for n, (base, _) in enumerate(pairs)
    ]
    assert sum(found is not None and found.p_slower < 0.01 for found in slower) >= 30


@pytest.mark.parametrize("memory", [0.0, 0.8])
def test_noise_is_the_spread_of_medians(memory: float) -> None:
    series = [drifting(n, memory=memory) for n in range(400)]
    ratios = [
        np.log(np.median(new.seconds) / np.median(base.seconds))
        for base, new in zip(series[::2], series[1::2], strict=True)
    ]
    pairs = zip(series[:80:2], series[1:80:2], strict=True)
    plain = [change(Series(a.seconds), Series(b.seconds), TOLERANCE) for a, b in pairs]
    noise = np.median([found.noise for found in plain if found is not None])
    assert noise == pytest.approx(np.std(ratios), rel=0.35)


def test_too_few_rounds_are_not_compared() -> None:
    assert change(Series([0.1] * 9), Series([0.2] * 100), TOLERANCE) is None


def test_holm_is_stricter_with_more_comparisons() -> None:
    assert holm({"a": 0.004}) == {"a"}
    assert holm({"a": 0.004, "b": 0.5, "c": 0.6}) == set()
    assert holm({"a": 0.003, "b": 0.004, "c": 0.6}) == {"a", "b"}
    assert holm({}) == set()
