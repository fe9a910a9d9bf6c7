from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from export.calibration.bias import BIAS_MODELS, BiasModel, fit_bias
from export.calibration.csv_tables import LabelsError
from export.calibration.fit import Calibration, fit_fusion
from export.calibration.gate import BEST, GateModel, fit_gate
from export.calibration.scores import scores_of_calibration, scores_of_tables
from runtime.fusion import AGE_GRID, PivotGate
from tests.export.calibration_examples import NAMES, fewer_splits, made_up, mean_error

FACES = 400


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with fewer_splits():
        yield


@cache
def calibration() -> Calibration:
    return fit_fusion(made_up(FACES), form="tables")


@pytest.mark.parametrize("model", BIAS_MODELS, ids=str)
def test_bias_is_the_systematic_error_and_flat_beyond_the_predictions(model: BiasModel) -> None:
    rng = np.random.default_rng(1)
    predicted = rng.uniform(20.0, 60.0, 500)
    ages = predicted + 0.2 * (predicted - 40.0) + rng.normal(0.0, 3.0, 500)
    table = fit_bias(predicted, ages, model)
    seen = (AGE_GRID >= 22) & (AGE_GRID <= 58)
    assert np.abs(table - 0.2 * (AGE_GRID - 40.0))[seen].max() < 2.0
    assert np.ptp(table[AGE_GRID <= 20]) == 0.0
    assert np.ptp(table[AGE_GRID >= 60]) == 0.0


def test_bias_is_shrunk_toward_zero_where_faces_are_rare() -> None:
    crowd = np.full(200, 30.0)
    few = np.concatenate([crowd, [80.0]])
    many = np.concatenate([crowd, np.full(50, 80.0)])
    rare, common = (
        fit_bias(years, np.where(years > 50.0, years - 10.0, years), BIAS_MODELS[1])[80]
        for years in (few, many)
    )
    assert -6.0 < rare <= 0.0
    assert common == pytest.approx(-10.0, abs=1.0)


def test_an_outlier_does_not_bend_the_bias() -> None:
    rng = np.random.default_rng(2)
    predicted = rng.uniform(0.0, 100.0, 300)
    ages = predicted.copy()
    ages[0] += 100.0
    assert np.abs(fit_bias(predicted, ages, BIAS_MODELS[1])).max() < 1.0


def test_gate_gives_more_weight_to_the_expert_that_is_better_at_an_age() -> None:
    rng = np.random.default_rng(3)
    ages = rng.uniform(0.0, 100.0, 1500)
    young, old = np.where(ages < 50.0, 1.0, 12.0), np.where(ages < 50.0, 12.0, 1.0)
    corrected = ages[:, None] + rng.normal(size=(1500, 2)) * np.stack([young, old], axis=1)
    logits = fit_gate(corrected, ages, GateModel("gated", 300.0)).gate_logit
    lead = logits[0] - logits[1]
    assert lead[15] > 1.0
    assert lead[85] < -1.0


def test_best_keeps_finite_weights_for_the_other_experts() -> None:
    faces = made_up(300)
    gate = fit_gate(faces.predictions_years, faces.age_years, BEST)
    weights = np.exp(gate.gate_logit[:, 50] - gate.gate_logit[:, 50].max())
    assert np.sort(weights)[-2] < 1e-9
    assert np.isfinite(gate.gate_logit).all()


def test_fused_beats_every_corrected_expert_on_new_faces() -> None:
    new = made_up(2000, seed=9)
    scores = scores_of_tables(new, calibration().tables)
    fused = mean_error(scores.fused_years, new.age_years)
    corrected = np.abs(scores.corrected_years - new.age_years[:, None]).mean(axis=0)
    raw = np.abs(new.predictions_years - new.age_years[:, None]).mean(axis=0)
    assert fused < corrected.min()
    assert (corrected < raw).all()


def test_cross_validated_error_agrees_with_new_faces() -> None:
    faces, new = made_up(FACES), made_up(4000, seed=9)
    held_out = scores_of_calibration(faces, calibration())
    fresh = scores_of_tables(new, calibration().tables)
    claimed = mean_error(held_out.fused_years, faces.age_years)
    assert claimed == pytest.approx(mean_error(fresh.fused_years, new.age_years), rel=0.12)


def test_same_faces_and_seed_give_the_same_tables() -> None:
    again = fit_fusion(made_up(FACES), form="tables").tables
    first = calibration().tables
    for name in NAMES:
        assert (again.experts[name].bias_years == first.experts[name].bias_years).all()
    assert isinstance(again.gate, PivotGate)
    assert isinstance(first.gate, PivotGate)
    assert (again.gate.logit == first.gate.logit).all()
    assert (again.gate.base_logit == first.gate.base_logit).all()
    assert again.provenance == first.provenance


@pytest.mark.parametrize("count", [30, 50, 200])
def test_few_faces_give_plausible_tables(count: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="agemoe"):
        tables = fit_fusion(made_up(count, seed=4)).tables
    assert ("recommended" in caplog.text) == (count < 200)
    new = made_up(2000, seed=9)
    scores = scores_of_tables(new, tables)
    averaged = mean_error(scores.corrected_years.mean(axis=1), new.age_years)
    assert mean_error(scores.fused_years, new.age_years) < averaged + 0.3


def test_too_few_faces_or_people_are_an_error() -> None:
    with pytest.raises(LabelsError, match="29 faces of 29 people are too few"):
        fit_fusion(made_up(29))
    with pytest.raises(LabelsError, match="60 faces of 2 people"):
        fit_fusion(made_up(60, per_person=30))


def test_a_useless_mixture_falls_back_to_the_best_expert(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("export.calibration.forms.choose_gate", lambda _: GateModel("equal"))
    rng = np.random.default_rng(5)
    ages = rng.uniform(5.0, 80.0, 120)
    years = np.stack([ages + rng.normal(0, 0.5, 120), rng.uniform(20, 60, 120)], axis=1)
    faces = replace(made_up(120), age_years=ages, names=("good", "noise"), predictions_years=years)
    found = fit_fusion(faces, form="tables")
    assert found.tables.provenance["fell_back"]
    assert "fall back" in caplog.text
    assert found.tables.provenance["gate"] == "best"
    fused = found.tables.fuse(faces.names, years)
    assert fused.weights[:, 0].min() > 0.999


def test_a_single_expert_can_be_calibrated() -> None:
    faces = made_up(80)
    alone = replace(faces, names=("late",), predictions_years=faces.predictions_years[:, 1:2])
    tables = fit_fusion(alone).tables
    assert tables.fuse(("late",), alone.predictions_years).weights.min() == 1.0
