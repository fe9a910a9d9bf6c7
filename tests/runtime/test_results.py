"""Intervals and probabilities of an estimate."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import AgeEstimate, ExpertAge, NotCalibratedError, ResidualQuantiles

RESIDUALS = ResidualQuantiles((0.05, 0.25, 0.5, 0.75, 0.95), (-8.0, -3.0, 0.5, 3.0, 10.0))
EXPERTS = {"a": ExpertAge(41.0, 40.0, 1.0)}


def estimate(age: float = 40.0) -> AgeEstimate:
    return AgeEstimate(age, EXPERTS, {"b": "failed"}, residuals=RESIDUALS)


def test_the_default_interval_is_that_of_ninety_percent() -> None:
    assert estimate().interval(0.9) == (32.0, 50.0)
    assert (estimate().low_years, estimate().high_years) == (32.0, 50.0)


def test_between_levels_the_interval_is_linear() -> None:
    assert estimate().interval(0.7) == pytest.approx((40.0 - 5.5, 40.0 + 6.5))


@pytest.mark.parametrize(("age", "interval"), [(3.0, (0.0, 13.0)), (95.0, (87.0, 100.0))])
def test_intervals_are_clipped_to_the_grid(age: float, interval: tuple[float, float]) -> None:
    assert estimate(age).interval(0.9) == interval


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5, 0.95, float("nan")])
def test_levels_beyond_the_tables_are_rejected(level: float) -> None:
    with pytest.raises(ValueError, match=r"within \(0, 0\.9\]"):
        estimate().interval(level)


@given(st.floats(0.001, 0.9), st.floats(0.001, 0.9))
def test_a_wider_level_gives_a_wider_interval(one: float, other: float) -> None:
    narrow, wide = sorted((one, other))
    inner, outer = estimate().interval(narrow), estimate().interval(wide)
    assert outer[0] <= inner[0] <= inner[1] <= outer[1]


@given(st.floats(-1000.0, 1000.0), st.floats(-1000.0, 1000.0))
def test_probability_falls_with_the_threshold(one: float, other: float) -> None:
    low, high = sorted((one, other))
    chances = estimate().probability_at_least(low), estimate().probability_at_least(high)
    assert chances[0] >= chances[1]


@given(st.floats(-1000.0, 1000.0), st.floats(0.0, 100.0))
def test_probabilities_beyond_the_tables_are_bounds(threshold: float, age: float) -> None:
    found = estimate(age)
    nearest, (low, high) = (
        found.probability_at_least(threshold),
        found.probability_bounds(threshold),
    )
    if threshold <= 0.0:
        assert (nearest, low, high) == (1.0, 1.0, 1.0)
    elif threshold > 123.0:
        assert (nearest, low, high) == (0.0, 0.0, 0.0)
    elif threshold - age > RESIDUALS.years[-1]:
        assert (nearest, low, high) == pytest.approx((0.05, 0.0, 0.05))
        assert low == 0.0
    elif threshold - age < RESIDUALS.years[0]:
        assert (nearest, low, high) == pytest.approx((0.95, 0.95, 1.0))
        assert high == 1.0
    else:
        assert nearest == low == high


def test_a_thousand_years_are_impossible() -> None:
    assert estimate().probability_at_least(1000.0) == 0.0
    assert estimate(98.0).probability_bounds(115.0) == pytest.approx((0.0, 0.05))


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), -float("inf")])
def test_a_threshold_is_a_finite_number(threshold: float) -> None:
    for ask in (estimate().probability_at_least, estimate().probability_bounds):
        with pytest.raises(ValueError, match="finite"):
            ask(threshold)


@given(st.floats(0.05, 0.95))
def test_probability_inverts_the_quantiles(level: float) -> None:
    threshold = 40.0 + RESIDUALS.at(level)
    assert estimate().probability_at_least(threshold) == pytest.approx(1.0 - level, abs=1e-9)


def test_equal_quantiles_do_not_divide_by_zero() -> None:
    flat = ResidualQuantiles((0.1, 0.5, 0.9), (2.0, 2.0, 2.0))
    chances = [flat.level_of(residual) for residual in (1.9, 2.0, 2.1)]
    assert chances == sorted(chances)
    assert set(chances) <= set(flat.levels)


def test_without_tables_there_is_no_interval() -> None:
    bare = AgeEstimate(40.0, EXPERTS)
    assert bare.low_years is None
    assert bare.high_years is None
    for ask in (lambda: bare.interval(0.9), lambda: bare.probability_at_least(18)):
        with pytest.raises(NotCalibratedError, match=r"\(a\).*runtime calibrate"):
            ask()


def test_to_dict_is_plain_json() -> None:
    values = json.loads(json.dumps(estimate().to_dict(), allow_nan=False))
    assert (values["age_years"], values["low_years"], values["high_years"]) == (40.0, 32.0, 50.0)
    assert values["interval_level"] == 0.9
    assert values["experts"]["a"]["corrected_years"] == 40.0
    assert values["missing"] == {"b": "failed"}


def test_results_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        estimate().age_years = 3.0  # type: ignore[misc]
