"""`serve --liveness`: what is not live is refused, and the check is exchanged by a reload."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.quality import QualityLimits
from runtime.serving import command
from runtime.serving.problems import ReloadError
from runtime.serving.settings import Settings
from tests.runtime.liveness_models import write_description, write_model
from tests.serving.live import assert_problem, encoded, engines_in, picture, serving


def test_a_service_refuses_what_is_not_live(tmp_path: Path) -> None:
    engines = engines_in(tmp_path / "engines")
    model = write_model(tmp_path / "m.onnx", weights=[(40.0, 0.0, 0.0)], bias=[-10.0])
    path = write_description(model, head="sigmoid")
    settings = Settings(engines, liveness=path, quality=QualityLimits(require_face=False))
    dark, bright = encoded(picture(0)), encoded(picture(199))
    with serving(settings) as live:  # its canary is a drawing, which is not checked
        assert live.client.get("/health/ready").status_code == 200
        refused = live.ages(dark)
        assert_problem(refused, 422, "not accepted as that of a live person: its score is too low")
        assert refused.json()["type"] == "urn:agemoe:problem:liveness"
        accepted = live.face(bright)
        assert accepted["problem"] is None
        boxes = [[[0, 0, 24, 16]]]
        assert_problem(live.ages(dark, boxes=boxes), 422, "not accepted")
        both = live.ages(dark, bright).json()["images"]
        problems = [image["faces"][0]["problem"] for image in both]
        assert problems[0]["type"] == "urn:agemoe:problem:liveness"
        assert problems[1] is None

        write_description(model, head="sigmoid", inverted=True)
        live.server.service.reload()
        assert live.ages(dark).status_code == 200
        model.write_bytes(b"garbage")
        with pytest.raises(ReloadError, match="liveness model"):
            live.server.service.reload()
        assert live.ages(dark).status_code == 200
        assert live.ages(bright).status_code == 422


def test_the_option_becomes_a_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engines = engines_in(tmp_path / "engines")
    missing = tmp_path / "none.toml"
    assert command.main(["--engines", str(engines), "--liveness", str(missing)]) == 1
    assert f"error: {missing} has 1 problem:" in capsys.readouterr().err
