"""From labeled pictures through real engines to an AgeMoE that gives intervals."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export import calibrate, evaluate
from export.calibration.raw_predictions import PREDICTIONS_NAME
from runtime import (
    AgeEstimate,
    AgeMoE,
    FusionTableError,
    PolicyError,
    check_policy_fits,
    read_policy,
)
from runtime.fusion_file import FILE_NAME, read_fusion
from runtime.geometry import Geometry
from runtime.startup import WHOLE
from tests.export.calibration_examples import fewer_splits
from tests.runtime.tiny_engines import HALF_OFFSET_YEARS, SHA, Tiny, write_engines

FACES = 90


def labeled_pictures(folder: Path, count: int, seed: int) -> Path:
    """Gray pictures in UTKFace's layout; brightness is the age, with noise."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for number, age in enumerate(rng.integers(5, 80, count)):
        brightness = np.clip((age + rng.normal(0, 5)) * 2.55, 0, 255)
        picture = Image.new("RGB", (16, 16), (round(brightness),) * 3)
        picture.save(folder / f"{age}_0_1_2017{number:013}.jpg.chip.jpg", "JPEG")
    return folder


def engines_and_command(folder: Path, experts: dict[str, Tiny]) -> tuple[Path, list[str]]:
    """Builds engines and labeled pictures; returns the folder and the arguments to calibrate."""
    engines = folder / "engines"
    engines.mkdir()
    write_engines(engines, experts)
    faces = labeled_pictures(folder / "faces", FACES, seed=1)
    options = ["--engines", str(engines), "--output", str(engines), "--bootstrap", "100"]
    cache = ["--cache", str(folder / "cache"), "--whole", "--form", "tables"]
    return engines, ["--faces", str(faces), *options, *cache]


def test_faces_through_engines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engines, command = engines_and_command(
        tmp_path, {"a": Tiny(slope=100.0, offset=10.0), "b": Tiny(slope=60.0)}
    )
    with fewer_splits():
        assert calibrate.main(command) == 0
    names = [path.name for path in (tmp_path / "faces").iterdir()]
    for path in engines.iterdir():  # no paths of labeled photographs are deployed
        content = path.read_bytes() if path.is_file() else b""
        assert not any(name.encode() in content for name in names), path
    assert names[0] in (tmp_path / "cache" / PREDICTIONS_NAME).read_text()
    assert read_fusion(engines / FILE_NAME).detector == WHOLE
    with AgeMoE(engines, fusion=None) as plain, AgeMoE(engines) as moe:
        assert moe.calibrated
        assert not plain.calibrated
        face = Image.new("RGB", (16, 16), (102, 102, 102))  # 40 years
        estimate, raw = moe.predict(face), plain.predict(face)
    assert isinstance(estimate, AgeEstimate)
    assert raw.low_years is None
    assert estimate.age_years == pytest.approx(40, abs=5)
    assert estimate.low_years is not None
    assert estimate.low_years < 40 < (estimate.high_years or 0)
    assert estimate.probability_at_least(18) > 0.9
    others = labeled_pictures(tmp_path / "others", 40, seed=2)
    options = ["--faces", str(others), "--engines", str(engines), "--bootstrap", "100", "--json"]
    options += ["--whole", "--cache", str(tmp_path / "cache"), "--groups", "gender"]
    capsys.readouterr()
    assert evaluate.main([*options, "--fusion", str(engines / FILE_NAME)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["groups"]) == {"gender"}
    assert report["groups"]["gender"]["male"]["faces"] == 40


def test_predictions_of_another_precision_are_not_reused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # fp16 predicts a year more
    _, command = engines_and_command(tmp_path, {"a": Tiny(precisions=("fp32", "fp16"))})
    predicted = {}
    with fewer_splits():
        for precision in ("fp32", "fp16"):
            assert calibrate.main([*command, "--precision", precision]) == 0, caplog.text
            with (tmp_path / "cache" / PREDICTIONS_NAME).open() as file:
                predicted[precision] = np.array(
                    [float(row["age_a"]) for row in csv.DictReader(file)]
                )
    np.testing.assert_allclose(predicted["fp16"] - predicted["fp32"], HALF_OFFSET_YEARS, atol=0.1)


def test_tables_of_other_checkpoints_are_refused_but_do_not_prevent_recalibration(
    tmp_path: Path,
) -> None:
    engines, command = engines_and_command(tmp_path, {"a": Tiny(), "b": Tiny(slope=60.0)})
    with fewer_splits():
        assert calibrate.main(command) == 0
        tables = (engines / FILE_NAME).read_text()
        assert SHA in tables
        (engines / FILE_NAME).write_text(tables.replace(SHA, "cd" * 32))
        with pytest.raises(FusionTableError, match="was calibrated for another checkpoint"):
            AgeMoE(engines)
        assert calibrate.main(command) == 0
    with AgeMoE(engines) as moe:
        assert moe.calibrated


def test_another_geometry_is_predicted_again_and_its_old_tables_are_refused(
    tmp_path: Path,
) -> None:
    """The brightness of a picture with a black border, or one without, is another age."""
    experts = {"a": Tiny(), "b": Tiny(slope=60.0)}
    engines, command = engines_and_command(tmp_path, experts)
    with fewer_splits():
        assert calibrate.main(command) == 0
        first = (tmp_path / "cache" / PREDICTIONS_NAME).read_text()
        # The checkpoint and the graph stay the same.
        border = Geometry(0.5, "letterbox", "pillow_bilinear", (255, 255, 255), min_side=2)
        write_engines(engines, {**experts, "a": Tiny(geometry=border)})
        with pytest.raises(
            FusionTableError, match=r"experts\.a: was calibrated for other settings"
        ):
            AgeMoE(engines)
        assert calibrate.main(command) == 0
    assert len(list((tmp_path / "cache").glob("*.jsonl"))) == 2
    assert first.startswith("id,age,gender,race,age_a,age_b,quality_face_pixels,")
    with AgeMoE(engines) as moe:
        assert moe.calibrated


def test_faces_through_engines_to_a_policy(tmp_path: Path) -> None:
    engines, command = engines_and_command(tmp_path, {"a": Tiny(), "b": Tiny(slope=60.0)})
    with fewer_splits():
        assert calibrate.main(command) == 0
    others = labeled_pictures(tmp_path / "others", 60, seed=2)
    options = ["--faces", str(others), "--engines", str(engines), "--whole", "--policy"]
    options += ["--cache", str(tmp_path / "cache"), "--fusion", str(engines / FILE_NAME)]
    assert evaluate.main([*options, "--max-false-positive", "0.45"]) == 0
    policy = read_policy(engines)
    with AgeMoE(engines) as moe:
        check_policy_fits(policy, moe.binding, detector=WHOLE)
        with pytest.raises(PolicyError, match="faces were found by none: each picture"):
            check_policy_fits(policy, moe.binding, detector="haar")
        faces = [Image.new("RGB", (16, 16), (level,) * 3) for level in (10, 240)]  # 4, 94 years
        outcomes = [policy.decide(result).outcome for result in moe.predict(faces)]
    assert 18.0 <= policy.challenge < 40.0
    assert outcomes == ["refer", "pass"]
    with fewer_splits():
        assert calibrate.main([*command, "--seed", "7"]) == 0  # other tables
    with pytest.raises(PolicyError, match="other fusion tables"):
        read_policy(engines)
