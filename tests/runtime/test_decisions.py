"""The whole table of decisions, and what a policy may hold."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from typing import Any

import pytest

from runtime import (
    AgeEstimate,
    AgeMoEError,
    Binding,
    DeadlineError,
    Decision,
    ExpertAge,
    ImageError,
    LivenessError,
    ManyFacesError,
    Policy,
    PredictionError,
    QualityError,
    ResidualQuantiles,
    combine,
)
from runtime.policy_terms import Evidence, Rate
from runtime.quality import FaceQuality, QualityLimits

SHA, OTHER = "ab" * 32, "cd" * 32
BINDING = Binding({"a": SHA, "b": SHA}, OTHER, "centerface")
RESIDUALS = ResidualQuantiles((0.025, 0.05, 0.5, 0.95, 0.975), (-7.0, -5.0, 0.0, 5.0, 7.0))
BOTH = {"a": ExpertAge(30.0, 30.0, 0.5), "b": ExpertAge(30.0, 30.0, 0.5)}
ONE = {"a": ExpertAge(30.0, 30.0, 1.0)}
EVIDENCE = Evidence(
    "new.csv",
    18.0,
    25.0,
    True,
    0.009,
    "all",
    (Rate("all", 400, 0, 0.0, 0.009),),
    (Rate("all", 9, 3, 0.1, 0.7),),
)


LIMITS = QualityLimits(min_sharpness=20.0)


def quality_of(sharpness: float) -> FaceQuality:
    return FaceQuality(200.0, 80.0, sharpness, 120.0, 50.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def estimate(age: float = 30.0, **changes: Any) -> AgeEstimate:
    return replace(AgeEstimate(age, BOTH, residuals=RESIDUALS), **changes)


def codes(decision: Decision) -> list[str]:
    return [reason.code for reason in decision.reasons]


@pytest.mark.parametrize(
    ("age", "floor", "outcome", "code"),
    [
        (25.0, None, "pass", "challenge_met"),
        (math.nextafter(25.0, 0.0), None, "refer", "below_challenge"),
        (18.0, None, "refer", "below_challenge"),
        (0.0, None, "refer", "below_challenge"),
        (100.0, None, "pass", "challenge_met"),
        (12.0, 12.0, "refer", "below_challenge"),
        (math.nextafter(12.0, 0.0), 12.0, "fail", "below_floor"),
        (25.0, 12.0, "pass", "challenge_met"),
    ],
)
def test_the_age_decides(age: float, floor: float | None, outcome: str, code: str) -> None:
    decision = Policy(floor=floor).decide(estimate(age))
    assert (decision.outcome, codes(decision)) == (outcome, [code])


@pytest.mark.parametrize("age", [5.0, 20.0, 60.0])
@pytest.mark.parametrize("floor", [None, 10.0])
def test_every_combination_of_doubts_against_a_brute_force_twin(
    age: float, floor: float | None
) -> None:
    switches = itertools.product([False, True], repeat=7)
    for missing, noted, bare, poor, allow_one, allow_noted, allow_bare in switches:
        experts = ONE if missing else BOTH
        judged = AgeEstimate(
            age,
            experts,
            {"b": "late"} if missing else {},
            residuals=None if bare else RESIDUALS,
            notes=("average landmarks",) if noted else (),
            quality=quality_of(10.0 if poor else 30.0),
        )
        policy = Policy(
            floor=floor,
            min_experts=1 if allow_one else None,
            noted=allow_noted,
            uncalibrated=allow_bare,
            quality=LIMITS,
        )
        wanted = []
        if missing and not allow_one:
            wanted.append("missing_experts")
        if bare and not allow_bare:
            wanted.append("uncalibrated")
        if noted and not allow_noted:
            wanted.append("noted")
        if poor:
            wanted.append("quality")
        outcome = "pass" if age == 60.0 else "fail" if floor and age == 5.0 else "refer"
        decision = policy.decide(judged)
        assert codes(decision)[:-1] == wanted
        assert decision.outcome == ("refer" if wanted else outcome)
        assert (decision.probability is None) == (decision.interval is None) == bare


def test_a_wide_interval_refers() -> None:
    wide = estimate(40.0)  # 35 to 45
    assert Policy(max_width=10.0).decide(wide).outcome == "pass"
    decision = Policy(max_width=9.9).decide(wide)
    assert (decision.outcome, codes(decision)[0]) == ("refer", "wide_interval")
    bare = Policy(max_width=90.0, uncalibrated=True).decide(replace(wide, residuals=None))
    assert (bare.outcome, codes(bare)[0]) == ("refer", "uncalibrated")


@pytest.mark.parametrize("age", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("floor", [None, 18.0])
def test_no_number_never_passes_or_fails(age: float, floor: float | None) -> None:
    decision = Policy(floor=floor, uncalibrated=True).decide(AgeEstimate(age, BOTH))
    assert (decision.outcome, codes(decision)) == ("refer", ["no_estimate"])
    assert decision.age_years is None
    json.dumps(decision.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    "error",
    [ImageError("no picture"), PredictionError({"a": "failed"}), DeadlineError({"a": "late"})],
)
def test_an_error_refers_with_its_message(error: AgeMoEError) -> None:
    decision = Policy(floor=18.0).decide(error)
    assert (decision.outcome, codes(decision)) == ("refer", ["no_estimate"])
    assert decision.reasons[0].sentence == str(error)
    assert (decision.age_years, decision.probability, decision.interval) == (None, None, None)


def test_a_refusal_for_quality_keeps_its_reasons() -> None:
    decision = Policy().decide(QualityError(("too dark", "too small")))
    assert [(r.code, r.sentence) for r in decision.reasons] == [
        ("quality", "too dark"),
        ("quality", "too small"),
    ]


def test_a_quality_that_was_not_measured_refers() -> None:
    decision = Policy(quality=LIMITS).decide(estimate(60.0))
    assert (decision.outcome, codes(decision)[0]) == ("refer", "quality_unknown")


@pytest.mark.parametrize("changes", [{"experts": ONE}, {"experts": {**BOTH, "c": BOTH["a"]}}])
def test_an_estimate_of_other_experts_refers(changes: dict[str, Any]) -> None:
    policy = Policy(binding=BINDING, min_experts=1)
    assert policy.decide(estimate(60.0)).outcome == "pass"
    decision = policy.decide(estimate(60.0, **changes))
    assert (decision.outcome, codes(decision)[0]) == ("refer", "other_experts")
    known = policy.decide(estimate(60.0, experts=ONE, missing={"b": "late"}))
    assert known.outcome == "pass"


def test_a_decision_holds_what_it_was_made_of() -> None:
    policy = Policy()
    decision = policy.decide(estimate(21.0))
    assert decision.policy == policy.id
    assert (decision.threshold, decision.challenge, decision.age_years) == (18.0, 25.0, 21.0)
    assert decision.interval == (16.0, 26.0)
    assert decision.probability == pytest.approx(0.5 + 0.45 * 3.0 / 5.0)
    assert decision.probability_bounds == (decision.probability, decision.probability)
    far = policy.decide(estimate(60.0))
    assert far.probability_bounds is not None
    assert far.probability_bounds == pytest.approx((0.975, 1.0))


def test_a_decision_is_plain_json_and_one_line() -> None:
    decision = Policy().decide(estimate(21.04, notes=("one\ntwo",)))
    values = json.loads(json.dumps(decision.to_dict(), allow_nan=False))
    assert values["outcome"] == "refer"
    assert [reason["code"] for reason in values["reasons"]] == ["noted", "below_challenge"]
    assert values["interval"] == [pytest.approx(16.04), pytest.approx(26.04)]
    assert str(decision) == (
        "refer: The estimate has notes: one two. 21.0 years are below the challenge age of 25. "
        f"(policy {Policy().id})"
    )


def test_the_sentence_does_not_contradict_the_outcome() -> None:
    sentence = Policy().decide(estimate(24.99)).reasons[0].sentence
    assert sentence == "24.99 years are below the challenge age of 25."


@pytest.mark.parametrize(
    "values",
    [
        {"threshold": math.nan},
        {"threshold": 0.0},
        {"threshold": 121.0, "challenge": 121.0},
        {"challenge": 17.9},
        {"challenge": math.nan},
        {"challenge": 121.0},
        {"floor": 18.5},
        {"floor": -1.0},
        {"floor": math.nan},
        {"max_false_positive": 0.01},
        {"confidence": 0.95},
        {"max_false_positive": 0.0, "confidence": 0.95},
        {"max_false_positive": 0.01, "confidence": 1.0},
        {"max_width": 0.0},
        {"max_width": math.nan},
        {"max_width": math.inf},
        {"min_experts": 0},
        {"min_experts": 3, "binding": BINDING},
        {"evidence": EVIDENCE},
        {"evidence": EVIDENCE, "max_false_positive": 0.008, "confidence": 0.95},
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="A policy cannot be used"):
        Policy(**values)


def test_the_id_is_that_of_the_content() -> None:
    whole = Policy(threshold=18, challenge=25)
    assert whole.id == Policy().id
    assert len(whole.id) == 16
    others = [
        Policy(threshold=17.0),
        Policy(challenge=25.5),
        Policy(floor=10.0),
        Policy(max_false_positive=0.01, confidence=0.95),
        Policy(min_experts=1),
        Policy(max_width=20.0),
        Policy(uncalibrated=True),
        Policy(noted=True),
        Policy(quality=LIMITS),
        Policy(quality=QualityLimits(min_sharpness=21.0)),
        Policy(binding=BINDING),
        Policy(max_false_positive=0.01, confidence=0.95, evidence=EVIDENCE),
    ]
    assert len({policy.id for policy in (whole, *others)}) == len(others) + 1


def test_several_pictures_decide_as_the_estimate_that_they_give() -> None:
    one = estimate(30.0)
    alone, person = Policy().decide(one), Policy().decide(combine([one]))
    assert person == alone
    four = combine([estimate(age) for age in (30.0, 31.0, 32.0, 33.0)], 0.25)
    decision = Policy().decide(four)
    assert decision.outcome == "pass"
    assert decision.interval == (four.low_years, four.high_years)
    assert decision.probability == four.probability_at_least(18.0)


def test_every_picture_that_counts_has_to_meet_the_limits_on_quality() -> None:
    def judged(age: float, sharpness: float | None) -> AgeEstimate:
        quality = None if sharpness is None else quality_of(sharpness)
        return estimate(age, quality=quality)

    policy = Policy(quality=LIMITS, noted=True)
    good = combine([judged(30.0, 25.0), judged(31.0, 25.0), ImageError("broken")])
    assert policy.decide(good).outcome == "pass"
    poor = combine([judged(30.0, 25.0), judged(31.0, 9.0), judged(31.0, 9.0)])
    assert codes(policy.decide(poor)) == ["quality", "challenge_met"]  # one reason, once
    left_out = combine([judged(30.0, 25.0), judged(31.0, 25.0), judged(90.0, 9.0)])
    assert policy.decide(left_out).outcome == "pass"
    unknown = combine([judged(30.0, 25.0), judged(31.0, None)])
    assert codes(policy.decide(unknown)) == ["quality_unknown", "challenge_met"]


def test_pictures_that_disagree_refer_whatever_the_age() -> None:
    decision = Policy(noted=True).decide(combine([estimate(30.0), estimate(90.0)], 0.0))
    assert (decision.outcome, codes(decision)) == ("refer", ["disagreement", "challenge_met"])


@pytest.mark.parametrize(
    ("error", "code"),
    [(LivenessError("a print"), "not_live"), (ManyFacesError("2 faces"), "several_faces")],
)
def test_an_attack_or_two_people_in_one_picture_refer_whatever_the_others_show(
    error: AgeMoEError, code: str
) -> None:
    decision = Policy(noted=True).decide(combine([estimate(40.0), error, error]))
    assert (decision.outcome, codes(decision)) == ("refer", [code, "challenge_met"])
    assert decision.reasons[0].sentence == f"Pictures 2, 3: {error}"


def test_pictures_whose_intervals_do_not_meet_refer() -> None:
    wide = ResidualQuantiles((0.05, 0.5, 0.95), (-14.0, 0.0, 18.0))
    adult = estimate(31.0, residuals=wide)
    for age, outcome in ((7.0, "refer"), (18.0, "pass")):
        child = estimate(age, residuals=ResidualQuantiles((0.05, 0.5, 0.95), (-2.0, 0.0, 6.0)))
        person = combine([child, adult, adult])
        assert len(person.used) == 3
        decision = Policy(challenge=25.0).decide(person)
        assert decision.outcome == outcome
        assert ("disagreement" in codes(decision)) == (outcome == "refer")
