"""Labels as data sets and spreadsheets have them: odd names, ragged rows, pictures listed twice."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from export.calibration.csv_tables import LabelsError
from export.calibration.labels import read_faces

CASES = Path(__file__).parent / "cases"
MISNAMED = {
    "39_1_20170116174525125.jpg.chip.jpg": 39.0,  # race missing
    "53__0_20170116184028385.jpg": 53.0,  # gender missing
    "24_0_1_20170116220224657 .jpg.chip.jpg": 24.0,
    "55_0_0_20170116232725357jpg.chip.jpg": 55.0,
    "44_1_4_20170116235150272.pg.chip.jpg": 44.0,
}
"""Names in the published UTKFace."""


def pictures(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_utkfaces_misnamed_files_are_read(tmp_path: Path) -> None:
    found = {face.name: face.age_years for face in read_faces(pictures(tmp_path, *MISNAMED))}
    assert found == MISNAMED


def test_a_few_unusable_names_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    usable = [f"{age}_0_1_20170116174525125.JPE" for age in range(20, 60)]
    pictures(tmp_path, *usable, "holiday.jpg", "._20_0_1_20170116174525125.jpg", "__MACOSX/a.jpg")
    with caplog.at_level(logging.WARNING):
        assert len(read_faces(tmp_path)) == len(usable)
    assert "1 of 41 pictures are left out" in caplog.text
    assert "holiday.jpg" in caplog.text
    pictures(tmp_path, "b.jpg", "c.png")
    with pytest.raises(
        LabelsError, match=r"3 problems:\n- b\.jpg: is not a name of the layout utk"
    ):
        read_faces(tmp_path)


def test_a_picture_listed_twice_is_an_error_with_both_rows(tmp_path: Path) -> None:
    pictures(tmp_path, *(f"{number}.jpg" for number in range(40)))
    shutil.copy(CASES / "twice.csv", tmp_path)
    with pytest.raises(
        LabelsError, match=r"'0\.jpg' is listed twice: row 2 \(age 10\), row 42 \(age 55\)"
    ):
        read_faces(tmp_path / "twice.csv")


def test_a_short_row_is_an_error_with_its_row_and_column(tmp_path: Path) -> None:
    pictures(tmp_path, *(f"{number}.jpg" for number in range(40)))
    shutil.copy(CASES / "short.csv", tmp_path)
    with pytest.raises(LabelsError, match=r"row 41: the column 'image' is empty"):
        read_faces(tmp_path / "short.csv")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_every_separator_and_byte_order_mark(tmp_path: Path, separator: str, encoding: str) -> None:
    rows = (("image", " age "), ("a.JFIF", "30"), (), ("b.jpg", "40", "", ""), ("", ""))
    text = "\r\n".join(separator.join(row) for row in rows)
    pictures(tmp_path, "a.JFIF", "b.jpg")
    (tmp_path / "labels.csv").write_text(text, encoding=encoding, newline="")
    found = {face.name: face.age_years for face in read_faces(tmp_path / "labels.csv")}
    assert found == {"a.JFIF": 30.0, "b.jpg": 40.0}


def test_a_row_with_more_cells_than_the_header_is_an_error(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg")
    (tmp_path / "labels.csv").write_text("image,age\na.jpg,30\nb, c.jpg,40\n")
    with pytest.raises(LabelsError, match=r"row 3: has 3 cells, the header 2"):
        read_faces(tmp_path / "labels.csv")


def test_another_encoding_and_a_pipe_are_named(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes("image,age\nü.jpg,3\n".encode("latin-1"))
    with pytest.raises(LabelsError, match="line 2 is not UTF-8"):
        read_faces(tmp_path / "labels.csv")
