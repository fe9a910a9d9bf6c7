"""`serve --policy`: start, reload and limits of a service that decides."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime import Policy, PolicyError, write_policy
from runtime.fusion_file import read_fusion, write_fusion
from runtime.manifest_file import engines_fingerprint
from runtime.quality import QualityLimits
from runtime.serving.command import main
from runtime.serving.generation import Generation
from runtime.serving.settings import Limits, Settings
from tests.runtime.photo_samples import tiny_centerface
from tests.runtime.tiny_engines import add_detector
from tests.serving.live import (
    assert_problem,
    encoded,
    engines_in,
    policy_in,
    serving,
)
from tests.serving.test_decisions import MIDDLE, OLD, PROBLEM, WHOLE


def test_without_a_policy_there_are_no_decisions(tmp_path: Path) -> None:
    with serving(Settings(engines_in(tmp_path / "engines"))) as live:
        refused = live.decision(OLD, boxes=[WHOLE])
        assert_problem(refused, 409, "Start it with --policy")
        assert refused.json()["type"] == PROBLEM + "no-policy"
        assert live.client.get("/v1/experts").json()["policy"] is None


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
