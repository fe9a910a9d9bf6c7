"""Lists of photographs and tables of ages: odd names, odd lists, full disks."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import ManifestError
from runtime.label_lists import photographs_in
from runtime.label_tables import LabelingError, Row, journal_of, write_table
from runtime.labeling import LabelJob, label
from runtime.resume_log import ResumeLog
from tests.runtime.tiny_engines import Tiny, write_engines

ODD = ["a,b", 'a"b', "a\nb", "a\rb", "a\r\nb", " a ", "=1+1", "é", "\\x0d", ""]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_odd_names_survive_a_round_trip(tmp_path: Path, suffix: str) -> None:
    table = tmp_path / f"table{suffix}"
    rows: list[Row] = [{"path": name, "face": index} for index, name in enumerate(ODD)]
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    write_table(table, rows, {"path": str, "face": int})
    assert read(table) == [(name.replace("\r", "\\x0d"), index) for index, name in enumerate(ODD)]


def read(table: Path) -> list[tuple[str, int]]:
    if table.suffix == ".csv":
        with table.open(newline="", encoding="utf-8") as file:
            return [(row["path"], int(row["face"])) for row in csv.DictReader(file)]
    parquet = pytest.importorskip("pyarrow.parquet")
    return [(row["path"], row["face"]) for row in parquet.read_table(table).to_pylist()]


@pytest.fixture
def folder(empty_folder: Path) -> Path:
    """A working directory with an empty folder of engines and twenty photographs."""
    (empty_folder / "engines").mkdir()
    (empty_folder / "photos").mkdir()
    for index in range(20):
        (empty_folder / f"photos/{index:02}.png").touch()
    return empty_folder


@pytest.mark.usefixtures("folder")
def test_sources_resolve_to_photographs() -> None:
    Path("photos/deep").mkdir()
    Path("photos/deep/z.JPG").touch()
    Path("photos/notes.txt").touch()
    every = photographs_in(["photos"])
    assert every[-1] == "photos/deep/z.JPG"
    assert len(every) == 21
    assert photographs_in(["photos/0*.png"]) == every[:10]
    assert photographs_in(["photos/**/*.JPG", "photos/deep"]) == ["photos/deep/z.JPG"]
    named = ["photos/03.png", "photos/01.png", "photos/03.png"]
    assert photographs_in(named) == ["photos/03.png", "photos/01.png"]


@pytest.mark.usefixtures("folder")
def test_lists_of_photographs() -> None:
    listed, both = Path("photos/list.csv"), Path("both.csv")
    listed.write_text("age,image\n3,02.png\n4,/abs/01.png\n,\n", encoding="utf-8")
    both.write_text("image,path\nno.png,a.png\n", encoding="utf-8")
    found = photographs_in([str(listed), str(both)])
    assert found == ["photos/02.png", "/abs/01.png", "a.png"]
    pytest.importorskip("pyarrow")
    write_table(Path("list.parquet"), [{"path": "b.png"}, {"path": "a.png"}], {"path": str})
    assert photographs_in(["list.parquet"]) == ["b.png", "a.png"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("engines", "There is no photograph in engines. Give folders"),
        ("nofolder", "nofolder does not exist. Give folders"),
        ("gone.png", "gone.png does not exist"),
        ("notes", "notes is no JPEG, PNG or WebP"),
        ("*.gif", r"no photograph in \*\.gif"),
        ("gone.csv", "gone.csv does not exist"),
        ("other.csv", "its columns are file, age"),
        ("empty.csv", "its columns are none"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_sources_without_photographs(source: str, message: str) -> None:
    Path("other.csv").write_text("file,age\nx,1\n", encoding="utf-8")
    Path("empty.csv").touch()
    Path("notes").write_text("no picture", encoding="utf-8")
    with pytest.raises(LabelingError, match=message):
        photographs_in([source])


def parquet_of(path: Path, names: list[Any]) -> str:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"path": names}), path)
    return str(path)


def test_a_row_of_a_list_may_have_no_path(tmp_path: Path) -> None:
    listed = parquet_of(tmp_path / "list.parquet", ["a.png", None, ""])
    assert photographs_in([listed]) == [str(tmp_path / "a.png")]


@pytest.mark.parametrize("name", [b"a.png", 3])
def test_paths_of_a_list_are_text(tmp_path: Path, name: Any) -> None:
    listed = parquet_of(tmp_path / "list.parquet", [None, name])
    with pytest.raises(LabelingError, match="which is not text"):
        photographs_in([listed])


def test_a_folder_that_cannot_be_searched_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.png").touch()
    scandir: Callable[..., Any] = os.scandir

    def scan(path: str) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(LabelingError, match=r"closed cannot be searched \(Permission denied\)"):
        photographs_in([str(tmp_path)])


@pytest.fixture
def job(tmp_path: Path) -> LabelJob:
    engines = write_engines(tmp_path / "engines", {"a": Tiny()})
    return LabelJob(str(engines), faces="whole", device="cpu")


def test_a_full_disk_is_an_error_and_finished_work_is_kept(
    tmp_path: Path, job: LabelJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "ages.csv"

    def stream(paths: Any) -> Iterator[list[tuple[str, list[dict[str, float]]]]]:
        for path in paths:
            yield [(path, [{"age_years": 1.0}])]

    add = ResumeLog.add

    def until_full(journal: ResumeLog, batch: Any) -> None:
        if "a" in journal:
            raise OSError(28, "No space left on device")
        add(journal, batch)

    with monkeypatch.context() as patch:
        patch.setattr(ResumeLog, "add", until_full)
        with pytest.raises(LabelingError, match=r"No space left.*\n?.*the same command resumes"):
            label(stream, ["a", "b"], output, job)
    assert journal_of(output).read_bytes().count(b"\n") == 2
    labeled: list[str] = []
    label(lambda paths: labeled.extend(paths) or stream(paths), ["a", "b"], output, job)  # type: ignore[func-returns-value]
    assert labeled == ["b"]


def test_without_engines_no_journal_is_started(tmp_path: Path) -> None:
    job = LabelJob(str(tmp_path / "nowhere"), faces="whole")
    with pytest.raises(ManifestError, match="no such file"):
        label(lambda _: pytest.fail("nothing to label"), ["a"], tmp_path / "ages.csv", job)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("path,age\na.png,3\nb.png\n\n,4\nc d.png,5,x,y\n", "utf-8"),
        ("age;path\r\n3,5;a.png\r\n;b.png\r\n4\r\n1;c d.png\r\n", "utf-8-sig"),
        ("age\t path \n3\ta.png\n4\tb.png\n1\tc d.png\n", "utf-16"),
    ],
)
def test_lists_as_spreadsheets_write_them(tmp_path: Path, text: str, encoding: str) -> None:
    (tmp_path / "list.csv").write_text(text, encoding=encoding, newline="")
    found = photographs_in([str(tmp_path / "list.csv")])
    assert [Path(path).name for path in found] == ["a.png", "b.png", "c d.png"]


def test_lists_in_another_encoding_and_pipes_are_named(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes("path\na\nübung.png\n".encode("latin-1"))
    with pytest.raises(LabelingError, match=r"line 3 is not UTF-8\. Save it as UTF-8"):
        photographs_in([str(tmp_path / "list.csv")])
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(LabelingError, match="it is a named pipe, expected a file"):
        photographs_in([str(tmp_path / "pipe.csv")])


def test_files_that_macos_adds_are_no_photographs(tmp_path: Path) -> None:
    for name in ("a.JFIF", "b.jpe", "._a.jpg", "sub/c.pjpeg", "__MACOSX/sub/d.jpg", "e.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    wanted = ["a.JFIF", "b.jpe", "c.pjpeg"]
    assert [Path(p).name for p in photographs_in([str(tmp_path)])] == wanted
    assert [Path(p).name for p in photographs_in([f"{tmp_path}/**/*.[jJ]*"])] == wanted[:2]
    inside = tmp_path / "__MACOSX" / "sub"  # named by the user, so it is meant
    assert [Path(p).name for p in photographs_in([str(inside)])] == ["d.jpg"]
