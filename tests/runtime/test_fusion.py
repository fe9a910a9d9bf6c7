"""The five steps against an implementation with plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.fusion import AGE_GRID, FusionTables, Spread
from tests.runtime.fusion_tables import Row, pivot_tables

NAMES = ("a", "b", "c")
GRID = (0.0, 10.0, 30.0, 60.0, 100.0)


def table_of(values: list[float], x: float) -> float:
    """Interpolates linearly between the nodes of GRID; flat outside."""
    if x <= GRID[0]:
        return values[0]
    for left in range(len(GRID) - 1):
        if x <= GRID[left + 1]:
            share = (x - GRID[left]) / (GRID[left + 1] - GRID[left])
            return values[left] * (1 - share) + values[left + 1] * share
    return values[-1]


def shares(logits: dict[str, float]) -> dict[str, float]:
    highest = max(logits.values())
    powers = {name: math.exp(logit - highest) for name, logit in logits.items()}
    return {name: power / sum(powers.values()) for name, power in powers.items()}


def fused_by_loops(
    predicted: dict[str, float], experts: dict[str, tuple[list[float], list[float], float]]
) -> tuple[float, dict[str, float], dict[str, float]]:
    corrected = {n: age + table_of(experts[n][0], age) for n, age in predicted.items()}
    first = shares({n: experts[n][2] for n in predicted})
    pivot = sum(first[n] * corrected[n] for n in predicted)
    weights = shares({n: table_of(experts[n][1], pivot) for n in predicted})
    age = sum(weights[n] * corrected[n] for n in predicted)
    return min(max(age, GRID[0]), GRID[-1]), corrected, weights


numbers = st.floats(-30.0, 30.0)
column = st.lists(numbers, min_size=len(GRID), max_size=len(GRID))
expert = st.tuples(column, column, numbers)
prediction = st.one_of(st.floats(-50.0, 200.0), st.just(math.nan))
row = st.tuples(prediction, prediction, prediction).filter(lambda r: not all(map(math.isnan, r)))


def tables_of(
    experts: dict[str, tuple[list[float], list[float], float]], spread: Spread | None = None
) -> FusionTables:
    return pivot_tables(
        {n: Row(*expert) for n, expert in experts.items()}, grid=GRID, spread=spread
    )


@settings(max_examples=200)
@given(st.tuples(expert, expert, expert), st.lists(row, min_size=1, max_size=4))
def test_steps_one_to_four(
    experts: tuple[tuple[list[float], list[float], float], ...],
    rows: list[tuple[float, float, float]],
) -> None:
    named = dict(zip(NAMES, experts, strict=True))
    fused = tables_of(named).fuse(NAMES, np.array(rows))
    for index, ages in enumerate(rows):
        predicted = {n: a for n, a in zip(NAMES, ages, strict=True) if not math.isnan(a)}
        age, corrected, weights = fused_by_loops(predicted, named)
        assert fused.age_years[index] == pytest.approx(age, abs=1e-7)
        for place, name in enumerate(NAMES):
            assert fused.weights[index, place] == pytest.approx(weights.get(name, 0.0), abs=1e-9)
            found = fused.corrected_years[index, place]
            assert found == pytest.approx(corrected.get(name, math.nan), nan_ok=True)


@given(st.permutations(NAMES), st.tuples(expert, expert, expert))
def test_order_of_the_columns_does_not_matter(
    order: list[str], experts: tuple[tuple[list[float], list[float], float], ...]
) -> None:
    tables = tables_of(dict(zip(NAMES, experts, strict=True)))
    predicted = dict(zip(NAMES, (12.0, 47.0, 80.0), strict=True))
    straight = tables.fuse(NAMES, np.array([list(predicted.values())])).age_years
    shuffled = tables.fuse(order, np.array([[predicted[name] for name in order]])).age_years
    assert shuffled == pytest.approx(straight)


def test_a_face_does_not_depend_on_the_others_in_its_batch() -> None:
    tables = tables_of({n: ([1.0, 2, 3, 4, 5], [0.0, i, -i, i, 0], i) for i, n in enumerate("abc")})
    ages = np.random.default_rng(1).uniform(0, 100, (20, 3))
    ages[3, 1] = ages[9, 0] = math.nan
    together = tables.fuse(NAMES, ages)
    for index in range(len(ages)):
        alone = tables.fuse(NAMES, ages[index : index + 1])
        assert alone.age_years[0] == together.age_years[index]


def test_identity_is_the_plain_mean() -> None:
    tables = FusionTables.identity(["a", "b"])
    fused = tables.fuse(["a", "b"], np.array([[20.0, 30.0], [math.nan, 44.0]]))
    assert fused.age_years.tolist() == [25.0, 44.0]
    assert fused.weights.tolist() == [[0.5, 0.5], [0.0, 1.0]]
    assert tables.age_grid is AGE_GRID
    assert tables.residuals_at(frozenset("ab"), 25.0) is None


@pytest.mark.parametrize("logit", [1e4, 1e300])
def test_softmax_survives_extreme_logits(logit: float) -> None:
    flat = [0.0] * len(GRID)
    tables = tables_of({"a": (flat, [logit] * 5, logit), "b": (flat, [-logit] * 5, -logit)})
    fused = tables.fuse(("a", "b"), np.array([[10.0, 90.0], [math.nan, 90.0]]))
    assert fused.age_years.tolist() == [10.0, 90.0]


@pytest.mark.parametrize(("predicted", "age"), [(-500.0, 0.0), (1e30, 100.0), (103.0, 98.0)])
def test_tables_are_flat_outside_the_grid_and_the_age_stays_on_it(
    predicted: float, age: float
) -> None:
    tables = tables_of({"a": ([5.0, 0, 0, 0, -5.0], [0.0] * 5, 0.0)})
    assert tables.fuse(("a",), np.array([[predicted]])).age_years[0] == age


def test_residuals_are_interpolated_over_the_fused_age() -> None:
    quantiles = np.array([[-g, 0.0, g / 2] for g in GRID])
    spread = Spread((0.1, 0.5, 0.9), {frozenset("ab"): quantiles})
    flat = [0.0] * len(GRID)
    tables = tables_of(dict.fromkeys("ab", (flat, flat, 0.0)), spread)
    for age in (-3.0, 0.0, 10.0, 17.0, 99.0, 100.0, 120.0):
        clipped = min(max(age, 0.0), 100.0)
        residuals = tables.residuals_at(frozenset("ab"), age)
        assert residuals is not None
        assert residuals.years == pytest.approx((-clipped, 0.0, clipped / 2))
    assert tables.residuals_at(frozenset("a"), 20.0) is None
