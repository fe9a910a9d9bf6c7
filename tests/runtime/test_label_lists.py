"""Lists of photographs with boxes and landmarks, which a table of `label` is too."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.__main__ import main
from runtime.columns import BOX, LANDMARKS
from runtime.deadline import Deadline
from runtime.detection import Detection
from runtime.errors import AgeMoEError
from runtime.geometry import Pixels
from runtime.label_lists import listed_faces, photographs_in
from runtime.label_tables import (
    LabelingError,
    Row,
    journal_of,
    table_columns,
    write_table,
)
from runtime.labeler import Labeled, Labeler
from runtime.labeling import LabelJob, Stream, label
from runtime.results import AgeEstimate, Face, Landmarks
from runtime.resume_log import ResumeLog
from tests.runtime.fakes import InOneStep
from tests.runtime.tiny_engines import Tiny, write_engines

POINTS: Landmarks = ((12.5, 15.0), (20.0, 15.25), (16.0, 20.0), (13.0, 25.0), (19.0, 25.0))
FLAT = [number for point in POINTS for number in point]
FACES = [
    Detection((10.0, 10.0, 12.0, 20.0), 0.75, landmarks=POINTS),
    Detection((30.0, 5.0, 10.0, 10.0), 0.5, turn=1),
]


class Sure(InOneStep):
    """Predicts 30 years, keeps the faces, and notes those without landmarks."""

    def __init__(self) -> None:
        self.faces: list[Face] = []

    def predict(
        self, faces: list[Face], *, deadline_ms: float | Deadline | None = None
    ) -> list[AgeEstimate | AgeMoEError]:
        del deadline_ms
        self.faces += faces
        return [AgeEstimate(30.0, {}, notes=self._notes(face)) for face in faces]

    def _notes(self, face: Face) -> tuple[str, ...]:
        return () if face.landmarks else ("a", "b")


class Fixed:
    provenance = "fixed"

    def detect(self, image: Pixels) -> Sequence[Detection]:
        del image
        return FACES


class Never:
    provenance = "never"

    def detect(self, image: Pixels) -> Sequence[Detection]:
        pytest.fail(f"the faces are known ({image.shape})")


@pytest.fixture
def folder(empty_folder: Path) -> Path:
    """A working directory with two photographs and engines."""
    for name in ("a", "b"):
        Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(empty_folder / f"{name}.png")
    write_engines(empty_folder / "engines", {"x": Tiny()})
    return empty_folder


def labeled(labeler: Labeler, output: Path, paths: Sequence[str]) -> list[dict[str, str]]:
    job = LabelJob(device="cpu", detector="haar")
    stream: Stream = lambda waiting: [labeler.label(waiting)]  # noqa: E731
    label(stream, paths, output, job, overwrite=True)
    if output.suffix == ".parquet":
        return []
    with output.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_rows_hold_landmarks_and_notes(folder: Path) -> None:
    first, second = labeled(Labeler(Sure(), "e", Fixed()), folder / "ages.csv", ["a.png"])
    assert [float(first[name]) for name in LANDMARKS] == FLAT
    assert [second[name] for name in LANDMARKS] == [""] * 10
    assert (first["notes"], second["notes"]) == ("", "a; b")
    assert LANDMARKS[:4] == ("left_eye_x", "left_eye_y", "right_eye_x", "right_eye_y")
    assert LANDMARKS[4:] == (
        *("nose_x", "nose_y", "left_mouth_x", "left_mouth_y", "right_mouth_x", "right_mouth_y"),
    )


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_is_a_list_with_its_faces(folder: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    table = folder / f"ages{suffix}"
    first, again = Sure(), Sure()
    rows = labeled(Labeler(first, "e", Fixed()), table, ["a.png", "b.png"])
    given = listed_faces([table.name])
    assert given == {"a.png": tuple(FACES), "b.png": tuple(FACES)}
    assert photographs_in([table.name]) == ["a.png", "b.png"]
    labeler = Labeler(again, "e", Never(), given=given)
    assert labeled(labeler, folder / f"again{suffix}", ["a.png", "b.png"]) == rows
    assert [(f.box, f.landmarks) for f in again.faces] == [
        (f.box, f.landmarks) for f in first.faces
    ]


def test_photographs_without_a_box_are_searched(folder: Path) -> None:
    Path("list.csv").write_text("path,x,y,w,h\na.png,1,2,3,4\nb.png,,,,\n", encoding="utf-8")
    given = listed_faces(["list.csv", "b.png", "."])
    assert given == {"a.png": (Detection((1.0, 2.0, 3.0, 4.0)),)}
    rows = labeled(
        Labeler(Sure(), "e", Fixed(), given=given), folder / "ages.csv", ["a.png", "b.png"]
    )
    assert [row["path"] for row in rows] == ["a.png", "b.png", "b.png"]
    assert (rows[0]["x"], rows[0]["score"]) == ("1.0", "")


def test_known_faces_are_used_where_each_picture_is_a_face(folder: Path) -> None:
    given = {"a.png": (FACES[0],)}
    predictor = Sure()
    labeled(Labeler(predictor, "e", None, given=given), folder / "t.csv", ["a.png", "b.png"])
    assert [face.box for face in predictor.faces] == [FACES[0].box, None]


HEAD = ["path", *BOX, "score", "turn", *LANDMARKS]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (
            [{"x": 1, "y": 2, "w": 3}],
            "row 2: x, y, w, h must be .*; got 1, 2, 3, ",
        ),
        ([{}, {"left_eye_x": 1}], "row 3: left_eye_x, left_eye_y, .* must be numbers"),
        ([dict(zip(LANDMARKS, FLAT, strict=True))], "row 2: has landmarks and no box of the face"),
        (
            [{"x": "one", "y": 2, "w": 3, "h": 4}],
            "x, y, w, h must be .*; got one, 2, 3, 4",
        ),
        (
            [{"x": 1, "y": 2, "w": 3, "h": 4, "turn": 4}],
            "turn must be 0, 1, 2 or 3, got '4'",
        ),
        (
            [dict(zip((*BOX, *LANDMARKS), [1] * 4 + ["nan"] * 10, strict=True))],
            "row 2: left_eye_x, .* must be numbers, or all empty; got nan",
        ),
        ([{"x": 1, "y": 2, "w": 3, "h": 4}, {}], "Only some rows of a.png have a box"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_incomplete_rows_are_errors(rows: list[Row], problem: str) -> None:
    with Path("list.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, HEAD)
        writer.writeheader()
        writer.writerows({"path": "a.png", **row} for row in rows)
    with pytest.raises(LabelingError, match=problem) as caught:
        listed_faces(["list.csv"])
    assert "list.csv" in str(caught.value) or "a.png" in str(caught.value)


def test_numbers_of_other_types_in_parquet_are_errors(folder: Path) -> None:
    pytest.importorskip("pyarrow")
    columns = {"path": str, **dict.fromkeys(BOX, str)}
    row = {"path": "a.png", "x": "1", "y": "2", "w": "3", "h": "wide"}
    write_table(folder / "list.parquet", [row], columns)
    with pytest.raises(LabelingError, match=r"row 2: x, y, w, h must be .*; got 1, 2, 3, wide"):
        listed_faces(["list.parquet"])


def test_a_job_is_not_resumed_with_other_faces(folder: Path) -> None:
    output = folder / "ages.csv"

    def stopped(paths: Sequence[str]) -> list[list[Labeled]]:
        raise KeyboardInterrupt(paths)

    given = {"a.png": (FACES[0],), "b.png": (FACES[1],)}
    with pytest.raises(KeyboardInterrupt):
        label(stopped, ["a.png"], output, LabelJob(detector="haar", given=given))
    other = LabelJob(detector="haar", given=given | {"b.png": (FACES[0],)})
    with pytest.raises(LabelingError, match="given faces"):
        label(stopped, ["a.png"], output, other)
    with pytest.raises(KeyboardInterrupt):
        label(
            stopped, ["a.png"], output, LabelJob(detector="haar", given=dict(sorted(given.items())))
        )
    assert journal_of(output).exists()


def test_the_columns_of_a_table() -> None:
    assert list(table_columns(["x"])) == [
        *("path", "face", *BOX, "score", "turn", *LANDMARKS),
        *("age_years", "low_years", "high_years", "age_x", "missing", "notes", "error", "engine"),
    ]


def test_labeled_faces_of_calibration_are_a_list(folder: Path) -> None:
    """Boxes as corners, -1 where there is none, and persons, as in MiVOLO's annotations."""
    Path("list.csv").write_text(
        "image,age,face_x0,face_y0,face_x1,face_y1,person_x0,person_y0,person_x1,person_y1\n"
        "a.png,31,10,10,22,30,5,5,30,40\nb.png,8,-1,-1,-1,-1,-1,-1,-1,-1\n",
        encoding="utf-8",
    )
    face = Detection((10.0, 10.0, 12.0, 20.0))
    given = listed_faces(["list.csv"])
    assert given == {"a.png": (face, Detection((5.0, 5.0, 25.0, 35.0), kind="person"))}
    predictor = Sure()
    rows = labeled(
        Labeler(predictor, "e", Fixed(), given=given), folder / "t.csv", ["a.png", "b.png"]
    )
    assert predictor.faces[0].person_box == (5.0, 5.0, 25.0, 35.0)
    assert [row["path"] for row in rows] == ["a.png", "b.png", "b.png"]
    assert [row["age_years"] for row in rows] == ["30.0"] * 3


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("nofolder", "ages.csv", "nofolder does not exist"),
        ("empty", "ages.csv", "There is no photograph in empty"),
        ("*.webp", "ages.csv", r"There is no photograph in \*\.webp"),
        ("list.csv", "ages.csv", "list.csv cannot be read as a list with a column 'path' or"),
        ("a.png", "no/ages.csv", "There is no folder no for ages.csv"),
        ("./list.csv", "list.csv", "list.csv is one of the lists to label"),
        ("a.png", "empty.csv", "empty.csv is a folder"),
    ],
)
def test_what_cannot_be_labeled_leaves_nothing_behind(
    folder: Path, capsys: pytest.CaptureFixture[str], source: str, output: str, message: str
) -> None:
    Path("empty").mkdir()
    Path("empty.csv").mkdir()
    Path("list.csv").write_text("file\na.png\n", encoding="utf-8")
    before = sorted(folder.rglob("*"))
    assert main(["label", source, "--output", output, "--overwrite", "--device", "cpu"]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert sorted(folder.rglob("*")) == before


def test_rows_of_an_earlier_version_are_not_resumed(folder: Path) -> None:
    output = folder / "ages.csv"
    settings = LabelJob(faces="whole", device="cpu").settings()
    del settings["column of the age"]
    with ResumeLog.open(journal_of(output), settings) as journal:
        journal.add([("a.png", [{"path": "a.png", "age": 1.0}])])
    with pytest.raises(LabelingError, match="column of the age"):
        label(
            lambda _: pytest.fail("resumed"),
            ["a.png"],
            output,
            LabelJob(faces="whole", device="cpu"),
        )
