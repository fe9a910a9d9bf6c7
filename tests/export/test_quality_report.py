"""Error by quality of the faces, and the effect of limits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export import evaluate
from export.calibration.csv_tables import LabelsError
from export.calibration.labeled_predictions import (
    LabeledPredictions,
    read_predictions,
    write_predictions,
)
from export.calibration.quality import bins_of, limits_report, qualities_of
from export.calibration.report import ReportOptions
from export.calibration.scores import scores_of_tables
from runtime.fusion import FusionTables
from runtime.fusion_file import write_fusion
from runtime.quality import QualityLimits
from tests.export.calibration_examples import made_up

OPTIONS = ReportOptions(resamples=100)


def with_quality(count: int = 400) -> LabeledPredictions:
    faces = made_up(count)
    random = np.random.default_rng(5)
    eyes = random.uniform(5.0, 120.0, count)
    eyes[:10] = np.nan
    return replace(
        faces,
        quality={
            "inter_eye_pixels": eyes,
            "sharpness": random.uniform(0.0, 2000.0, count),
            "yaw_degrees": random.uniform(-60.0, 60.0, count),
            "cut_off": np.zeros(count),
        },
    )


def test_quality_is_written_and_read(tmp_path: Path) -> None:
    faces = with_quality()
    path = tmp_path / "faces.csv"
    write_predictions(path, [str(number) for number in range(len(faces))], faces)
    read = read_predictions(path, faces.names)
    assert read.quality.keys() == faces.quality.keys()
    for name, values in faces.quality.items():
        assert read.quality[name] == pytest.approx(values, rel=1e-5, nan_ok=True)
    taken = read.take(np.arange(5))
    assert np.isnan(taken.quality["inter_eye_pixels"]).all()


def test_a_bad_quality_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "faces.csv"
    path.write_text("age,a,quality_sharpness\n20,21,sharp\n30,28,\n40,41,7\n")
    with pytest.raises(LabelsError, match="quality_sharpness: no finite number in row 2"):
        read_predictions(path, ["a"])


@pytest.mark.parametrize("name", ["inter_eye_pixels", "sharpness", "yaw_degrees", "cut_off"])
def test_every_face_is_in_one_bin(name: str) -> None:
    values = with_quality().quality[name]
    bins = bins_of(name, values)
    assert (np.sum(list(bins.values()), axis=0) == 1).all()
    sizes = [int(rows.sum()) for rows in bins.values()]
    if name in ("sharpness", "yaw_degrees"):
        assert sizes == [80] * 5
    if name == "inter_eye_pixels":
        assert int(bins["unknown"].sum()) == 10
        for edges, low, high in (("0 to 16", 0, 16), ("48 to 64", 48, 64)):
            assert np.array_equal(bins[edges], (values >= low) & (values < high))
        assert np.array_equal(bins["96 and more"], values >= 96)


def test_no_value_makes_no_bins() -> None:
    assert list(bins_of("sharpness", np.full(3, np.nan))) == ["unknown"]
    assert list(bins_of("inter_eye_pixels", np.array([16.0, 96.0]))) == ["16 to 24", "96 and more"]


def test_limits_split_the_faces() -> None:
    faces = with_quality()
    scores = scores_of_tables(faces, FusionTables.identity(faces.names))
    limits = QualityLimits(require_face=False, min_inter_eye_pixels=24, max_yaw_degrees=40)
    found = limits_report(scores, OPTIONS, limits)
    eyes, yaw = faces.quality["inter_eye_pixels"], faces.quality["yaw_degrees"]
    small = ~(eyes >= 24)
    refused = small | (np.abs(yaw) > 40)
    assert found["refused"]["rate"] == pytest.approx(refused.mean())
    assert found["kept"]["faces"] == (~refused).sum()
    errors = np.abs(scores.fused_years - faces.age_years)
    assert found["kept"]["mae"]["fused"] == pytest.approx(errors[~refused].mean())
    assert found["of_refused"]["mae"]["fused"] == pytest.approx(errors[refused].mean())
    assert found["reasons"] == {
        "distance between the eyes": small.sum(),
        "yaw": (np.abs(yaw) > 40).sum(),
    }


def test_unknown_quantities_are_none() -> None:
    quality = qualities_of(with_quality())[0]
    assert quality.inter_eye_pixels is None
    assert quality.score is None
    assert quality.cut_off == 0.0


def test_limits_need_quality() -> None:
    faces = made_up(50)
    scores = scores_of_tables(faces, FusionTables.identity(faces.names))
    with pytest.raises(LabelsError, match="there is no quality to limit"):
        limits_report(scores, OPTIONS, QualityLimits(min_sharpness=1.0))


def test_evaluate_reports_by_quality(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faces = with_quality()
    write_predictions(tmp_path / "faces.csv", [str(n) for n in range(len(faces))], faces)
    write_fusion(tmp_path / "fusion.json", FusionTables.identity(faces.names))
    given = ["--predictions", str(tmp_path / "faces.csv"), "--bootstrap", "100"]
    given += ["--fusion", str(tmp_path / "fusion.json"), "--min-inter-eye", "24"]
    assert evaluate.main([*given, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    bins = report["quality"]["distance between the eyes, pixels"]
    assert sum(section["faces"] for section in bins.values()) == len(faces)
    assert report["limits"]["kept"]["faces"] < len(faces)
    assert evaluate.main(given) == 0
    page = capsys.readouterr().out
    assert "## How the error depends on the quality of the picture" in page
    assert "| 16 to 24 |" in page
    assert "## What the quality limits change" in page
    with pytest.raises(SystemExit):
        evaluate.main([*given[:-1], "-1"])
    assert "--min-inter-eye: must be a number within 0.." in capsys.readouterr().err
