"""`POST /v1/decisions`: the policy's decision about one person, from one or several pictures."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import AgeMoE, Face, Policy, PolicyError, PredictionError, write_policy
from runtime.fusion_file import read_fusion, write_fusion
from runtime.manifest_file import engines_fingerprint
from runtime.quality import QualityLimits
from runtime.serving.command import main
from runtime.serving.generation import PAGE, Generation
from runtime.serving.prediction import decode_photo
from runtime.serving.settings import Limits, Settings
from tests.runtime.photo_samples import tiny_centerface
from tests.runtime.tiny_engines import add_detector
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


def test_without_a_policy_there_are_no_decisions(engines: Path) -> None:
    with serving(Settings(engines)) as live:
        refused = live.decision(OLD, boxes=[WHOLE])
        assert_problem(refused, 409, "Start it with --policy")
        assert refused.json()["type"] == PROBLEM + "no-policy"
        assert live.client.get("/v1/experts").json()["policy"] is None


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


def test_limits_and_quality_hold_for_decisions(tmp_path: Path) -> None:
    engines = engines_in(tmp_path / "engines")
    policy_in(engines, quality=QualityLimits(min_contrast=200.0))
    limits = Limits(body_bytes=4000, images=2)
    quality = QualityLimits(min_face_pixels=16)
    with serving(Settings(engines, policy=True, limits=limits, quality=quality)) as live:
        small = encoded(np.zeros((16, 24, 3), np.uint8))
        assert_problem(live.decision(small, small, small), 422, "3 pictures, more than 2")
        assert_problem(live.decision(bytes(4000)), 413, "more than 4,000 bytes")
        by_service = live.decision(small, boxes=[[[0, 0, 24, 12]]]).json()
        assert by_service["estimate"] is None
        assert by_service["images"][0]["faces"][0]["problem"]["type"] == PROBLEM + "quality"
        by_policy = live.decision(small, boxes=[WHOLE]).json()
        assert by_policy["estimate"]["quality"]["contrast"] == 0.0
        for answer in (by_service, by_policy):
            assert answer["decision"]["outcome"] == "refer"
            assert answer["decision"]["reasons"][0]["code"] == "quality"


@pytest.mark.parametrize("fault", ["absent", "changed", "tables", "detector"])
def test_a_policy_that_does_not_fit_is_refused_at_the_start(
    tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    engines = engines_in(tmp_path / "engines")
    policy = policy_in(engines)
    messages = {
        "absent": "policy.json has 1 problem:\n- cannot be read",
        "changed": "it was changed",
        "tables": "fitted with other fusion tables",
        "detector": "faces were found by centerface, now by",
    }
    if fault == "absent":
        (engines / "policy.json").unlink()
    elif fault == "changed":
        document = json.loads((engines / "policy.json").read_text()) | {"challenge": 19.0}
        (engines / "policy.json").write_text(json.dumps(document))
    elif fault == "tables":
        engines_in(engines)
        tables = read_fusion(engines / "fusion.json")
        write_fusion(engines / "fusion.json", replace(tables, detector="another"))
    else:
        assert policy.binding is not None
        binding = replace(policy.binding, detector="centerface")
        write_policy(engines / "policy.json", Policy(binding=binding))
    assert main(["--engines", str(engines), "--policy", "--port", "0"]) == 1
    assert messages[fault] in capsys.readouterr().err
    with pytest.raises(PolicyError):
        Generation(Settings(engines, policy=True), lambda *_: None)
    Generation(Settings(engines), lambda *_: None).close()


def test_a_reload_takes_a_new_policy_or_refuses_it(tmp_path: Path) -> None:
    engines = engines_in(tmp_path / "engines")
    first = policy_in(engines, challenge=25.0)
    with serving(Settings(engines, policy=True)) as live:
        reload = live.server.service.reload
        before = live.server.service.current().version
        assert live.decision(MIDDLE, boxes=[WHOLE]).json()["decision"]["policy"] == first.id
        second = policy_in(engines, threshold=5.0, challenge=6.0)
        assert reload().version != before
        decision = live.decision(MIDDLE, boxes=[WHOLE]).json()["decision"]
        assert (decision["policy"], decision["outcome"]) == (second.id, "pass")
        add_detector(engines, tiny_centerface(tmp_path / "colors.onnx"))
        assert second.binding is not None
        binding = replace(second.binding, detector="haar")
        write_policy(engines / "policy.json", Policy(binding=binding))
        with pytest.raises(Exception, match="faces were found by haar, now by centerface"):
            reload()
        assert live.decision(MIDDLE, boxes=[WHOLE]).json()["decision"] == decision


def test_the_policy_counts_for_the_fingerprint_where_it_is_used(tmp_path: Path) -> None:
    engines = engines_in(tmp_path / "engines")

    def both() -> tuple[str, str]:
        return engines_fingerprint(engines), engines_fingerprint(engines, "policy.json")

    without = both()
    policy_in(engines)
    one = both()
    policy_in(engines, challenge=30.0)
    other = both()
    assert without[0] == one[0] == other[0]
    assert len({without[1], one[1], other[1], without[0]}) == 4


class Book:
    """A record of decisions in memory."""

    def __init__(self) -> None:
        self.records: list[dict[str, object]] = []
        self.broken = False
        self.closed = False

    def check(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def digest(self, picture: bytes) -> str:
        return hashlib.sha256(picture).hexdigest()

    def append(self, record: Mapping[str, object]) -> None:
        if self.broken:
            raise OSError("no space left at /srv/audit")
        self.records.append(json.loads(json.dumps(record)))


def test_decisions_are_recorded_before_they_are_given(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engines = engines_in(tmp_path / "engines")
    policy, book = policy_in(engines), Book()
    with AgeMoE(engines) as moe:
        fusion = moe.binding.fusion_sha256
    with serving(Settings(engines, policy=True)) as live:
        live.server.service.audit = book
        live.decision(OLD, OLDER, boxes=[WHOLE, WHOLE])
        live.decision(b"no picture")
        live.ages(OLD)
        live.client.post("/v1/decisions", json={})
        assert len(book.records) == 2
        version = live.server.service.current().version
        assert version == engines_fingerprint(engines, "policy.json")[:12]
        digests = [hashlib.sha256(data).hexdigest() for data in (OLD, OLDER)]
        first, second = book.records
        assert first == {
            "pictures": digests,
            "engines": engines_fingerprint(engines, "policy.json"),
            "fusion": fusion,
            "policy": policy.id,
            "outcome": "pass",
            "reasons": ["challenge_met"],
        }
        assert (second["outcome"], second["reasons"]) == ("refer", ["unreadable"])
        counted = decisions_of(live)
        book.broken = True
        refused = live.decision(OLD, boxes=[WHOLE])
        assert_problem(refused, 503, "could not be recorded, so it is not given")
        assert refused.json()["type"] == PROBLEM + "not-recorded"
        assert "/srv/audit" not in refused.text
        assert "/srv/audit" in caplog.text
        assert decisions_of(live) == counted
        assert live.ages(OLD).status_code == 200
