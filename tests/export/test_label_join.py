"""From a table of `agemoe label` to calibration, with the true ages beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export import calibrate
from export.calibration.csv_tables import LabelsError
from export.calibration.label_tables import join_labels
from export.calibration.labeled_predictions import read_predictions
from export.calibration.labels import read_faces
from runtime import AgeMoE, Face
from runtime.detectors import default_detector
from runtime.fusion_file import FILE_NAME, read_fusion
from runtime.label_tables import table_columns, write_table
from runtime.labeling import LabelJob, label
from tests.export.calibration_examples import fewer_splits
from tests.runtime.tiny_engines import Tiny, write_engines

ROWS: list[dict[str, str | int | float | None]] = [
    {"path": "p/one.jpg", "face": 0, "x": 0.0, "y": 0.0, "w": 9.0, "h": 9.0, "age_years": 1.0,
     "age_a": 20.5, "age_b": 21.0},
    {"path": "p/one.jpg", "face": 1, "x": 0.0, "y": 0.0, "w": 20.0, "h": 9.0, "age_years": 1.0,
     "age_a": 30.5, "age_b": 33.0},
    {"path": "p/two.jpg", "face": 0, "x": 0.0, "y": 0.0, "w": 9.0, "h": 9.0, "age_years": 1.0,
     "age_a": 40.0, "age_b": 44.0},
    {"path": "p/three.jpg", "face": 0, "x": 0.0, "y": 0.0, "w": 9.0, "h": 9.0, "age_years": 1.0,
     "age_a": 50.0, "missing": "b: late"},
    {"path": "p/none.jpg", "error": "no face found"},
]  # fmt: skip
ROWS += [
    {"path": f"p/{number}.jpg", "face": 0, "age_years": 1.0, "age_a": number, "age_b": number}
    for number in range(5)
]


@pytest.fixture(params=["ages.csv", "ages.parquet"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / str(request.param)
    write_table(path, ROWS, table_columns(("a", "b")))
    return path


def truth(folder: Path, text: str) -> Path:
    path = folder / "truth.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_largest_face_of_each_photograph_is_joined(
    table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = "".join(f"p/{n}.jpg,7,,u,,\n" for n in range(5))
    wanted = truth(
        tmp_path,
        "image,age,subject,source,city,note\np/two.jpg,41,ann,s,Ulm,x\np/one.jpg,31,,t,,y\n"
        f"p/three.jpg,51,,t,,\np/none.jpg,9,,t,,\np/elsewhere.jpg,9,,t,,\n{lines}",
    )
    faces = join_labels(table, wanted, None, ["city"])
    assert faces.names == ("a", "b")
    assert faces.age_years.tolist()[:2] == [41.0, 31.0]
    assert faces.predictions_years.tolist()[:2] == [[40.0, 44.0], [30.5, 33.0]]
    assert len(faces) == 7
    assert faces.subjects is not None
    assert faces.sources is not None
    assert faces.subjects.tolist()[:2] == ["ann", ""]
    assert faces.sources.tolist()[:2] == ["s", "t"]
    assert set(faces.groups) == {"city", "source"}
    assert "No face was found in 1 of 9 photographs" in caplog.text
    assert "1 of 8 faces are left out: they have no prediction of every expert" in caplog.text
    assert "1 of 10 photographs are not in" in caplog.text
    assert "p/elsewhere.jpg" in caplog.text


def test_a_face_can_be_named_by_its_number(table: Path, tmp_path: Path) -> None:
    wanted = truth(tmp_path, "path,face,years\np/one.jpg,0,20\np/one.jpg,1,31\n")
    faces = join_labels(table, wanted, ["b"], columns={"age": "years"})
    assert faces.predictions_years.tolist() == [[21.0], [33.0]]
    assert faces.age_years.tolist() == [20.0, 31.0]


def test_paths_that_lead_to_the_same_file_are_the_same(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p").mkdir()
    monkeypatch.chdir(tmp_path)
    wanted = truth(tmp_path / "p", "image,age\none.jpg,31\ntwo.jpg,41\n")
    assert join_labels(table, wanted, ["a"]).predictions_years.tolist() == [[30.5], [40.0]]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("image,age\nx.jpg,3\n", r"1 of 1 photographs are not in .* is p/one.jpg"),
        ("image,years\nx.jpg,3\n", "column 'age' is missing"),
        ("image,age\np/one.jpg,3\np/one.jpg,4\n", "p/one.jpg is listed twice"),
        ("image,age\np/one.jpg,3\np/none.jpg,4\n", "no face was found in 1 of 2 photographs"),
        ("image,age\np/three.jpg,4\n", "no labeled face has a prediction of every expert"),
        ("image,age\np/one.jpg,-3\np/two.jpg,3\n", "age: outside 0..120 in row 2"),
    ],
)
def test_each_problem_is_reported(table: Path, tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(LabelsError, match=problem):
        join_labels(table, truth(tmp_path, text), ["a", "b"])


def test_an_unknown_expert_or_another_table_is_refused(table: Path, tmp_path: Path) -> None:
    wanted = truth(tmp_path, "image,age\np/one.jpg,3\n")
    with pytest.raises(LabelsError, match="has no expert c; it has a, b"):
        join_labels(table, wanted, ["c"])
    with pytest.raises(LabelsError, match="is no table of `agemoe label`"):
        join_labels(wanted, wanted, None)


def test_estimates_are_never_taken_for_true_ages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "ages.csv"
    table.write_text("path,face,age,low,high,age_a,error,engine\na.jpg,0,3,,,4,,\n", "utf-8")
    match = "its column age holds estimates, not true ages.* --predictions ages.csv --truth"
    with pytest.raises(LabelsError, match=match):
        read_predictions(table, ["age_a", "age_b"])
    with pytest.raises(LabelsError, match=match):
        read_faces(table)
    options = ["--predictions", str(table), "--experts", "age_a", "--output", str(tmp_path / "out")]
    assert calibrate.main(options) == 2
    assert "holds estimates" in capsys.readouterr().err
    assert calibrate.main([*options[2:], "--faces", str(table), "--truth", str(table)]) == 2
    assert "--truth belongs to --predictions" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_from_label_to_calibrate(tmp_path: Path) -> None:
    """Photographs are labeled, and the table with the true ages gives bound tables."""
    engines, photos = tmp_path / "engines", tmp_path / "photos"
    engines.mkdir()
    photos.mkdir()
    write_engines(engines, {"a": Tiny(), "b": Tiny(slope=60.0)})
    rng = np.random.default_rng(2)
    ages = rng.integers(5, 80, 60)
    for number, age in enumerate(ages):
        level = round(min(age + abs(rng.normal(0, 4)), 100) * 2.55)
        Image.new("RGB", (8, 8), (level,) * 3).save(photos / f"{number}.png")
    table = tmp_path / "ages.csv"
    job = LabelJob(str(engines), faces="whole")
    with job.opened() as labeler:
        label(labeler.stream, [str(photos / f"{n}.png") for n in range(60)], table, job)
    lines = "".join(f"photos/{n}.png,{age}\n" for n, age in enumerate(ages))
    wanted = truth(tmp_path, f"image,age\n{lines}")
    options = ["--predictions", str(table), "--truth", str(wanted), "--form", "tables", "--bind"]
    options += ["--detector", "haar"]
    options += ["--engines", str(engines), "--output", str(engines), "--bootstrap", "100"]
    with fewer_splits():
        assert calibrate.main(options) == 0
    tables = read_fusion(engines / FILE_NAME)
    assert tables.detector == default_detector().provenance
    assert None not in {table.fingerprint for table in tables.experts.values()}
    with AgeMoE(engines) as moe:
        face = Face(Image.new("RGB", (8, 8), (102, 102, 102)), (0.0, 0.0, 8.0, 8.0))
        estimate = moe.predict(face)
    assert estimate.age_years == pytest.approx(38.0, abs=4.0)
    assert estimate.low_years is not None


def test_a_table_with_a_column_of_true_ages_is_labeled_data(tmp_path: Path) -> None:
    rows: list[dict[str, str | int | float | None]] = [
        {"path": "a.png", "face": n, "x": n, "y": 1, "w": 6, "h": 6, "age_years": 1, "age_a": 3 + n}
        for n in range(2)
    ]
    table, columns = tmp_path / "ages.csv", table_columns(("a",))
    write_table(table, rows, columns)
    (tmp_path / "a.png").touch()
    match = "is a table of `agemoe label` without the true ages: add a column age, or"
    for read in (read_faces, lambda path: read_predictions(path, ["a"])):
        with pytest.raises(LabelsError, match=match):
            read(table)
    labeled = [{**row, "age": 20.0 + number} for number, row in enumerate(rows)]
    write_table(table, labeled, {**columns, "age": float})
    first, second = read_faces(table)
    assert (first.place.box, second.place.box) == ((0.0, 1.0, 6.0, 6.0), (1.0, 1.0, 6.0, 6.0))
    assert (first.age_years, second.age_years, second.groups) == (20.0, 21.0, {})
    for names in (["a"], ["age_a"]):
        faces = read_predictions(table, names)
        assert faces.age_years.tolist() == [20.0, 21.0]
        assert faces.predictions_years.tolist() == [[3.0], [4.0]]
