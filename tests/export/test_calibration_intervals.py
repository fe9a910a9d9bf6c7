from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest

from export.calibration.fit import fit_fusion
from export.calibration.folds import folds_of
from export.calibration.intervals import levels_for, quantile_table, subsets_of
from export.calibration.scores import Scores, scores_of_tables
from runtime.fusion import FusionTables
from runtime.results import ResidualQuantiles
from tests.export.calibration_examples import NAMES, fewer_splits, made_up


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with fewer_splits():
        yield


@cache
def tables() -> FusionTables:
    return fit_fusion(made_up(500, seed=7)).tables


def fresh() -> Scores:
    return scores_of_tables(made_up(4000, seed=21), tables())


def test_ninety_percent_interval_covers_new_faces_at_every_estimated_age() -> None:
    scores = fresh()
    covered = scores.covered(0.9)
    assert covered is not None
    assert 0.88 <= covered.mean() <= 0.94
    for low, high in ((0, 18), (18, 40), (40, 60), (60, 101)):
        band = (scores.fused_years >= low) & (scores.fused_years < high)
        assert 0.84 <= covered[band].mean() <= 0.96


@pytest.mark.parametrize("missing", NAMES)
def test_interval_without_an_expert_is_wider_and_covers(missing: str) -> None:
    everyone = frozenset(NAMES)
    table = tables()
    assert table.spread is not None
    spread = table.spread.quantiles_years
    low, high = (table.spread.levels.index(level) for level in (0.05, 0.95))
    whole, part = spread[everyone], spread[everyone - {missing}]
    assert (part[:, high] - part[:, low]).mean() > (whole[:, high] - whole[:, low]).mean() - 0.5
    new = made_up(4000, seed=21)
    columns = [index for index, name in enumerate(NAMES) if name != missing]
    names = [NAMES[index] for index in columns]
    fused = table.fuse(names, new.predictions_years[:, columns]).age_years
    ends = [np.interp(fused, table.age_grid, part[:, index]) for index in (low, high)]
    residuals = new.age_years - fused
    assert 0.87 <= ((residuals >= ends[0]) & (residuals <= ends[1])).mean() <= 0.95


def test_probability_at_least_is_calibrated() -> None:
    scores = fresh()
    probability = scores.probability_at_least(18.0)
    assert probability is not None
    adult = scores.faces.age_years >= 18.0
    assert probability.mean() == pytest.approx(adult.mean(), abs=0.03)
    unsure = (probability > 0.3) & (probability < 0.7)
    assert adult[unsure].mean() == pytest.approx(probability[unsure].mean(), abs=0.2)


def test_vectorized_quantiles_equal_those_of_the_runtime() -> None:
    scores = fresh()
    assert scores.quantiles is not None
    low, high = scores.interval(scores.quantiles, 0.9)
    probability = scores.probability_at_least(30.0)
    assert probability is not None
    for row in (0, 17, 399):
        age = float(scores.fused_years[row])
        residuals = tables().residuals_at(frozenset(NAMES), age)
        assert isinstance(residuals, ResidualQuantiles)
        assert max(age + residuals.at(0.05), 0.0) == pytest.approx(low[row])
        assert min(age + residuals.at(0.95), 100.0) == pytest.approx(high[row])
        assert 1.0 - residuals.level_of(30.0 - age) == pytest.approx(probability[row])


def test_quantiles_do_not_cross_and_are_close_to_the_true_ones() -> None:
    rng = np.random.default_rng(0)
    fused, residuals = rng.uniform(0, 100, 2000), rng.normal(0, 5, 2000)
    levels = levels_for(40)
    many, few = (quantile_table(fused[:n], residuals[:n], levels) for n in (2000, 40))
    assert (np.diff(many, axis=1) >= 0).all()
    assert (np.diff(few, axis=1) >= 0).all()
    # The 95 % quantile of a normal distribution of 5 years is 1.645 * 5 years.
    assert many[:, levels.index(0.95)].mean() == pytest.approx(8.2, abs=0.8)


@pytest.mark.parametrize(("faces", "rarest"), [(30, 0.05), (630, 0.025), (3000, 0.005)])
def test_levels_are_limited_by_the_number_of_faces(faces: int, rarest: float) -> None:
    levels = levels_for(faces)
    assert levels[0] == rarest
    assert levels[-1] == pytest.approx(1.0 - rarest)
    assert 0.05 in levels
    assert 0.95 in levels


def test_saturated_estimates_do_not_break_the_spread() -> None:
    rng = np.random.default_rng(0)
    table = quantile_table(np.full(100, 35.0), rng.normal(0, 5, 100), levels_for(100))
    assert np.isfinite(table).all()
    assert np.ptp(table, axis=0).max() < 1.0


def test_few_experts_have_every_subset_and_many_the_likely_ones() -> None:
    assert len(subsets_of("abcdef")) == 63
    many = subsets_of("abcdefgh")
    assert {len(names) for names in many} == {8, 7, 6, 2, 1}
    assert many[0] == frozenset("abcdefgh")


def test_folds_keep_people_together_and_balance_ages() -> None:
    faces = made_up(600, per_person=3)
    folds = folds_of(faces.age_years, faces.people, 5, seed=1)
    assert faces.subjects is not None
    for person in np.unique(faces.subjects):
        assert len(set(folds[faces.subjects == person])) == 1
    means = [faces.age_years[folds == fold].mean() for fold in range(5)]
    assert np.ptp(means) < 4.0
    assert np.ptp(np.bincount(folds)) <= 3
