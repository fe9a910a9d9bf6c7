"""Bulk labeling: sources, tables, and resuming after a kill."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime.detection import Detection
from runtime.errors import AgeMoEError, ImageError
from runtime.geometry import Pixels
from runtime.label_lists import photographs_in
from runtime.label_tables import NO_FACE, LabelingError, journal_of, table_columns
from runtime.labeler import Labeled, Labeler
from runtime.labeling import LabelJob, Stream, label
from runtime.results import AgeEstimate, Face
from runtime.resume_log import ResumeLog
from tests.runtime.fakes import FakePredictor
from tests.runtime.tiny_engines import Tiny, write_engines

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(empty_folder: Path) -> Path:
    """A working directory with engines and twenty pictures of different shades."""
    write_engines(empty_folder / "engines", {"a": Tiny(), "bb": Tiny(slope=50.0)})
    (empty_folder / "photos").mkdir()
    for index in range(20):
        shade = (10 * index,) * 3
        Image.new("RGB", (20, 20), shade).save(empty_folder / f"photos/{index:02}.png")
    return empty_folder


def job(faces: str = "whole") -> LabelJob:
    return LabelJob(faces=faces, device="cpu")


def labeled(output: Path, paths: Sequence[str]) -> list[dict[str, str]]:
    """Labels whole pictures in this process; returns the rows of the CSV table."""
    with job().opened() as labeler:
        label(labeler.stream, paths, output, job())
    return read(output)


def read(output: Path) -> list[dict[str, str]]:
    with output.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_picture_gets_its_row(folder: Path) -> None:
    rows = labeled(folder / "ages.csv", photographs_in(["photos"]))
    assert [row["path"] for row in rows] == [f"photos/{index:02}.png" for index in range(20)]
    assert list(rows[0]) == list(table_columns(["a", "bb"]))
    for index, row in enumerate(rows):
        brightness = 10 * index / 255
        assert float(row["age_a"]) == pytest.approx(100 * brightness, abs=1e-4)
        assert float(row["age_years"]) == pytest.approx(75 * brightness, abs=1e-4)
        assert (row["face"], row["x"], row["error"], row["low_years"]) == ("0", "", "", "")
        assert row["engine"] == job().engine
    assert not journal_of(folder / "ages.csv").exists()


def test_parquet_and_csv_hold_the_same_values(folder: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    paths = [*photographs_in(["photos"]), "gone.png"]
    of_csv = labeled(folder / "ages.csv", paths)
    with job().opened() as labeler:
        label(labeler.stream, paths, folder / "ages.parquet", job())
    table = parquet.read_table(folder / "ages.parquet")
    assert table.column_names == list(table_columns(["a", "bb"]))
    assert [str(table.schema.field(name).type) for name in ("path", "face", "age_years")] == [
        "string",
        "int32",
        "double",
    ]
    as_text = [
        {name: "" if value is None else str(value) for name, value in row.items()}
        for row in table.to_pylist()
    ]
    assert as_text == of_csv


def test_bad_pictures_are_listed_with_their_errors(folder: Path) -> None:
    (folder / "photos/05.png").write_bytes(b"no picture")
    with job().opened() as labeler:
        paths = [*photographs_in(["photos"]), "gone.png"]
        summary = label(labeler.stream, paths, folder / "ages.csv", job())
    assert (summary.photographs, summary.faces, summary.without_face) == (21, 19, 0)
    assert list(summary.bad) == ["photos/05.png", "gone.png"]
    rows = {row["path"]: row for row in read(folder / "ages.csv")}
    assert "not JPEG, PNG or WEBP" in rows["photos/05.png"]["error"]
    assert (
        rows["gone.png"]["error"] == summary.bad["gone.png"] == "There is no picture at gone.png."
    )


class Columns:
    """Detects a face in each column of 10 pixels that is not black; fails on a white corner."""

    provenance = "columns"

    def detect(self, image: Pixels) -> list[Detection]:
        if image[0, 0].min() == 255:
            raise RuntimeError("white")
        lit = [x for x in range(0, image.shape[1], 10) if image[0, x].any()]
        return [Detection((float(x), 0.0, 10.0, 10.0), 1.0) for x in lit]


def brightness(face: Face) -> AgeEstimate | AgeMoEError:
    """Returns the brightness of a face's center as its age."""
    assert isinstance(face.image, np.ndarray)
    assert face.box is not None
    level = int(face.image[5, int(face.box[0]) + 5, 0])
    if level == 13:
        return ImageError("unlucky")
    return AgeEstimate(float(level), {}, {"a": "late"})


def test_all_faces_of_some_photographs_are_one_batch(tmp_path: Path) -> None:
    levels = {"two": (40, 0, 80), "none": (0, 0), "white": (255,), "bad": (7, 13)}
    for name, shades in levels.items():
        row = np.repeat(np.array(shades, np.uint8), 10)
        pixels = np.repeat(np.tile(row, (10, 1))[:, :, None], 3, axis=2)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    predictor = FakePredictor(brightness)
    labeler = Labeler(predictor, "f" * 16, Columns())
    found = dict(labeler.label([str(tmp_path / f"{name}.png") for name in levels]))
    two, none, white, bad = found.values()
    assert predictor.batches == [4]
    assert [(row["face"], row["x"], row["age_years"]) for row in two] == [
        (0, 0.0, 40.0),
        (1, 20.0, 80.0),
    ]
    assert two[0]["missing"] == "a: late"
    assert [row["error"] for row in none] == [NO_FACE]
    assert [row["error"] for row in white] == ["The detector failed (RuntimeError: white)."]
    assert [row.get("error") for row in bad] == [None, "unlucky"]
    streamed = [entry for batch in labeler.stream(list(found)) for entry in batch]
    assert dict(streamed) == found


class Sizes:
    """Keeps nothing of a face but its size; remembers which pictures are in memory."""

    def __init__(self) -> None:
        self.pictures: list[weakref.ref[Pixels]] = []

    def in_memory(self) -> int:
        return sum(picture() is not None for picture in self.pictures)

    def prepare(self, faces: Sequence[Face], *, quality: bool = True) -> Sequence[Any]:
        assert not quality
        (image,) = {id(face.image): face.image for face in faces}.values()
        assert isinstance(image, np.ndarray)
        self.pictures.append(weakref.ref(image))
        assert self.in_memory() == 1
        return [image.shape[0] for _ in faces]

    def predict_prepared(self, faces: Sequence[Any]) -> Sequence[AgeEstimate]:
        assert self.in_memory() == 0
        return [AgeEstimate(float(height), {}) for height in faces]


def test_of_a_batch_one_picture_at_a_time_is_in_memory(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{height}.png") for height in (10, 11, 12)]
    for height, path in zip((10, 11, 12), paths, strict=True):
        Image.new("RGB", (20, height), "gray").save(path)
    labeled = Labeler(Sizes(), "f" * 16, Columns()).label(paths)
    assert [[row["age_years"] for row in rows] for _, rows in labeled] == [
        [height, height] for height in (10, 11, 12)
    ]


def test_a_file_name_that_is_not_utf8_is_escaped(folder: Path) -> None:
    name = os.fsdecode(b"photos/caf\xe9.png")
    Path("photos/00.png").rename(name)
    (row,) = labeled(folder / "ages.csv", [name])
    assert row["path"] == "photos/caf\\xe9.png"
    assert row["error"] == ""


def test_an_existing_table_is_kept_unless_overwritten(folder: Path) -> None:
    output = folder / "ages.csv"
    output.write_text("precious", encoding="utf-8")
    with pytest.raises(LabelingError, match=r"ages\.csv exists"):
        labeled(output, ["photos/00.png"])
    assert output.read_text(encoding="utf-8") == "precious"
    assert not journal_of(output).exists()
    with job().opened() as labeler:
        label(labeler.stream, ["photos/01.png"], output, job(), overwrite=True)
    assert len(read(output)) == 1


@pytest.mark.parametrize(
    ("name", "message"), [("ages.xlsx", r"\.csv or \.parquet"), ("no/ages.csv", "no folder")]
)
def test_invalid_outputs(folder: Path, name: str, message: str) -> None:
    with pytest.raises(LabelingError, match=message):
        labeled(folder / name, ["photos/00.png"])


def test_parquet_without_pyarrow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(LabelingError, match=r"agemoe-runtime\[label\]"):
        labeled(folder / "ages.parquet", ["photos/00.png"])


def stopped(labeler: Labeler, after: int) -> Stream:
    """Returns a stream that is interrupted after some batches."""

    def stream(paths: Sequence[str]) -> Iterator[Sequence[Labeled]]:
        for done, batch in enumerate(labeler.stream(paths)):
            if done == after:
                raise KeyboardInterrupt
            yield batch

    return stream


def test_an_interrupted_job_resumes_and_repeats_nothing(folder: Path) -> None:
    paths = photographs_in(["photos"])
    whole = labeled(folder / "whole.csv", paths)
    output = folder / "ages.csv"
    labeled_again: list[str] = []
    with job().opened() as labeler:

        def noted(waiting: Sequence[str]) -> Iterator[Sequence[Labeled]]:
            labeled_again.extend(waiting)
            return labeler.stream(waiting)

        with pytest.raises(KeyboardInterrupt):
            label(stopped(labeler, 1), paths, output, job())
        assert not output.exists()
        reports: list[tuple[int, int]] = []
        summary = label(noted, paths, output, job(), report=lambda *counts: reports.append(counts))
    assert labeled_again == paths[8:]
    assert reports == [(8, 20), (16, 20), (20, 20)]
    assert summary.photographs == 20
    assert read(output) == whole


def test_killed_after_the_table_before_the_journal_is_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = folder / "ages.csv"
    with monkeypatch.context() as patch:
        patch.setattr(ResumeLog, "discard", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            labeled(output, ["photos/03.png"])
    rows = read(output)
    summary = label(lambda _: pytest.fail("done already"), ["photos/03.png"], output, job())
    assert summary.photographs == len(rows) == 1
    assert read(output) == rows
    assert not journal_of(output).exists()


def test_an_interrupted_job_does_not_resume_with_other_engines(folder: Path) -> None:
    paths, output = photographs_in(["photos"]), folder / "ages.csv"
    with job().opened() as labeler, pytest.raises(KeyboardInterrupt):
        label(stopped(labeler, 1), paths, output, job())
    old = job().engine
    write_engines(folder / "engines", {"a": Tiny(offset=1.0)})
    new = job().engine
    assert new != old
    with pytest.raises(LabelingError, match=f"engine was {old}, is {new}\nContinue with those"):
        labeled(output, paths)
    assert journal_of(output).exists()


def test_repeated_kills_lose_and_duplicate_nothing(folder: Path) -> None:
    whole = labeled(folder / "whole.csv", photographs_in(["photos"]))
    journal = journal_of(folder / "ages.csv")
    for delay in (0.0, 0.05, 0.3):
        process = subprocess.Popen(
            [sys.executable, "-c", _SLOWLY],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        with process, process.stdout:
            assert process.stdout.readline() == "a batch is on disk\n"
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert not (folder / "ages.csv").exists()
        assert journal.read_bytes().count(b"\n") > 1
    assert labeled(folder / "ages.csv", photographs_in(["photos"])) == whole
    assert not journal.exists()


_SLOWLY = """
import time
from pathlib import Path
from runtime import labeler, labeling
from runtime.label_lists import photographs_in

labeler.BATCH_SIZE = 2
job = labeling.LabelJob(faces="whole", device="cpu")

def slowly(stream):
    for batch in stream:
        yield batch
        print("a batch is on disk", flush=True)
        time.sleep(1.0)

with job.opened() as opened:
    labeling.label(
        lambda paths: slowly(opened.stream(paths)), photographs_in(["photos"]),
        Path("ages.csv"), job,
    )
"""


def test_a_job_validates_its_options() -> None:
    with pytest.raises(ValueError, match="faces='half' was requested; there are photo and whole"):
        LabelJob(faces="half")
