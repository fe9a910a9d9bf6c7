"""Quality of the faces over HTTP: in the answer, and as the problem `quality`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.quality import QualityLimits
from runtime.serving.command import main
from runtime.serving.settings import Settings
from tests.serving.live import Live, encoded, engines_in, picture, serving

LIMITS = QualityLimits(min_face_pixels=12, max_yaw_degrees=30)
FRONTAL = [[20, 20], [44, 20], [32, 34], [22, 46], [42, 46]]
TURNED = [[20, 20], [30, 20], [44, 34], [22, 46], [32, 46]]


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    engines = engines_in(tmp_path_factory.mktemp("limited") / "engines")
    with serving(Settings(engines, quality=LIMITS)) as running:
        yield running


def test_a_refused_face_is_a_problem_with_its_reasons(limited: Live) -> None:
    data = encoded(picture(1, width=80, height=80))
    response = limited.ages(data, boxes=[[[0, 0, 10, 70]]], landmarks=[[TURNED]])
    problem = response.json()
    assert response.status_code == 422
    assert problem["type"] == "urn:agemoe:problem:quality"
    assert problem["reasons"] == [
        "the face size is 10 pixels, less than the required 12 pixels",
        "the yaw is 77.4°, more than the permitted 30°",
    ]
    assert all(reason in problem["detail"] for reason in problem["reasons"])


def test_one_bad_face_leaves_the_others(limited: Live) -> None:
    data = encoded(picture(1, width=80, height=80))
    boxes, points = [[0, 0, 70, 70], [1, 1, 71, 71]], [FRONTAL, TURNED]
    answer = limited.ages(data, boxes=[boxes], landmarks=[points]).json()
    good, bad = answer["images"][0]["faces"]
    assert good["problem"] is None
    assert good["estimate"]["quality"]["inter_eye_pixels"] == 24.0
    assert good["estimate"]["quality"]["yaw_degrees"] == pytest.approx(0.0)
    assert bad["estimate"] is None
    assert len(bad["problem"]["reasons"]) == 1


def test_other_problems_have_no_reasons(limited: Live) -> None:
    assert "reasons" not in limited.ages(b"no picture").json()


def test_the_limits_are_described(limited: Live) -> None:
    found = limited.client.get("/v1/experts").json()["quality_limits"]
    assert found["require_face"] is True
    assert (found["min_face_pixels"], found["max_yaw_degrees"]) == (12.0, 30.0)
    assert found["min_sharpness"] is None


def test_a_limit_out_of_range_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--engines", str(tmp_path), "--min-sharpness", "-1"])
    assert "--min-sharpness: must be a number within 0" in capsys.readouterr().err
