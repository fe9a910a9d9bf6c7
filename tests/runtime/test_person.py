"""Several pictures of one person: what is combined, what is left out, how wide the interval is."""

from __future__ import annotations

import itertools
import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from runtime import (
    AgeEstimate,
    ExpertAge,
    ImageError,
    NoUsablePictureError,
    PersonEstimate,
    Policy,
    PredictionError,
    ResidualQuantiles,
    combine,
)
from runtime.pooling import shrinkage

LEVELS = (0.025, 0.05, 0.25, 0.5, 0.75, 0.95, 0.975)
RESIDUALS = ResidualQuantiles(LEVELS, (-9.0, -7.0, -2.0, 1.0, 3.0, 9.0, 12.0))
SCALE = 16.0 / (2 * 1.645)
"""Of one picture: half its 90 % interval, as a standard deviation."""


def estimate(age: float, **changes: Any) -> AgeEstimate:
    experts = {"a": ExpertAge(age + 1, age + 2, 0.25), "b": ExpertAge(age, age - 1, 0.75, 0.9)}
    return replace(AgeEstimate(age, experts, residuals=RESIDUALS), **changes)


def people(*ages: float, correlation: float | None = None) -> PersonEstimate:
    return combine([estimate(age) for age in ages], correlation)


def numbers(person: PersonEstimate) -> tuple[Any, ...]:
    return (
        person.age_years,
        person.residuals,
        person.effective_frames,
        person.stability_years,
        person.notes,
        person.disagreement,
        dict(person.estimate.experts),
    )


@pytest.mark.parametrize("correlation", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("age", [0.0, 0.1, 17.123456789012345, 100.0])
def test_one_picture_is_its_estimate_bit_for_bit(age: float, correlation: float | None) -> None:
    one = estimate(age, notes=("b", "a"), missing={"c": "late"})
    person = combine([one], correlation)
    assert person.estimate == one
    assert (person.age_years, person.low_years, person.high_years) == (
        one.age_years,
        one.low_years,
        one.high_years,
    )
    assert person.interval(0.5) == one.interval(0.5)
    assert person.probability_at_least(18.0) == one.probability_at_least(18.0)
    assert person.probability_bounds(18.0) == one.probability_bounds(18.0)
    assert (person.effective_frames, person.stability_years) == (1.0, None)
    assert person.frames[0].weight == 1.0


@pytest.mark.parametrize("correlation", [None, 0.4])
@pytest.mark.parametrize("ages", [(20.1, 24.7, 19.3, 61.9), (5.0, 40.0, 80.0), (1 / 3, 0.7, 1.1)])
def test_the_order_of_pictures_does_not_matter(
    ages: tuple[float, ...], correlation: float | None
) -> None:
    expected = people(*ages, correlation=correlation)
    by_age = dict(zip(ages, expected.frames, strict=True))
    for order in itertools.permutations(ages):
        person = people(*order, correlation=correlation)
        assert numbers(person) == numbers(expected)
        assert person.frames == tuple(by_age[age] for age in order)


@pytest.mark.parametrize("count", [2, 3, 7, 10])
@pytest.mark.parametrize("correlation", [None, 1.0])
def test_copies_of_one_picture_narrow_nothing(count: int, correlation: float | None) -> None:
    one = estimate(23.456789)
    person = combine([one] * count, correlation)
    assert person.age_years == one.age_years
    assert person.residuals == one.residuals
    assert (person.low_years, person.high_years) == (one.low_years, one.high_years)
    assert (person.effective_frames, person.stability_years) == (count, 0.0)


def test_the_interval_shrinks_toward_its_median_by_the_variance_of_a_mean() -> None:
    for count, correlation in itertools.product((1, 2, 4, 9), (0.0, 0.25, 0.8)):
        person = people(*[30.0] * count, correlation=correlation)
        covariance = np.full((count, count), correlation) + (1 - correlation) * np.eye(count)
        factor = math.sqrt(covariance.sum()) / count  # of the mean, by definition
        wanted = [1.0 + factor * (years - 1.0) for years in RESIDUALS.years]
        assert person.residuals is not None
        assert person.residuals.years == pytest.approx(wanted, abs=1e-12)
        assert shrinkage(correlation, count) == pytest.approx(factor)
    assert people(30.0, 30.0, correlation=None).residuals == RESIDUALS


def test_quantiles_are_the_weighted_mean_of_the_pictures_own() -> None:
    wide = replace(RESIDUALS, years=tuple(2 * y for y in RESIDUALS.years))
    person = combine([estimate(30.0), estimate(32.0, residuals=wide)])
    assert person.age_years == 31.0
    assert person.residuals is not None
    assert person.residuals.years == pytest.approx([1.5 * y for y in RESIDUALS.years])


def test_weights_fall_from_two_scales_to_three_around_the_median() -> None:
    ages = (23.0 - 1.9 * SCALE, 22.0, 23.0, 25.0, 23.0 + 2.25 * SCALE)
    person = people(*ages)
    raw = [1.0, 1.0, 1.0, 1.0, 0.75]
    weights = [w / sum(raw) for w in raw]
    assert [f.weight for f in person.frames] == pytest.approx(weights)
    assert person.age_years == pytest.approx(float(np.dot(weights, ages)))
    assert person.effective_frames == pytest.approx(sum(raw) ** 2 / sum(w * w for w in raw))
    assert person.stability_years == pytest.approx(1.4826 * 2.0)
    assert (person.outliers, person.disagreement) == ({}, None)


def test_an_outlier_of_sixty_years_among_eight_is_named() -> None:
    ages = (20.0, 21.0, 22.0, 80.0, 19.0, 20.5, 21.5, 20.0)
    person, without = people(*ages), people(*(a for a in ages if a != 80.0))
    assert list(person.outliers) == [3]
    assert "80.0 years are 59.2 from the median" in person.outliers[3]
    assert "another person, or a failure" in person.outliers[3]
    assert person.frames[3].weight == 0.0
    assert person.age_years == pytest.approx(without.age_years)
    assert person.effective_frames == 7.0
    assert person.notes == ("1 of 8 pictures left out: outliers, or without an interval",)
    assert person.disagreement is None
    assert len(person.used) == 7


def test_a_notes_policy_refers_for_an_outlier_unless_notes_may_decide() -> None:
    person = people(40.0, 41.0, 39.0, 80.0)
    assert [r.code for r in Policy().decide(person).reasons] == ["noted", "challenge_met"]
    assert Policy(noted=True).decide(person).outcome == "pass"


@pytest.mark.parametrize(
    "ages", [(20.0, 60.0), (20.0, 21.0, 60.0, 61.0), (5.0, 40.0, 80.0), (1, 2, 20, 40, 60, 80)]
)
@pytest.mark.parametrize("calibrated", [True, False])
def test_without_a_majority_nothing_is_called_an_outlier(
    ages: tuple[float, ...], calibrated: bool
) -> None:
    residuals = RESIDUALS if calibrated else None
    person = combine([estimate(age, residuals=residuals) for age in ages], 0.2)
    assert person.disagreement is not None
    assert f"between {min(ages):.1f} and {max(ages):.1f} years" in person.disagreement
    assert person.outliers == {}
    assert {f.weight for f in person.frames} == {1 / len(ages)}
    assert person.stability_years is not None
    assert person.stability_years > 10.0
    assert person.correlation is None  # nothing is narrowed
    decision = Policy(noted=True, uncalibrated=True).decide(person)
    assert (decision.outcome, decision.reasons[0].code) == ("refer", "disagreement")


def test_the_interval_of_a_disagreement_spans_those_of_all_pictures() -> None:
    person = people(20.0, 60.0, correlation=0.1)
    assert person.interval(0.9) == (20.0 - 7.0, 60.0 + 9.0)
    assert person.residuals is not None
    assert list(person.residuals.years) == sorted(person.residuals.years)


def test_outliers_are_always_a_minority() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(3000):
        ages = rng.normal(40, rng.choice([1, 10, 30]), rng.integers(1, 9)).clip(0, 100)
        person = people(*map(float, ages))
        assert len(person.outliers) < len(ages) / 2
        assert not (person.outliers and person.disagreement)
        seen.add((bool(person.outliers), bool(person.disagreement)))
        assert min(ages) - 1e-9 <= person.age_years <= max(ages) + 1e-9
    assert seen == {(False, False), (True, False), (False, True)}


def test_errors_stay_in_their_place() -> None:
    error = ImageError("broken")
    person = combine([error, estimate(30.0), error, estimate(32.0)])
    assert [f.result for f in person.frames] == [error, estimate(30.0), error, estimate(32.0)]
    assert [f.weight for f in person.frames] == [0.0, 0.5, 0.0, 0.5]
    assert [f.left_out for f in person.frames] == [None] * 4
    assert (person.age_years, person.notes) == (31.0, ())
    assert person.to_dict()["frames"][0] == {"weight": 0.0, "left_out": None, "error": "broken"}


@pytest.mark.parametrize("results", [[], [ImageError("broken"), estimate(math.nan)]])
def test_without_a_usable_picture_it_is_an_error(results: list[Any]) -> None:
    with pytest.raises(NoUsablePictureError) as caught:
        combine(results)
    assert isinstance(caught.value, PredictionError)
    assert str(caught.value).startswith(f"None of {len(results)} pictures of the person")
    assert not results or "- picture 1: broken\n- picture 2: the estimated age is nan" in str(
        caught.value
    )
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - own error
    assert (str(again), again.missing) == (str(caught.value), caught.value.missing)


@pytest.mark.parametrize("age", [math.nan, math.inf, -math.inf])
def test_an_age_that_is_no_number_has_no_weight(age: float) -> None:
    person = combine([estimate(age), estimate(30.0)])
    assert person.age_years == 30.0
    assert person.outliers == {0: f"the estimated age is {age}, no number"}


@pytest.mark.parametrize("correlation", [-0.1, 1.1, math.nan])
def test_a_correlation_out_of_range_is_refused(correlation: float) -> None:
    with pytest.raises(ValueError, match=r"within 0\.\.1"):
        combine([estimate(30.0)], correlation)


def test_estimates_of_different_tables_are_refused() -> None:
    other = ResidualQuantiles((0.05, 0.5, 0.95), (-1.0, 0.0, 1.0))
    for change in ({"residuals": other}, {"age_range": (0.0, 90.0)}):
        with pytest.raises(ValueError, match="different fusion tables"):
            combine([estimate(30.0), estimate(30.0, **change)])


def test_without_calibration_there_is_an_age_and_no_interval() -> None:
    person = combine([estimate(age, residuals=None) for age in (20.0, 22.0, 24.0, 70.0)], 0.5)
    assert person.low_years is None
    assert person.residuals is None
    assert 20.0 < person.age_years < 24.0
    assert list(person.outliers) == [3]
    assert Policy(noted=True).decide(person).reasons[0].code == "uncalibrated"


def test_a_picture_without_interval_does_not_count_beside_calibrated_ones() -> None:
    bare = estimate(50.0, residuals=None)
    person = combine([estimate(30.0), bare, estimate(31.0)])
    assert person.age_years == 30.5
    assert person.outliers == {1: "there is no interval for the experts that answered (a, b)"}


def test_experts_that_are_missing_for_a_picture_are_missing() -> None:
    alone = replace(
        estimate(31.0), experts={"a": ExpertAge(31.0, 31.0, 1.0)}, missing={"b": "late"}
    )
    person = combine([estimate(30.0), alone, estimate(30.0)])
    assert set(person.estimate.experts) == {"a"}
    assert person.estimate.missing == {"b": "in 1 of 3 pictures: late"}
    codes = [reason.code for reason in Policy().decide(person).reasons]
    assert codes[0] == "missing_experts"
    both = combine([alone, alone])
    assert both.estimate.missing == {"b": "late"}


def test_experts_are_averaged_with_the_pictures_weights() -> None:
    person = people(30.0, 34.0)
    a, b = person.estimate.experts["a"], person.estimate.experts["b"]
    assert (a.age_years, a.corrected_years, a.weight, a.answer_mass) == (33.0, 34.0, 0.25, None)
    assert (b.age_years, b.corrected_years, b.weight, b.answer_mass) == (32.0, 31.0, 0.75, 0.9)
    probs = [(0.2, 0.8), (0.4, 0.6)]
    seen = [
        estimate(30.0, experts={"a": ExpertAge(30.0, 30.0, 1.0, gender_probs=p)}) for p in probs
    ]
    assert combine(seen).estimate.experts["a"].gender_probs == pytest.approx((0.3, 0.7))
    assert combine([seen[0], estimate(30.0)]).estimate.experts["a"].gender_probs is None


def test_clipped_ages_stay_within_the_range() -> None:
    for age in (0.0, 100.0):
        person = people(age, age, age, correlation=0.5)
        assert person.age_years == age
        low, high = person.interval(0.9)
        assert 0.0 <= low <= high <= 100.0


def test_notes_of_pictures_that_count_are_kept_once() -> None:
    noted = [estimate(age, notes=("average landmarks",)) for age in (30.0, 31.0)]
    assert combine(noted).notes == ("average landmarks",)
    far = estimate(90.0, notes=("far",))
    assert combine([*noted, far]).notes == (
        "average landmarks",
        "1 of 3 pictures left out: outliers, or without an interval",
    )


def test_to_dict_is_plain() -> None:
    values = people(30.0, 31.0, 90.0, correlation=0.5).to_dict()
    assert values["correlation"] == 0.5
    assert values["disagreement"] is None
    assert [f["age_years"] for f in values["frames"]] == [30.0, 31.0, 90.0]
    assert values["frames"][2]["left_out"].startswith("90.0 years are 59.0 from the median")
    assert {"age_years", "low_years", "experts", "notes", "stability_years"} <= set(values)


def coverage(correlation: float, used: float | None, count: int) -> float:
    """Share of 90 % intervals that hold the age, for errors with a known correlation."""
    rng = np.random.default_rng(count)
    trials, sigma = 1000, 4.0
    levels = (0.025, 0.05, 0.5, 0.95, 0.975)
    years = tuple(sigma * z for z in (-1.95996, -1.64485, 0.0, 1.64485, 1.95996))
    residuals = ResidualQuantiles(levels, years)
    shared = rng.normal(size=(trials, 1)) * math.sqrt(correlation)
    own = rng.normal(size=(trials, count)) * math.sqrt(1 - correlation)
    hits = 0
    for row in 50.0 + sigma * (shared + own):
        person = combine([estimate(float(a), residuals=residuals) for a in row], used)
        low, high = person.interval(0.9)
        hits += low <= 50.0 <= high
    return hits / trials


@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_intervals_cover_as_often_as_they_claim(correlation: float, count: int) -> None:
    """1,000 simulated people: the standard error is 1 %."""
    right = coverage(correlation, correlation, count)
    assert (0.88 if correlation else 0.87) < right < 0.93  # weights cost a little where it is 0
    assert coverage(correlation, None, count) >= right


def test_too_low_a_correlation_would_cover_too_little() -> None:
    assert coverage(0.5, 0.0, 8) < 0.7  # 1/√N, wrongly
