"""Faces that tables were fitted on are recognized, whatever the file with them is called."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export import calibrate, evaluate
from export.calibration.fitted_faces import Overlap, fingerprints, overlap_of
from export.calibration.labeled_predictions import LabeledPredictions, read_predictions
from runtime.fusion_file import read_fusion, write_fusion
from tests.export.calibration_examples import NAMES, fewer_splits, made_up, write_csv
from tests.runtime.fusion_tables import Row, pivot_tables

FITTED = made_up(200)
NEW = made_up(120, seed=9)


def with_pictures(faces: LabeledPredictions, first: int = 0) -> LabeledPredictions:
    names = [f"{first + number:064x}" for number in range(len(faces))]
    return replace(faces, pictures=np.array(names, dtype=np.str_))


def joined(one: LabeledPredictions, other: LabeledPredictions) -> LabeledPredictions:
    ages = np.concatenate([one.age_years, other.age_years])
    years = np.concatenate([one.predictions_years, other.predictions_years])
    return LabeledPredictions(ages, one.names, years)


def found(fitted: LabeledPredictions, faces: LabeledPredictions) -> Overlap:
    record = json.loads(json.dumps(fingerprints(fitted)))  # as in a file
    return overlap_of({"fitted_faces": record}, faces)


def test_some_faces_of_the_fit_among_new_ones_are_counted() -> None:
    overlap = found(FITTED, joined(NEW, FITTED.take(np.arange(31))))
    assert (overlap.faces, overlap.checked, overlap.fitted) == (151, 151, 31)
    assert found(FITTED, NEW).fitted == 0


def other_order(faces: LabeledPredictions) -> LabeledPredictions:
    return faces.take(np.arange(len(faces))[::-1])


def renamed_experts(faces: LabeledPredictions) -> LabeledPredictions:
    return replace(faces, names=("x", "y", "z"), predictions_years=faces.predictions_years[:, ::-1])


@pytest.mark.parametrize("change", [other_order, renamed_experts])
def test_order_and_names_do_not_matter(
    change: Callable[[LabeledPredictions], LabeledPredictions],
) -> None:
    assert found(FITTED, change(FITTED)).fitted == 200


def test_the_same_pictures_with_other_predictions_are_recognized() -> None:
    fitted = with_pictures(FITTED)
    again = replace(fitted, predictions_years=fitted.predictions_years + 0.5)
    assert found(fitted, again).fitted == 200
    assert found(fitted, with_pictures(NEW, first=1000)).fitted == 0


def test_a_fit_on_rounded_predictions_is_compared_as_rounded() -> None:
    rounded = replace(FITTED, predictions_years=np.round(FITTED.predictions_years, 3))
    assert found(rounded, FITTED).fitted == 200
    assert found(FITTED, rounded).unknown is not None


def test_whole_years_do_not_tell_faces_apart() -> None:
    whole = replace(FITTED, predictions_years=np.round(FITTED.predictions_years))
    overlap = found(whole, whole)
    assert overlap.unknown is not None
    assert "decimals" in overlap.unknown
    assert "not known" in overlap.sentence()


def test_rows_that_several_faces_have_identify_none() -> None:
    years = FITTED.predictions_years.copy()
    years[:50] = 0.0
    clipped = replace(FITTED, age_years=np.full(200, 5.0), predictions_years=years)
    assert found(clipped, clipped).fitted == 150


def test_fewer_experts_are_not_compared_by_their_predictions() -> None:
    fewer = LabeledPredictions(FITTED.age_years, NAMES[:2], FITTED.predictions_years[:, :2])
    assert found(FITTED, fewer).unknown is not None


@pytest.mark.parametrize(
    "record",
    [None, 7, {"version": 2}, {**fingerprints(FITTED), "rows": "%"}, {"version": 1, "salt": ""}],
)
def test_tables_without_readable_fingerprints_are_unknown(record: object) -> None:
    overlap = overlap_of({"fitted_faces": record}, FITTED)
    assert overlap.unknown == "fusion.json holds no fingerprints of the faces of its fit"


def test_fingerprints_are_small_and_show_no_order_and_nothing_in_common() -> None:
    record = fingerprints(with_pictures(FITTED))
    assert record == fingerprints(other_order(with_pictures(FITTED)))
    assert len(json.dumps(record)) < 2 * 7 * 200 + 200
    other = fingerprints(FITTED.take(np.arange(100)))
    assert str(record["rows"])[:40] not in str(other["rows"])


def test_faces_of_the_intervals_count_too() -> None:
    provenance = {
        "fitted_faces": fingerprints(FITTED),
        "intervals": {"fitted_faces": fingerprints(NEW)},
    }
    assert overlap_of(provenance, joined(FITTED, NEW)).fitted == 320


def test_pictures_are_kept_in_the_csv(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "faces.csv", with_pictures(FITTED))
    read = read_predictions(path, NAMES)
    assert found(with_pictures(FITTED), read.take(np.arange(50))).fitted == 50


def test_a_renamed_file_is_recognized_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    faces = made_up(60)
    fit = ["--predictions", str(write_csv(tmp_path / "a.csv", faces)), "--experts", "early"]
    fit += ["--form", "tables", "--bootstrap", "100", "--output", str(tmp_path / "out")]
    with fewer_splits():
        assert calibrate.main(fit) == 0
    check_report_of_one_expert(tmp_path / "out")
    fusion = str(tmp_path / "out" / "fusion.json")
    table = write_csv(tmp_path / "b.csv", joined(faces.take(np.arange(35)), made_up(20, seed=9)))
    given = ["--predictions", str(table), "--fusion", fusion, "--bootstrap", "100"]
    capsys.readouterr()
    assert evaluate.main([*given, "--json", "--compare", fusion]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["fitted_faces"]["fitted"] == 35
    assert report["comparison"]["other_fitted_faces"]["fitted"] == 35
    assert "fitted on 35 of these 55 faces" in caplog.text
    assert evaluate.main(given) == 0
    assert "**The tables were fitted on 35 of these 55 faces" in capsys.readouterr().out


def check_report_of_one_expert(folder: Path) -> None:
    """Nothing speaks of a gate, of weights or of fusing where there is one expert alone."""
    assert not (folder / "gate.png").exists()
    page = (folder / "report.md").read_text(encoding="utf-8")
    assert "There is one expert (network) alone" in page
    for part in ("**Gate**", "pivot", "Gain by fusing", "est expert", "Mean of", "is missing"):
        assert part not in page
    assert "| corrected |" in page


def test_keeping_a_fusion_warns_of_its_own_faces(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = {name: Row() for name in NAMES}
    given = pivot_tables(rows, provenance={"fitted_faces": fingerprints(FITTED)})
    write_fusion(tmp_path / "given.json", given)
    table = write_csv(tmp_path / "new.csv", FITTED.take(np.arange(60)))
    arguments = ["--predictions", str(table), "--keep-fusion", str(tmp_path / "given.json")]
    arguments += ["--output", str(tmp_path / "out"), "--bootstrap", "100"]
    with fewer_splits():
        assert calibrate.main(arguments) == 0
    assert "fitted on 60 of these 60 faces" in caplog.text
    page = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "**The given fusion were fitted" not in page
    assert "**The tables of the given fusion were fitted on 60 of these 60 faces" in page
    kept = read_fusion(tmp_path / "out" / "fusion.json").provenance
    assert overlap_of(kept, FITTED).fitted == 200
