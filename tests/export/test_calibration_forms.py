"""The published form: its fit, the choice between forms, and the commands around a given fusion."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export import calibrate, evaluate
from export.calibration.agemoe import AGEMOE_MODELS, _objective, _start, fit_agemoe
from export.calibration.fit import fit_fusion, keep_fusion
from export.calibration.labeled_predictions import LabeledPredictions
from export.calibration.scores import scores_of_tables
from runtime.fusion import FusionTables, LinearGate, PivotGate
from runtime.fusion_file import read_fusion, write_fusion
from tests.export.calibration_examples import NAMES, fewer_splits, made_up, mean_error, write_csv
from tests.export.test_published_fusion import random_weights, trained_weights
from tests.runtime.tiny_engines import Tiny, write_engines

PUBLISHED = ("janus", "vgg16", "mivolo", "resnet50")


def test_gradient_against_finite_differences() -> None:
    faces = made_up(60)
    start = _start(faces.predictions_years, faces.age_years).flat()
    objective = _objective(faces.predictions_years / 25.0, faces.age_years, AGEMOE_MODELS[0])
    point = start + np.random.default_rng(0).normal(0.0, 0.05, len(start))
    gradient = objective(point)[1]
    for index in range(0, len(point), 5):
        step = np.zeros(len(point))
        step[index] = 1e-6
        found = (objective(point + step)[0] - objective(point - step)[0]) / 2e-6
        assert gradient[index] == pytest.approx(found, abs=1e-6)


def test_the_fit_beats_every_expert_on_new_faces_and_is_deterministic() -> None:
    faces, new = made_up(400), made_up(1000, seed=9)
    tables = fit_agemoe(NAMES, faces.predictions_years, faces.age_years, AGEMOE_MODELS[0])
    again = fit_agemoe(NAMES, faces.predictions_years, faces.age_years, AGEMOE_MODELS[0])
    fused = tables.fuse(NAMES, new.predictions_years)
    assert (again.fuse(NAMES, new.predictions_years).age_years == fused.age_years).all()
    error = mean_error(fused.age_years, new.age_years)
    for column in range(len(NAMES)):
        raw, corrected = new.predictions_years[:, column], fused.corrected_years[:, column]
        assert mean_error(corrected, new.age_years) < mean_error(raw, new.age_years)
        assert error < mean_error(corrected, new.age_years) - 0.3


def test_the_form_is_chosen_by_held_out_errors_and_both_are_reported() -> None:
    faces = made_up(150)
    with fewer_splits():
        both = fit_fusion(faces).tables
        agemoe = fit_fusion(faces, form="agemoe").tables
        tables = fit_fusion(faces, form="tables").tables
    errors = both.provenance["form_mae_years"]
    assert isinstance(errors, dict)
    assert errors == {
        **tables.provenance["form_mae_years"],  # type: ignore[dict-item]
        **agemoe.provenance["form_mae_years"],  # type: ignore[dict-item]
    }
    assert isinstance(agemoe.gate, LinearGate)
    assert isinstance(tables.gate, PivotGate)
    assert both.provenance["form"] in ("tables", "agemoe")
    assert agemoe.spread is not None
    assert len(agemoe.spread.quantiles_years) == 7


def exact(faces: LabeledPredictions) -> FusionTables:
    return fit_agemoe(NAMES, faces.predictions_years, faces.age_years, AGEMOE_MODELS[0])


def test_a_kept_fusion_gets_intervals_and_nothing_else_changes() -> None:
    given, faces = exact(made_up(300)), made_up(300, seed=5)
    kept = keep_fusion(faces, given).tables
    assert (kept.experts, kept.gate) == (given.experts, given.gate)
    assert kept.spread is not None
    covered = scores_of_tables(made_up(1000, seed=6), kept).covered(0.9)
    assert covered is not None
    assert 0.84 < covered.mean() < 0.96


def test_keep_fusion_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_csv(tmp_path / "new.csv", made_up(120, seed=5))
    former = {"form": "agemoe", "form_mae_years": {"agemoe": 9.0, "tables": 9.5}, "robust": {}}
    given = replace(exact(made_up(300)), provenance=former)
    write_fusion(tmp_path / "given.json", given)
    arguments = ["--predictions", str(table), "--keep-fusion", str(tmp_path / "given.json")]
    arguments += ["--output", str(tmp_path / "out"), "--bootstrap", "100"]
    assert calibrate.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "Held-out mean absolute error on 120 faces" in shown
    assert "9.0" not in shown  # a figure of other faces
    kept = read_fusion(tmp_path / "out" / "fusion.json")
    assert "robust" not in kept.provenance  # the new intervals are not
    raw = made_up(50, seed=7).predictions_years
    assert (kept.fuse(NAMES, raw).age_years == given.fuse(NAMES, raw).age_years).all()
    assert kept.spread is not None
    page = (tmp_path / "out" / "report.md").read_text()
    assert "only its intervals were fitted" in page
    assert not (tmp_path / "out" / "gate.png").exists()
    assert "gate.png" not in page
    options = ["--predictions", str(table), "--fusion", str(tmp_path / "out" / "fusion.json")]
    assert evaluate.main([*options, "--json"]) == 0


def published_file(folder: Path) -> Path:
    path = folder / "best_dynamic_moe_model.pth"
    torch.save(random_weights(3).float().state_dict(), path)
    return path


def test_the_published_file_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_engines(tmp_path / "engines", {name: Tiny() for name in PUBLISHED})
    command = ["--published", str(published_file(tmp_path)), "--experts", *PUBLISHED]
    command += ["--output", str(tmp_path / "engines"), "--engines", str(tmp_path / "engines")]
    assert calibrate.main(command) == 0
    shown = capsys.readouterr().out
    assert "4 experts, linear gate" in shown
    assert "mivolo:" in shown
    assert "without intervals" in shown
    tables = read_fusion(tmp_path / "engines" / "fusion.json")
    assert {table.source_sha256 for table in tables.experts.values()} == {None}
    assert calibrate.main([*command, "--bind"]) == 0
    bound = read_fusion(tmp_path / "engines" / "fusion.json")
    assert None not in {table.source_sha256 for table in bound.experts.values()}
    assert None not in {table.fingerprint for table in bound.experts.values()}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--published", "x.pth"], "--published needs --experts"),
        (["--published", "x.pth", "--experts", "a", "--keep-fusion", "f"], "exclude each other"),
        (["--faces", "photos", "--bind"], "--faces always binds"),
        (["--predictions", "p.csv", "--experts", "a", "--whole"], "--whole belongs to --faces"),
        (
            ["--published", "x.pth", "--experts", "a", "--robust", "source"],
            "--robust needs labeled",
        ),
        (["--predictions", "p.csv", "--keep-fusion", "f", "--form", "agemoe"], "leave --form out"),
        (["--published", "missing.pth", "--experts", "a"], "missing.pth"),
    ],
)
def test_contradictory_options_are_refused(
    options: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate.main([*options, "--output", str(tmp_path)]) == 2
    assert problem in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_trained_published_fusion_survives_fusion_json(tmp_path: Path) -> None:
    path = tmp_path / "moe.pth"
    torch.save(trained_weights().float().state_dict(), path)
    assert (
        calibrate.main(
            ["--published", str(path), "--experts", *PUBLISHED, "--output", str(tmp_path / "out")]
        )
        == 0
    )
    document = json.loads((tmp_path / "out" / "fusion.json").read_bytes())
    assert document["schema_version"] == 4
    assert document["gate"]["form"] == "linear"
    assert document["largest_raw_years"] == 150.0
