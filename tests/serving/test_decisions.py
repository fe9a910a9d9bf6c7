"""`POST /v1/decisions`: the policy's decision about one person, from one or several pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import Face, Policy, PredictionError
from runtime.serving.generation import PAGE, Generation
from runtime.serving.prediction import decode_photo
from runtime.serving.settings import Settings
from tests.serving.live import (
    Live,
    assert_problem,
    base64_of,
    encoded,
    engines_in,
    picture,
    policy_in,
    serving,
)

WHOLE = [[0, 0, 24, 16]]
OLD, OLDER, MIDDLE, YOUNG = (encoded(picture(0) + np.uint8(level)) for level in (200, 202, 70, 0))
FAMILY = (PAGE / "examples" / "family.jpg").read_bytes()
PROBLEM = "urn:agemoe:problem:"


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return engines_in(tmp_path_factory.mktemp("decides") / "engines")


@pytest.fixture(scope="module")
def policy(engines: Path) -> Policy:
    return policy_in(engines, threshold=15.0, challenge=25.0, floor=9.0)


@pytest.fixture(scope="module")
def live(engines: Path, policy: Policy) -> Iterator[Live]:
    assert policy
    with serving(Settings(engines, policy=True)) as running:
        yield running


def expected_age(live: Live, data: bytes) -> Any:
    return live.moe.predict([Face(data, (0, 0, 24, 16))])[0]


@pytest.mark.parametrize(
    ("data", "outcome", "code"),
    [
        (OLD, "pass", "challenge_met"),
        (MIDDLE, "refer", "below_challenge"),
        (YOUNG, "fail", "below_floor"),
    ],
)
def test_the_decision_is_that_of_the_policy(
    live: Live, policy: Policy, data: bytes, outcome: str, code: str
) -> None:
    response = live.decision(data, boxes=[WHOLE])
    answer = response.json()
    estimate = expected_age(live, data)
    assert response.status_code == 200
    assert answer["decision"] == policy.decide(estimate).to_dict()
    assert (answer["decision"]["outcome"], answer["decision"]["reasons"][0]["code"]) == (
        outcome,
        code,
    )
    assert answer["estimate"].items() >= estimate.to_dict().items()
    (image,) = answer["images"]
    assert image["faces"][0]["box"] == WHOLE[0]
    assert image["faces"][0]["estimate"] == estimate.to_dict()
    assert (image["weight"], image["left_out"], image["problem"]) == (1.0, None, None)
    assert answer["version"] == live.server.service.current().version
    assert answer["times_ms"].keys() == {"receive", "decode", "detect", "estimate", "total"}


def test_a_form_gets_the_same_decision(live: Live) -> None:
    form = live.client.post(
        "/v1/decisions",
        files=[("image", ("ignored.exe", image)) for image in (OLD, MIDDLE)],
        data={"boxes": json.dumps([WHOLE, WHOLE]), "deadline_ms": "30000"},
    )
    as_json = live.decision(OLD, MIDDLE, boxes=[WHOLE, WHOLE], deadline_ms=30_000)
    assert form.status_code == as_json.status_code == 200
    for part in ("decision", "estimate", "images"):
        assert form.json()[part] == as_json.json()[part]


@pytest.mark.parametrize(
    ("data", "options", "code", "problem"),
    [
        (b"no picture", {}, "unreadable", "image"),
        (encoded(np.full((40, 60, 3), 90, np.uint8)), {}, "no_face", "no-face"),
        (OLD, {"boxes": [[]]}, "no_face", "no-face"),
        (OLD, {"boxes": [[[900, 900, 5, 5]]]}, "no_estimate", None),
    ],
)
def test_a_picture_without_a_usable_face_refers(
    live: Live, policy: Policy, data: bytes, options: Any, code: str, problem: str | None
) -> None:
    response = live.decision(data, **options)
    answer = response.json()
    assert response.status_code == 200
    assert answer["decision"]["outcome"] == "refer"
    assert [reason["code"] for reason in answer["decision"]["reasons"]] == [code]
    assert answer["decision"]["policy"] == policy.id
    assert answer["estimate"] is None
    (image,) = answer["images"]
    assert image["weight"] == 0.0
    if problem is not None:
        assert image["problem"]["type"] == PROBLEM + problem
        assert image["problem"]["detail"] == answer["decision"]["reasons"][0]["sentence"]


@pytest.mark.haar
def test_several_faces_refer_whatever_their_ages(live: Live) -> None:
    refused = live.decision(FAMILY).json()
    assert [reason["code"] for reason in refused["decision"]["reasons"]] == ["several_faces"]
    assert "3 faces" in refused["decision"]["reasons"][0]["sentence"]
    assert refused["images"][0]["faces"] == []
    mixed = live.decision(OLD, FAMILY, OLD, boxes=[WHOLE, None, WHOLE]).json()
    assert mixed["decision"]["outcome"] == "refer"
    assert [reason["code"] for reason in mixed["decision"]["reasons"]] == [
        "several_faces",
        "challenge_met",
    ]
    assert mixed["decision"]["reasons"][0]["sentence"].startswith("Picture 2: ")
    assert mixed["estimate"]["age_years"] == pytest.approx(expected_age(live, OLD).age_years)
    assert [image["weight"] for image in mixed["images"]] == [0.5, 0.0, 0.5]


def test_an_unusable_picture_is_left_out_and_named(live: Live) -> None:
    answer = live.decision(OLD, b"broken", boxes=[WHOLE, None]).json()
    assert answer["decision"]["outcome"] == "pass"
    assert [image["weight"] for image in answer["images"]] == [1.0, 0.0]
    assert answer["images"][1]["problem"]["type"] == PROBLEM + "image"


def test_all_reasons_are_told_once(live: Live) -> None:
    flat = encoded(np.full((40, 60, 3), 90, np.uint8))
    reasons = live.decision(flat, b"broken", flat).json()["decision"]["reasons"]
    assert [reason["code"] for reason in reasons] == ["no_face", "unreadable"]
    assert reasons[0]["sentence"].startswith("Pictures 1, 3: No face was found")
    (both,) = live.decision(flat, flat).json()["decision"]["reasons"]
    assert both["sentence"].startswith("No face was found")


def test_a_late_request_refers(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*arguments: Any) -> Any:
        time.sleep(0.005)
        return decode_photo(*arguments)

    monkeypatch.setattr("runtime.serving.pictures.decode_photo", slow)
    response = live.decision(OLD, MIDDLE, boxes=[WHOLE, WHOLE], deadline_ms=2)
    assert response.status_code == 200
    decision = response.json()["decision"]
    assert decision["outcome"] == "refer"
    assert [reason["code"] for reason in decision["reasons"]] == ["late"]
    assert {image["problem"]["type"] for image in response.json()["images"]} == {
        PROBLEM + "deadline"
    }


def test_a_failure_of_the_service_is_no_decision(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise PredictionError({"a": "the GPU is lost"})

    with monkeypatch.context() as patched:
        patched.setattr(live.server.service.current().batcher, "_predict", failing)
        before = decisions_of(live)
        assert_problem(live.decision(OLD, boxes=[WHOLE]), 500, "the GPU is lost")
        # Where it is known that the expert may have no age, the face is what is wrong.
        patched.setattr(Generation, "no_answers", frozenset({"the GPU is lost"}))
        assert decisions_of(live) == before
        referred = live.decision(OLD, boxes=[WHOLE]).json()["decision"]
    assert [reason["code"] for reason in referred["reasons"]] == ["no_estimate"]
    assert live.decision(OLD, boxes=[WHOLE]).json()["decision"]["outcome"] == "pass"


def decisions_of(live: Live) -> dict[str, float]:
    lines = live.client.get("/metrics").text.splitlines()
    found = (line.rsplit(" ", 1) for line in lines if line.startswith("agemoe_decisions_total{"))
    return {labels.partition("{")[2].rstrip("}"): float(count) for labels, count in found}


def test_decisions_are_counted_by_outcome_and_reason(live: Live) -> None:
    before = decisions_of(live)
    for data in (OLD, OLD, YOUNG):
        live.decision(data, boxes=[WHOLE])
    live.decision(b"no picture")
    after = decisions_of(live)
    labels = {
        'outcome="pass",reason="challenge_met"': 2.0,
        'outcome="fail",reason="below_floor"': 1.0,
        'outcome="refer",reason="unreadable"': 1.0,
    }
    grown = {name: after[name] - before.get(name, 0.0) for name in after}
    assert {name: count for name, count in grown.items() if count} == labels
    assert (
        'agemoe_requests_total{route="/v1/decisions",status="200"}'
        in live.client.get("/metrics").text
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"boxes": [WHOLE * 2]}, "boxes.0: List should have at most 1 item"),
        ({"boxes": []}, "boxes has 0 entries for 1 pictures"),
        ({"landmarks": [[None]]}, "landmarks for 1 faces and 0 boxes"),
        ({"threshold": 18}, "threshold: Extra inputs are not permitted"),
        ({"detect": False}, "detect: Extra inputs are not permitted"),
        ({"images": []}, "images: List should have at least 1 item"),
        ({"images": ["AAAA"] * 17}, "The request has 17 pictures, more than 16"),
    ],
)
def test_malformed_requests_are_no_decisions(
    live: Live, options: dict[str, Any], message: str
) -> None:
    before = decisions_of(live)
    body = {"images": [base64_of(OLD)], **options}
    assert_problem(live.client.post("/v1/decisions", json=body), 422, message)
    if "images" not in options:
        data = {name: json.dumps(value) for name, value in options.items()}
        form = live.client.post("/v1/decisions", files={"image": OLD}, data=data)
        assert_problem(form, 422, message)
    assert decisions_of(live) == before


def test_the_policy_is_described(live: Live, policy: Policy) -> None:
    assert live.client.get("/v1/experts").json()["policy"] == {
        "id": policy.id,
        "threshold": 15.0,
        "challenge": 25.0,
        "floor": 9.0,
        "max_false_positive": None,
        "confidence": None,
        "claimed": False,
    }
