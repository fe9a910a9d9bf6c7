"""Results as a person reads them: one line each, and as JSON with the service's keys."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from runtime import (
    AgeEstimate,
    AgeMoEError,
    Decision,
    Durations,
    ExpertAge,
    ExpertStats,
    FaceQuality,
    FrameResult,
    ImageError,
    PersonEstimate,
    PhotoFace,
    Reason,
    ResidualQuantiles,
    Stats,
)

CALIBRATED = AgeEstimate(
    24.26,
    {name: ExpertAge(24.0, 24.0, 0.25, gender_probs=(0.25, 0.75)) for name in "abcd"},
    residuals=ResidualQuantiles((0.05, 0.95), (-6.36, 6.74)),
)
BARE = AgeEstimate(24.26, {"a": ExpertAge(24.0, 24.0, 1.0)})
NOTED = replace(CALIBRATED, missing={"e": "late\nby far"}, notes=("replaced", "and again"))
QUALITY = FaceQuality(128.4, 55.2, 312.7, 121.4, 48.0, 0.0, 0.0, -3.4, None, 0.0, 0.987, False)
DECISION = Decision(
    "refer", (Reason("a", "One."), Reason("b", "Two.")), "12ab", 18.0, 25.0, interval=(1.0, 2.0)
)
NOWHERE = ImageError("There is no picture\n at\x1b[2J x.jpg.")
SPENT = Durations(3, 0.5, 0.125, 0.2, 0.2, 0.2, (1, 3))
STATS = Stats(
    1204, 3, 7, {"experts": SPENT}, {"a": ExpertStats(5, 0, 0, SPENT, SPENT, SPENT)}
)  # fmt: skip


def photo(result: AgeEstimate | AgeMoEError) -> PhotoFace:
    return PhotoFace((33.4, 40.0, 120.0, 150.0), result=result)


def person(disagreement: str | None = None) -> PersonEstimate:
    frames = (FrameResult(BARE, 1.0), FrameResult(BARE, 0.0, "far\noff"), FrameResult(NOWHERE))
    return PersonEstimate(CALIBRATED, frames, 1.0, 2.5, disagreement=disagreement)


@pytest.mark.parametrize(
    ("result", "line"),
    [
        (CALIBRATED, "24.3 years (17.9 to 31.0), 4 experts"),
        (BARE, "24.3 years (no interval), 1 expert"),
        (NOTED, "24.3 years (17.9 to 31.0), 4 of 5 experts, 2 notes"),
        (CALIBRATED.experts["a"], "24.0 years, corrected 24.0, weight 0.25"),
        (photo(BARE), "120×150 pixels at 33, 40: 24.3 years (no interval), 1 expert"),
        (
            photo(NOWHERE),
            r"120×150 pixels at 33, 40: ImageError: There is no picture\n at\x1b[2J x.jpg.",
        ),
        (person(), "24.3 years (17.9 to 31.0), 4 experts, 1 of 3 pictures"),
        (
            person("no majority"),
            "24.3 years (17.9 to 31.0), 4 experts, 1 of 3 pictures, which disagree",
        ),
        (
            person().frames[1],
            r"24.3 years (no interval), 1 expert (weight 0.00, left out: far\noff)",
        ),
        (DECISION, "refer: One. Two. (policy 12ab)"),
        (
            QUALITY,
            (
                "128 pixels, eyes 55 pixels apart, sharpness 313, luminance 121, contrast 48, "
                "yaw -3°, score 0.99, no face found"
            ),
        ),
        (
            STATS,
            "1,204 estimates (3 without all experts), 7 errors; experts: median 125 ms per batch",
        ),
        (Stats(0, 0, 1, {"experts": replace(SPENT, count=0)}, {}), "0 estimates, 1 error"),
        (SPENT, "3 times, median 125 ms"),
    ],
)
def test_a_result_is_one_line(result: object, line: str) -> None:
    assert str(result) == line
    assert repr(result) == f"<{type(result).__name__} {line}>"


def test_everything_is_plain_json() -> None:
    for result in (NOTED, photo(NOTED), photo(NOWHERE), person(), DECISION, QUALITY, STATS):
        values = result.to_dict()
        assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert STATS.to_dict()["experts"]["a"]["queue"]["at_most"] == [1, 3]
    assert photo(NOWHERE).to_dict()["error"] == str(NOWHERE)


def test_the_perceived_gender_is_given_on_request_only() -> None:
    for result in (CALIBRATED, photo(CALIBRATED), person()):
        assert "gender_probs" not in result.to_dict()["experts"]["a"]
        assert result.to_dict(gender=True)["experts"]["a"]["gender_probs"] == [0.25, 0.75]


def test_the_service_answers_with_the_same_keys() -> None:
    pytest.importorskip("pydantic")
    from runtime.serving import decision_schemas, schemas

    def keys(schema: Any, *more: str) -> set[str]:
        return set(schema.model_fields) - set(more)

    estimate = CALIBRATED.to_dict(gender=True)
    assert keys(schemas.EstimateAnswer, "at_least") == set(estimate)
    assert keys(schemas.QualityAnswer) == set(QUALITY.to_dict())
    assert keys(decision_schemas.PersonAnswer, "at_least") == set(person().to_dict()) - {"frames"}
    assert keys(decision_schemas.OutcomeAnswer) == set(DECISION.to_dict())
    place = keys(schemas.FaceAnswer, "estimate", "problem")
    assert place == set(photo(NOWHERE).to_dict()) - {"turn", "error"}
