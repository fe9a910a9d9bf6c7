"""`POST /v1/ages` returns the predictions of `AgeMoE`, for JSON and form requests."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import AgeMoE, Face, Landmarks
from runtime.geometry import Geometry
from runtime.photographs import predict_photo
from runtime.serving.generation import PAGE
from runtime.serving.prediction import decode_photo
from tests.runtime.tiny_engines import Tiny, write_engines
from tests.serving.live import Live, assert_problem, base64_of, encoded, picture

POINTS: Landmarks = ((20, 20), (44, 20), (32, 34), (22, 46), (42, 46))
FAMILY = (PAGE / "examples" / "family.jpg").read_bytes()


def test_a_face_sent_as_json(live: Live) -> None:
    data = encoded(picture(1))
    response = live.ages(data, threshold=18)
    answer = response.json()
    face = answer["images"][0]["faces"][0]
    expected = live.moe.predict(data)
    low, high = expected.probability_bounds(18)
    assert face["estimate"].pop("at_least") == {
        "threshold": 18.0,
        "probability": expected.probability_at_least(18),
        "low": low,
        "high": high,
    }
    assert face == {
        "box": None,
        "person_box": None,
        "score": None,
        "landmarks": None,
        "estimate": expected.to_dict(),
        "problem": None,
    }
    assert answer["images"][0].keys() == {"width", "height", "faces", "problem"}
    assert (answer["images"][0]["width"], answer["images"][0]["height"]) == (24, 16)
    assert answer["calibrated"] is True
    assert answer["stand_ins"] == {}
    assert answer["times_ms"].keys() == {"receive", "decode", "detect", "estimate", "total"}
    assert answer["experts_ms"].keys() == {"a", "b", "both"}


def test_a_form_gets_the_same_answer(live: Live) -> None:
    images = [encoded(picture(2)), encoded(picture(3), "JPEG")]
    boxes = [[[2, 3, 10, 9]], None]
    persons = [[[0, 0, 24, 16]], None]
    form = live.client.post(
        "/v1/ages",
        files=[("image", ("ignored.exe", image)) for image in images],
        data={
            "boxes": json.dumps(boxes),
            "person_boxes": json.dumps(persons),
            "detect": "false",
            "threshold": "40",
            "deadline_ms": "30000",
        },
    )
    as_json = live.ages(
        *images, boxes=boxes, person_boxes=persons, threshold=40, deadline_ms=30_000
    )
    assert form.status_code == as_json.status_code == 200
    assert form.json()["images"] == as_json.json()["images"]
    face = form.json()["images"][0]["faces"][0]
    expected = live.moe.predict(Face(picture(2), (2, 3, 10, 9), (0, 0, 24, 16)))
    assert face["box"] == [2, 3, 10, 9]
    assert face["person_box"] == [0, 0, 24, 16]
    assert face["estimate"].pop("at_least")["threshold"] == 40.0
    assert face["estimate"] == expected.to_dict()


@pytest.mark.haar
def test_faces_of_a_photograph_are_detected(live: Live) -> None:
    answer = live.ages(FAMILY, detect=True).json()["images"][0]
    expected = predict_photo(live.moe, FAMILY)
    assert len(expected) == 3
    assert [face["box"] for face in answer["faces"]] == [list(face.box) for face in expected]
    assert [face["estimate"] for face in answer["faces"]] == [
        face.estimate.to_dict() for face in expected if face.estimate
    ]


def test_a_photograph_without_faces_has_none(live: Live) -> None:
    empty = encoded(np.full((40, 60, 3), 90, np.uint8))
    assert live.ages(empty, detect=True).json()["images"] == [
        {"width": 60, "height": 40, "faces": [], "problem": None}
    ]


def test_a_bad_picture_or_box_does_not_affect_the_others(live: Live) -> None:
    good = encoded(picture(4))
    response = live.ages(
        good, b"no picture", good, boxes=[[[900, 900, 5, 5], [0, 0, 8, 8]]] + [None] * 2
    )
    assert response.status_code == 200
    boxed, broken, whole = response.json()["images"]
    assert [face["problem"] and face["problem"]["type"] for face in boxed["faces"]] == [
        None,
        "urn:agemoe:problem:box",
    ]
    assert broken["faces"] == []
    assert broken["problem"]["detail"] == "The picture of 10 bytes is not JPEG, PNG or WEBP."
    assert whole["faces"][0]["estimate"] == live.moe.predict(good).to_dict()


def test_a_passed_deadline_is_a_504(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*arguments: Any) -> Any:
        time.sleep(0.005)
        return decode_photo(*arguments)

    monkeypatch.setattr("runtime.serving.pictures.decode_photo", slow)
    late = live.ages(encoded(picture(1)), deadline_ms=2)
    assert_problem(late, 504, "The deadline of 2 ms cannot be met")
    assert live.ages(encoded(picture(1)), deadline_ms=60_000).status_code == 200


def test_landmarks_are_taken_and_given(
    live: Live, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    template = tuple((x / 8.0, y / 8.0) for x, y in POINTS)
    geometry = Geometry(fit="align", interpolation="opencv_area", template=template)
    engines = write_engines(tmp_path, {"a": Tiny(geometry=geometry)})
    image, boxes = picture(7, width=64, height=64), [[10, 10, 40, 40], [12, 10, 40, 40]]
    with AgeMoE(engines, device="cpu") as moe:
        monkeypatch.setattr(live.server.service.current().batcher, "_predict", moe.predict)
        response = live.ages(encoded(image), boxes=[boxes], landmarks=[[POINTS, None]])
        given, unknown = response.json()["images"][0]["faces"]
        assert given["landmarks"] == [list(point) for point in POINTS]
        expected = moe.predict(Face(image, (10, 10, 40, 40), landmarks=POINTS))
        assert given["estimate"] == expected.to_dict()
        assert given["estimate"]["notes"] == []
        assert unknown["landmarks"] is None
        assert "average landmarks" in unknown["estimate"]["notes"][0]
        form = live.client.post(
            "/v1/ages",
            files=[("image", ("x.png", encoded(image)))],
            data={"boxes": json.dumps([boxes]), "landmarks": json.dumps([[POINTS, None]])},
        )
        assert form.json()["images"] == response.json()["images"]
        mirrored = [POINTS[index] for index in (1, 0, 2, 4, 3)]
        wrong = live.ages(encoded(image), boxes=[boxes[:1]], landmarks=[[mirrored]])
        assert_problem(wrong, 422, "not arranged as in a face")
        assert wrong.json()["type"] == "urn:agemoe:problem:landmarks"


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ({"boxes": []}, 422, "boxes has 0 entries for 1 pictures"),
        ({"boxes": [[[1, 2, 3]]]}, 422, "boxes.0.0: List should have at least 4 items"),
        ({"boxes": [[[0, 0, 1, -1]]]}, 422, "box"),
        ({"boxes": [[[0.1, 0.2, 0.5, 0.5]]]}, 422, "look like shares of the picture"),
        ({"boxes": [[[5, 5, 3, 9]]]}, 422, "less than 4 pixels"),
        ({"boxes": [[[20, 5, 10, 9]]]}, 422, "Only 40% of the box"),
        ({"deadline_ms": 0}, 422, "deadline_ms: Input should be greater than or equal to 1"),
        ({"threshold": -1}, 422, "threshold: Input should be greater than or equal to 0"),
        ({"color": "blue"}, 422, "color: Extra inputs are not permitted"),
        ({"threshold": "18"}, 422, "threshold: Input should be a valid number"),
        ({"threshold": True}, 422, "threshold: Input should be a valid number"),
        ({"detect": 1}, 422, "detect: Input should be a valid boolean"),
        ({"boxes": [[[True, 0, 5, 5]]]}, 422, "boxes.0.0.0: Input should be a valid number"),
        ({"boxes": [[[0, 0, 9, 9]] * 65]}, 422, "65 boxes, more than 64"),
        ({"person_boxes": [[[0, 0, 9, 9]] * 10_000]}, 422, "10,000 person_boxes, more than 64"),
        ({"landmarks": []}, 422, "landmarks has 0 entries for 1 pictures"),
        ({"landmarks": [[None]]}, 422, "landmarks for 1 faces and 0 boxes"),
        ({"boxes": [[[0, 0, 9, 9]]], "landmarks": [[]]}, 422, "landmarks for 0 faces and 1 boxes"),
        ({"landmarks": [[[[1, 2]] * 4]]}, 422, "landmarks.0.0: List should have at least 5 items"),
        ({"landmarks": [[[[1, 2]] * 6]]}, 422, "landmarks.0.0: List should have at most 5 items"),
        ({"landmarks": [[[[1, 2, 3]] * 5]]}, 422, "landmarks.0.0.0: List should have at most 2"),
        ({"landmarks": [[[[1, "2"]] * 5]]}, 422, "landmarks.0.0.0.1: Input should be a valid num"),
        ({"images": []}, 422, "images: List should have at least 1 item"),
        ({"images": ["§"]}, 422, "images.0: Value error, not base64"),
        ({"images": [5]}, 422, "images.0: Value error, expected a base64 string"),
        ({"images": ["AAAA"] * 17}, 422, "The request has 17 pictures, more than 16"),
        ({"images": ["AAAA"]}, 422, "is not JPEG, PNG or WEBP"),
    ],
)
def test_invalid_requests_are_rejected(
    live: Live, options: dict[str, Any], status: int, message: str
) -> None:
    body = {"images": [base64_of(encoded(picture(6)))], "detect": False, **options}
    assert_problem(live.client.post("/v1/ages", json=body), status, message)


def test_boxes_that_cover_too_much_are_too_large(live: Live) -> None:
    flat = base64_of(encoded(np.full((3000, 4000, 3), 90, np.uint8)))
    for counts, place in (([7], "a picture of 4000×3000 pixels"), ([4, 3], "this request")):
        boxes = [[[0, 0, 4000, 3000]] * count for count in counts]
        body = {"images": [flat] * len(counts), "boxes": boxes}
        response = live.client.post("/v1/ages", json=body)
        assert_problem(response, 413, f"{place}, margins included, together cover 84,000,000 pixel")
        assert response.json()["type"] == "urn:agemoe:problem:boxes-too-large"


JPEG = base64_of(encoded(picture(6)))
SPELLINGS = {
    "plain": JPEG,
    "data URI": f"data:image/jpeg;base64,{JPEG}",
    "data URI with a parameter": f"DATA:image/jpeg;name=a;BASE64,{JPEG}",
    "wrapped": "\r\n".join(JPEG[i : i + 76] for i in range(0, len(JPEG), 76)) + "\n",
    "URL-safe": JPEG.replace("+", "-").replace("/", "_"),
    "without padding": JPEG.rstrip("="),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_base64_in_every_spelling_and_json_with_byte_order_mark(live: Live, spelling: str) -> None:
    body = json.dumps({"images": [SPELLINGS[spelling]], "detect": False})
    headers = {"Content-Type": "application/json"}
    for encoding in ("utf-8", "utf-8-sig"):
        content = body.encode(encoding)
        response = live.client.post("/v1/ages", content=content, headers=headers)
        age = response.json()["images"][0]["faces"][0]["estimate"]["age_years"]
        assert age == live.moe.predict(encoded(picture(6))).age_years


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data:image/jpeg,AAAA", "not a data URI in base64"),
        ("data:image/jpeg;base64", "not a data URI in base64"),
        ("data:" + "x" * 300 + ";base64,AAAA", "not a data URI in base64"),
        ("AAAAA", "not base64"),
        ("AA=A", "not base64"),
        ("A" * ((1 << 18) - 2) + "==AAAA", "not base64"),
        ("AA.A", "not base64"),
        ("ä" * 1000, "not base64: other than ASCII"),
    ],
)
def test_what_is_no_base64_is_rejected(live: Live, text: str, message: str) -> None:
    response = live.client.post("/v1/ages", json={"images": [text]})
    assert_problem(response, 422, message)
    assert len(response.text) < 400


@pytest.mark.parametrize(
    ("content", "media_type", "status", "message"),
    [
        (b"{", "application/json", 400, "not JSON"),
        (b"\xff", "application/json", 400, "not JSON"),
        (b"[]", "application/json", 422, "request: "),
        (b'{"images":[""' + b',""' * 80_000 + b"]}", "application/json", 422, "80,000 values"),
        (b"{" + b'"a":1,' * 40_001 + b"}", "application/json", 422, "more than 80,000 values"),
        (b"[" * 100_000, "application/json", 400, "not JSON"),
        (b"x", "text/plain", 415, "Expected application/json or multipart/form-data"),
        (b"x", "multipart/form-data", 400, "Missing boundary"),
        (b"x", "multipart/form-data; boundary=b", 400, "form cannot be parsed"),
        (b"--b--\r\n", "multipart/form-data; boundary=b", 422, "The request has no picture"),
    ],
)
def test_unreadable_bodies_are_rejected(
    live: Live, content: bytes, media_type: str, status: int, message: str
) -> None:
    headers = {"Content-Type": media_type}
    assert_problem(live.client.post("/v1/ages", content=content, headers=headers), status, message)


@pytest.mark.parametrize(
    ("files", "data", "message"),
    [
        ([("photo", b"x")], {}, "files in the field 'image', got 'photo'"),
        ([("boxes", b"[]")], {}, "files in the field 'image', got 'boxes'"),
        ([("detect", (None, b"true"))], {"image": "text"}, "'image' holds text"),
        ([("image", b"x")] * 17, {}, "more pictures than 16"),
        ([("image", b"x")] * 40, {}, "more pictures than 16"),
        ([("image", b"x")], {"boxes": "[["}, "'boxes' is not JSON"),
        (
            [("image", b"x")],
            {"boxes": '[[["0", 0, 9, 9]]]'},
            "boxes.0.0.0: Input should be a valid",
        ),
        ([("image", b"x")], {"detect": ["true", "true"]}, "'detect' occurs more than once"),
        ([("image", b"x")], {"threshold": "nan"}, "threshold: Input should be a finite number"),
    ],
)
def test_invalid_forms_are_rejected(
    live: Live, files: list[tuple[str, bytes]], data: dict[str, Any], message: str
) -> None:
    assert_problem(live.client.post("/v1/ages", files=files, data=data), 422, message)


def test_a_compressed_body_is_rejected(live: Live) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    refused = live.client.post("/v1/ages", content=b"\x1f\x8b", headers=headers)
    assert_problem(refused, 415, "compressed (gzip)")


def test_a_deadline_passes_while_a_picture_is_decoded(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding, going = threading.Event(), threading.Event()

    def stuck(*arguments: Any) -> Any:
        decoding.set()
        assert going.wait(30.0)
        return decode_photo(*arguments)

    monkeypatch.setattr("runtime.serving.pictures.decode_photo", stuck)
    late = live.ages(encoded(picture(1)), deadline_ms=50)
    assert decoding.is_set()
    going.set()
    assert_problem(late, 504, "The deadline of 50 ms cannot be met")


@pytest.mark.parametrize("boxes", [None, [[[8, 8, 64, 64]]]])
@pytest.mark.haar
def test_late_experts_are_reported_in_the_callers_milliseconds(
    live: Live, monkeypatch: pytest.MonkeyPatch, boxes: Any
) -> None:
    def late(faces: list[Face], *, deadline_ms: Any) -> Any:
        missing = {"b": deadline_ms.reason}
        estimates: Any = live.moe.predict(faces)
        return [dataclasses.replace(estimate, missing=missing) for estimate in estimates]

    monkeypatch.setattr(live.server.service.current().batcher, "_predict", late)
    answer = live.ages(FAMILY, detect=True, boxes=boxes, deadline_ms=45_000.5).json()
    faces = answer["images"][0]["faces"]
    assert len(faces) == (3 if boxes is None else 1)
    for face in faces:
        assert face["estimate"]["missing"] == {"b": "deadline of 45000.5 ms passed"}
