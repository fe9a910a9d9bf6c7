from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export import calibrate, evaluate
from export.calibration.csv_tables import LabelsError
from export.calibration.labeled_predictions import read_predictions
from export.calibration.labels import LabeledFace
from export.calibration.raw_predictions import LOG_NAME, PREDICTIONS_NAME, predict_faces
from runtime.errors import AgeMoEError, ImageError
from runtime.fusion_file import read_fusion
from runtime.results import AgeEstimate, ExpertAge, Face
from tests.export.calibration_examples import NAMES, fewer_splits, made_up, write_csv

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated")
    table = write_csv(folder / "labeled.csv", made_up(120))
    options = ["--predictions", str(table), "--experts", *NAMES, "--output", str(folder / "out")]
    with fewer_splits():
        options += ["--form", "tables", "--groups", "side", "--bootstrap", "100"]
        assert calibrate.main(options) == 0
    return folder / "out"


def new_faces(folder: Path) -> str:
    return str(write_csv(folder / "new.csv", made_up(200, seed=9)))


def test_calibrate_writes_tables_report_and_plots(calibrated: Path) -> None:
    assert {path.name for path in calibrated.iterdir()} == {
        "fusion.json",
        "report.md",
        "report.json",
        "bias.png",
        "gate.png",
        "error_by_age.png",
        "reliability.png",
    }
    tables = read_fusion(calibrated / "fusion.json")
    assert tuple(tables.experts) == tuple(sorted(NAMES))
    assert tables.spread is not None
    assert len(tables.spread.quantiles_years) == 7
    assert tables.provenance["data"] == "labeled.csv"
    page = (calibrated / "report.md").read_text(encoding="utf-8")
    for part in ("Fused:", "Policy", "no certification", "right", "(gate.png)", "missing"):
        assert part in page
    report = json.loads((calibrated / "report.json").read_text(encoding="utf-8"))
    assert report["provenance"] == dict(tables.provenance)


def test_evaluate_prints_the_documented_json_and_nothing_else(
    calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--predictions", new_faces(tmp_path), "--fusion", str(calibrated / "fusion.json")]
    assert evaluate.main([*options, "--groups", "side", "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    for part in (report, report["groups"]["side"]["left"]):
        assert 0.0 < part["mae"]["fused"] < 20.0
        assert part["mae"]["late"]["raw"] != part["mae"]["late"]["corrected"]
        assert 0.7 < part["coverage"]["90"] <= 1.0


def test_evaluate_writes_a_report_and_compares(
    calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fusion = str(calibrated / "fusion.json")
    options = ["--predictions", new_faces(tmp_path), "--fusion", fusion, "--compare", fusion]
    assert evaluate.main([*options, "--output", str(tmp_path / "report")]) == 0
    assert "## fusion.json against fusion.json" in capsys.readouterr().out
    assert (tmp_path / "report" / "report.md").exists()
    assert not (tmp_path / "report" / "fusion.json").exists()


def test_evaluate_can_omit_an_expert(
    calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--predictions", new_faces(tmp_path), "--fusion", str(calibrated / "fusion.json")]
    assert evaluate.main([*options, "--experts", "early", "flat", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["experts"] == ["early", "flat"]
    assert report["coverage"]["90"] > 0.8
    assert evaluate.main([*options, "--experts", "early", "absent"]) == 2
    assert "no expert 'absent'; it has" in capsys.readouterr().err


def test_bad_input_writes_no_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "bad.csv"
    table.write_text("age,a\n20,3\n-4,x\n", encoding="utf-8")
    options = ["--predictions", str(table), "--output", str(tmp_path / "out")]
    assert calibrate.main([*options, "--experts", "a"]) == 2
    assert "bad.csv has 2 problems" in capsys.readouterr().err
    assert calibrate.main(options) == 2
    assert "--predictions needs --experts" in capsys.readouterr().err
    assert calibrate.main([*options, "--experts", "a", "--thresholds", "0"]) == 2
    assert "--thresholds 0 must lie" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("script", ["calibrate.py", "evaluate.py"])
def test_scripts_run_from_the_root(script: str) -> None:
    command = [sys.executable, f"export/{script}", "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "--predictions CSV" in result.stdout


class FakeMoE:
    """Predicts 10 and 20 for every picture, except empty ones; counts the faces it gets."""

    experts = ("a", "b")

    def __init__(self, sha256: str = "1") -> None:
        self.calls = 0
        self.sha256 = sha256

    @property
    def sources(self) -> Mapping[str, str | None]:
        return {"a": self.sha256, "b": None}

    def predict(self, faces: list[Face]) -> list[AgeEstimate | AgeMoEError]:
        self.calls += len(faces)
        return [self._one(face) for face in faces]

    def _one(self, face: Face) -> AgeEstimate | AgeMoEError:
        content = Path(str(face.image)).read_bytes()
        if not content:
            return ImageError("empty")
        a, b = (ExpertAge(age, age, 0.5) for age in (10.0, 20.0))
        late = content == b"late"
        return AgeEstimate(
            15.0, {"a": a} if late else {"a": a, "b": b}, {"b": "late"} if late else {}
        )


def labeled(folder: Path, **contents: bytes) -> list[LabeledFace]:
    faces = []
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        faces.append(LabeledFace(folder / name, name, 30.0, f"subject {name}", {"sex": "f"}))
    return faces


def test_unusable_pictures_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faces = labeled(tmp_path, one=b"x", empty=b"", two=b"y", slow=b"late")
    found = predict_faces(FakeMoE(), faces, tmp_path)
    read = read_predictions(tmp_path / PREDICTIONS_NAME, ["a", "b"], ["sex"], varied=False)
    for result in (found, read):
        assert result.age_years.tolist() == [30.0, 30.0]
        assert result.predictions_years.tolist() == [[10.0, 20.0], [10.0, 20.0]]
        assert result.subjects is not None
        assert result.subjects.tolist() == ["subject one", "subject two"]
        assert result.groups["sex"].tolist() == ["f", "f"]
    assert "2 of 4 faces are left out: empty: empty; slow: b: late" in caplog.text


def test_an_interrupted_run_resumes_and_a_finished_one_predicts_nothing(tmp_path: Path) -> None:
    faces = labeled(tmp_path, one=b"x", two=b"y", three=b"z")
    predict_faces(FakeMoE(), faces[:2], tmp_path)
    log = tmp_path / LOG_NAME
    log.write_bytes(log.read_bytes()[:-7])  # a crash in the middle of a line
    second = FakeMoE()
    predict_faces(second, faces, tmp_path)
    assert second.calls == 2
    third = FakeMoE()
    predict_faces(third, faces, tmp_path)
    assert third.calls == 0


def test_other_checkpoints_and_changed_pictures_are_predicted_again(tmp_path: Path) -> None:
    faces = labeled(tmp_path, one=b"x", two=b"y")
    predict_faces(FakeMoE(), faces, tmp_path)
    rebuilt = FakeMoE("2")
    predict_faces(rebuilt, faces, tmp_path)
    assert rebuilt.calls == 2
    (tmp_path / "one").write_bytes(b"longer")
    changed = FakeMoE("2")
    predict_faces(changed, faces, tmp_path)
    assert changed.calls == 1


def test_no_usable_picture_is_an_error(tmp_path: Path) -> None:
    faces = labeled(tmp_path, empty=b"")
    with pytest.raises(LabelsError, match="no face has a prediction of every expert"):
        predict_faces(FakeMoE(), faces, tmp_path)
    assert not (tmp_path / PREDICTIONS_NAME).exists()


def test_a_label_named_like_an_expert_is_refused_before_any_prediction(tmp_path: Path) -> None:
    faces = [replace(face, groups={"b": "1"}) for face in labeled(tmp_path, one=b"x")]
    moe = FakeMoE()
    with pytest.raises(LabelsError, match="the label 'b' is also the name of an expert"):
        predict_faces(moe, faces, tmp_path)
    assert moe.calls == 0
