from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from export import calibrate, evaluate
from export.calibration.fitted_faces import without_fingerprints
from runtime.fusion_file import read_fusion
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
    parts = (
        "Gain by fusing",
        "Wrong decisions",
        "no certification",
        "right",
        "(gate.png)",
        "missing",
    )
    for part in parts:
        assert part in page
    report = json.loads((calibrated / "report.json").read_text(encoding="utf-8"))
    assert report["provenance"] == without_fingerprints(tables.provenance)


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
    assert "## out/fusion.json against out/fusion.json" in capsys.readouterr().out
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
