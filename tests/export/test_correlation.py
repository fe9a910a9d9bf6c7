"""Correlation of the errors on several pictures of one person, against simulations."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from export.calibrate import main as calibrate
from export.calibration.correlation import correlation_of, correlation_text, standardized_errors
from export.calibration.labeled_predictions import LabeledPredictions
from export.calibration.scores import Scores, scores_of_tables
from export.evaluate import main as evaluate
from runtime import AgeEstimate, ExpertAge, combine
from runtime.fusion import FusionTables, Spread
from runtime.fusion_file import read_fusion, write_fusion
from runtime.pooling import Correlation
from tests.export.calibration_examples import made_up, write_csv
from tests.runtime.fusion_tables import Row, pivot_tables

LEVELS = (0.025, 0.05, 0.5, 0.95, 0.975)
NORMAL = np.array([-1.95996, -1.64485, 0.0, 1.64485, 1.95996])


def tables(correlation: Correlation | None = None) -> FusionTables:
    """One expert without bias; errors of 4 to 8 years, by age, about a median of 1."""
    sigma = np.linspace(4.0, 8.0, 101)
    spread = Spread(LEVELS, {frozenset({"a"}): 1.0 + sigma[:, None] * NORMAL})
    return replace(pivot_tables({"a": Row()}, spread=spread), correlation=correlation)


def simulated(
    rho: float, people: int = 200, pictures: int = 6, *, offset: float = 0.0, seed: int = 0
) -> Scores:
    """Pictures of people who are 30 to 40, a few years apart."""
    rng = np.random.default_rng(seed)
    shape = people, pictures
    fused = 35.0 + rng.uniform(-5, 5, shape)
    shared, own = rng.normal(size=(people, 1)), rng.normal(size=shape)
    z = math.sqrt(rho) * shared + math.sqrt(1 - rho) * own + offset
    sigma = np.interp(fused, np.arange(101.0), np.linspace(4.0, 8.0, 101))
    ages = fused + 1.0 + sigma * z
    names = np.char.add("p", np.repeat(np.arange(people), pictures).astype(np.str_))
    faces = LabeledPredictions(ages.ravel(), ("a",), fused.reshape(-1, 1), names)
    return scores_of_tables(faces, tables())


@pytest.fixture
def any_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pictures of a person are pairs, as the simulation chooses no ages."""
    monkeypatch.setattr("export.calibration.correlation.YEARS_APART", 1000.0)


@pytest.mark.usefixtures("any_age")
@pytest.mark.parametrize("rho", [0.0, 0.3, 0.8])
def test_the_correlation_of_a_simulation_is_found(rho: float) -> None:
    found = correlation_of(simulated(rho), "made up", 400, 0)
    assert found is not None
    assert found.value == pytest.approx(rho, abs=0.06)
    assert found.low <= max(rho, 0.001) <= found.high
    assert (found.people, found.pairs, found.data) == (200, 200 * 15, "made up")


@pytest.mark.usefixtures("any_age")
def test_a_common_error_counts_as_correlation() -> None:
    found = correlation_of(simulated(0.2, offset=1.0), "made up", 100, 0)
    assert found is not None
    assert found.value == pytest.approx((0.2 + 1.0) / (1.0 + 1.0), abs=0.05)


@pytest.mark.usefixtures("any_age")
def test_its_interval_holds_the_truth_as_often_as_it_claims() -> None:
    hits, rho, trials = 0, 0.4, 120
    for seed in range(trials):
        found = correlation_of(simulated(rho, 60, 4, seed=seed), "made up", 200, seed)
        assert found is not None
        hits += found.low <= rho <= found.high
    assert 0.87 < hits / trials <= 1.0


@pytest.mark.usefixtures("any_age")
@pytest.mark.parametrize("rho", [0.1, 0.6])
def test_intervals_of_new_people_cover_by_the_fitted_correlation(rho: float) -> None:
    found = correlation_of(simulated(rho), "made up", 200, 0)
    assert found is not None
    new = simulated(rho, 500, 4, seed=1)
    residuals = tables().residuals_at
    widths, hits = [], 0
    for rows in np.arange(len(new.faces)).reshape(-1, 4):
        frames = [
            AgeEstimate(
                age, {"a": ExpertAge(age, age, 1.0)}, residuals=residuals(frozenset("a"), age)
            )
            for age in map(float, new.fused_years[rows])
        ]
        # The pictures' own true ages differ: the mean error is that of the mean age.
        low, high = combine(frames, found.high).interval(0.9)
        hits += low <= new.faces.age_years[rows].mean() <= high
        widths.append(high - low)
    single = np.mean([np.diff(e.interval(0.9)) for e in frames])
    assert hits / 500 >= 0.89
    assert np.mean(widths) < single


def test_pairs_against_a_brute_force_twin() -> None:
    scores = simulated(0.5, 40, 5)
    z = standardized_errors(scores)
    assert z is not None
    ages, people = scores.faces.age_years, scores.faces.people
    upper = lower = 0.0
    pairs = counted = 0
    for person in set(people.tolist()):
        rows = [i for i in range(len(ages)) if people[i] == person]
        near = [(i, j) for i, j in combinations(rows, 2) if abs(ages[i] - ages[j]) <= 2.0]
        if near:
            own = {i for pair in near for i in pair}
            upper += len(own) * sum(z[i] * z[j] for i, j in near) / len(near)
            lower += sum(z[i] ** 2 for i in own)
            pairs, counted = pairs + len(near), counted + 1
    found = correlation_of(scores, "made up", 50, 0)
    assert found is not None
    assert (found.pairs, found.people) == (pairs, counted)
    assert found.value == pytest.approx(upper / lower, abs=1e-4)


def test_errors_are_one_at_the_end_of_the_interval() -> None:
    faces = LabeledPredictions(
        np.array([31.0, 31.0 + 4.0 * 1.64485]), ("a",), np.array([[30.0]] * 2)
    )
    scores = scores_of_tables(faces, tables())
    z = standardized_errors(scores)
    assert z is not None
    assert z[0] == pytest.approx(0.0)
    assert z[1] == pytest.approx(4.0 / np.interp(30.0, [0, 100], [4.0, 8.0]))
    assert standardized_errors(replace(scores, quantiles=None)) is None


def test_too_few_people_or_no_subjects_give_none() -> None:
    assert correlation_of(simulated(0.5, 19, 6), "made up", 100, 0) is None
    scores = simulated(0.5)
    alone = replace(scores, faces=replace(scores.faces, subjects=None))
    assert correlation_of(alone, "made up", 100, 0) is None
    assert correlation_of(replace(scores, quantiles=None), "made up", 100, 0) is None


def test_evaluate_writes_it_and_changes_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    csv = write_csv(tmp_path / "people.csv", simulated(0.5).faces)
    write_fusion(tmp_path / "a.json", tables())
    command = ["--predictions", str(csv), "--fusion", str(tmp_path / "a.json")]
    more = ["--bootstrap", "100", "--correlation", str(tmp_path / "b.json")]
    assert evaluate([*command, *more, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    found = read_fusion(tmp_path / "b.json").correlation
    assert found is not None
    assert report["correlation"]["value"] == found.value
    assert found.data == "people.csv"
    before, after = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert after.pop("correlation")["high"] == found.high
    assert after == before
    assert evaluate([*command, "--bootstrap", "100"]) == 0
    assert f"correlate by {found.value:.2f}" in capsys.readouterr().out


def test_the_name_of_the_data_is_text_in_a_report() -> None:
    found = Correlation(0.5, 0.4, 0.6, 30, 90, 2.0, "<b>[a](b)`\u202e.csv")
    assert r"in \<b\>\[a\](b)\`\\u202e.csv, at most" in correlation_text(found)


def test_evaluate_refuses_to_write_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv = write_csv(tmp_path / "people.csv", replace(simulated(0.5).faces, subjects=None))
    write_fusion(tmp_path / "a.json", tables())
    command = ["--predictions", str(csv), "--fusion", str(tmp_path / "a.json")]
    assert evaluate([*command, "--correlation", str(tmp_path / "b.json")]) == 2
    assert "20 people with two pictures" in capsys.readouterr().err
    assert not (tmp_path / "b.json").exists()


def test_calibrate_fits_it_where_people_have_several_pictures(tmp_path: Path) -> None:
    faces = made_up(300, per_person=3)
    ages = np.repeat(faces.age_years[::3], 3)  # a person's pictures are of one age
    shifted = faces.predictions_years + (ages - faces.age_years)[:, None]
    csv = write_csv(tmp_path / "p.csv", replace(faces, age_years=ages, predictions_years=shifted))
    write_fusion(tmp_path / "kept.json", replace(identity(faces), correlation=None))
    command = ["--predictions", str(csv), "--keep-fusion", str(tmp_path / "kept.json")]
    assert calibrate([*command, "--output", str(tmp_path), "--bootstrap", "100"]) == 0
    found = read_fusion(tmp_path / "fusion.json").correlation
    assert found is not None
    assert (found.people, found.pairs) == (100, 300)
    assert "Several pictures of a person" in (tmp_path / "report.md").read_text(encoding="utf-8")
    # Other intervals on faces that tell no correlation: the earlier one is gone.
    csv = write_csv(tmp_path / "q.csv", replace(faces, subjects=None))
    command = ["--predictions", str(csv), "--keep-fusion", str(tmp_path / "fusion.json")]
    assert calibrate([*command, "--output", str(tmp_path / "x"), "--bootstrap", "100"]) == 0
    assert read_fusion(tmp_path / "x/fusion.json").correlation is None


def identity(faces: LabeledPredictions) -> FusionTables:
    return FusionTables.identity(faces.names)
