from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from export.calibration import plots
from export.calibration import report as report_module
from export.calibration.comparison import comparison
from export.calibration.markdown import markdown
from export.calibration.metrics import Bootstrap, error_figures, rate, reliability
from export.calibration.report import ReportOptions, report_of
from export.calibration.scores import Scores, scores_of_tables
from runtime.fusion import FusionTables, Spread
from tests.export.calibration_examples import NAMES, made_up
from tests.runtime.fusion_tables import Row, pivot_tables

GRID = np.arange(0.0, 101.0)


def flat_tables(bias_years: float = 0.0, *, spread: bool = True) -> FusionTables:
    """Equal weights, one bias for all, and an interval of ±10 years at 90 %."""
    everyone = frozenset(NAMES)
    quantiles = np.tile([-10.0, 0.0, 10.0], (len(GRID), 1))
    found = Spread((0.05, 0.5, 0.95), {everyone: quantiles}) if spread else None
    return pivot_tables({name: Row(bias_years) for name in NAMES}, spread=found)


def scores(count: int = 300, **options: bool) -> Scores:
    return scores_of_tables(made_up(count), flat_tables(**options))


def test_figures_of_known_errors() -> None:
    errors = np.array([[-6.0], [0.0], [2.0], [8.0]])
    bootstrap = Bootstrap(np.arange(4), 200, seed=0)
    found = error_figures(errors, np.ones(4, dtype=bool), bootstrap)
    assert found["mae"] == pytest.approx(4.0)
    assert found["median"] == pytest.approx(4.0)
    assert found["bias"] == pytest.approx(1.0)
    assert found["rmse"] == pytest.approx(np.sqrt(26.0))
    assert found["cs5"] == pytest.approx(0.5)
    low, high = found["mae_interval"][0]
    assert 0.0 <= low < 4.0 < high <= 8.0


def test_bootstrap_interval_has_the_width_theory_gives() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, (900, 1))
    bootstrap = Bootstrap(np.arange(900), 1000, seed=1)
    low, high = bootstrap.mean_intervals(values, np.ones(900, dtype=bool))[0]
    assert high - low == pytest.approx(2 * 1.96 * 2.0 / 30.0, rel=0.15)


def test_repeated_pictures_of_a_person_do_not_narrow_the_interval() -> None:
    values = np.repeat(np.random.default_rng(0).normal(0.0, 1.0, 100), 10)[:, None]
    rows = np.ones(1000, dtype=bool)
    widths = [
        float(np.ptp(Bootstrap(people, 500, seed=1).mean_intervals(values, rows)))
        for people in (np.arange(1000), np.repeat(np.arange(100), 10))
    ]
    assert widths[1] > 2.0 * widths[0]


def test_rates_have_wilson_intervals() -> None:
    assert rate(np.zeros(0, dtype=bool)) == {"rate": None, "interval": None, "faces": 0}
    found = rate(np.zeros(20, dtype=bool))
    assert found["rate"] == 0.0
    # Wilson's interval for 0 of 20: 0 to z² / (n + z²).
    assert found["interval"] == pytest.approx([0.0, 1.96**2 / (20 + 1.96**2)], rel=1e-4)


def test_reliability_bins_hold_observed_shares() -> None:
    probability = np.array([0.05, 0.05, 0.95, 1.0])
    bins = reliability(probability, np.array([False, True, True, True]))
    assert [b["claimed"] for b in bins] == pytest.approx([0.05, 0.975])
    assert [b["came_true"]["rate"] for b in bins] == [0.5, 1.0]  # type: ignore[index]


def test_gap_is_between_the_worst_and_best_part_of_sufficient_size() -> None:
    faces = {"a": (3.0, 30), "b": (7.5, 30), "c": (5.0, 30), "few": (9.0, 29)}
    parts = {name: {"mae": {"fused": mae}, "faces": n} for name, (mae, n) in faces.items()}
    assert report_module._gap(parts) == {"years": 4.5, "worst": "b", "best": "a"}
    assert report_module._gap({"a": parts["a"]}) is None


def test_report_has_the_documented_keys_and_correct_figures() -> None:
    scored = scores()
    report = report_of(scored, ReportOptions(resamples=100))
    faces = scored.faces
    errors = np.abs(scored.fused_years - faces.age_years)
    assert report["mae"]["fused"] == pytest.approx(errors.mean())
    first = np.abs(faces.predictions_years[:, 0] - faces.age_years).mean()
    assert report["mae"]["early"]["raw"] == pytest.approx(first)
    assert report["mae"]["early"]["corrected"] == pytest.approx(first)
    assert report["coverage"]["90"] == pytest.approx((errors <= 10.0).mean(), abs=0.02)
    left = faces.groups["side"] == "left"
    section = report["groups"]["side"]["left"]
    assert section["mae"]["fused"] == pytest.approx(errors[left].mean())
    assert set(section["coverage"]) == {"50", "80", "90"}
    assert sum(band["faces"] for band in report["age_bands"].values()) == 300
    assert set(report["without"]) == set(NAMES)


def test_policy_rates_are_shares_of_people_who_pass_or_are_challenged() -> None:
    scored = scores()
    options = ReportOptions((18.0,), (18.0, 25.0), resamples=100)
    at_18, at_25 = report_of(scored, options)["policy"]["18"]
    under = scored.faces.age_years < 18
    assert at_25["challenge_age"] == 25.0
    passing = (scored.fused_years[under] >= 25).mean()
    assert at_25["false_positive"]["rate"] == pytest.approx(passing)
    challenged = (scored.fused_years[~under] < 25).mean()
    assert at_25["false_negative"]["rate"] == pytest.approx(challenged)
    assert at_25["false_positive"]["rate"] <= at_18["false_positive"]["rate"]
    assert at_25["false_negative"]["rate"] >= at_18["false_negative"]["rate"]


def test_without_a_spread_no_interval_is_reported() -> None:
    report = report_of(scores(spread=False), ReportOptions(resamples=100))
    assert report["coverage"] == {}
    assert report["reliability"] == {"18": None}
    page = markdown(report, "Evaluation", [], [])
    assert "The tables have no intervals" in page
    for part in ("90 %", "overed", "probability_at_least"):
        assert part not in page


def test_rates_without_faces_are_reported_as_such() -> None:
    faces = made_up(100)
    old = replace(faces, age_years=faces.age_years.clip(40.0))
    report = report_of(scores_of_tables(old, flat_tables()), ReportOptions(resamples=100))
    page = markdown(report, "Evaluation", [], [])
    assert "No face is under 18, so false positives are unknown." in page
    assert "false positives, of" not in page


@pytest.mark.parametrize(("experts", "lines"), [(3, 3), (1, 2)])
def test_the_error_by_age_has_few_lines_and_a_band(experts: int, lines: int) -> None:
    faces = made_up(300)
    some = replace(
        faces, names=NAMES[:experts], predictions_years=faces.predictions_years[:, :experts]
    )
    report = report_of(scores_of_tables(some, flat_tables()), ReportOptions(resamples=100))
    (axes,) = plots._error_by_age(report).axes
    assert len(axes.get_lines()) == lines
    assert len(axes.collections) == 1
    legend = axes.get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == lines
    assert [label.get_text().count("\n") for label in axes.get_xticklabels()] == [1] * 7


def test_parts_of_few_faces_and_divisions_into_one_part_are_left_out() -> None:
    faces = made_up(40)
    groups = {"side": np.where(np.arange(40) < 3, "left", "right"), "city": np.full(40, "all")}
    some = replace(faces, groups=groups)
    report = report_of(scores_of_tables(some, flat_tables()), ReportOptions(resamples=100))
    page = markdown(report, "Evaluation", [], [])
    assert "| left | 3 (few) | – | – | – | – | – |" in page
    assert "By city there is nothing to compare: all are all." in page


def test_comparison_detects_the_better_tables() -> None:
    faces = made_up(400)
    centered = scores_of_tables(faces, flat_tables(2.0))
    shifted = scores_of_tables(faces, flat_tables(25.0))
    found = comparison(centered, shifted, ReportOptions(resamples=200))
    assert found["difference"] == pytest.approx(found["mae"] - found["other_mae"])
    assert found["difference_interval"][1] < 0.0
    assert set(found["parts"]) == {"labeled age", "estimated age", "side"}
    same = comparison(centered, centered, ReportOptions(resamples=200))
    assert same["difference_interval"] == [0.0, 0.0]
