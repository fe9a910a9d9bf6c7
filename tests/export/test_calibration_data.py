from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.calibration.csv_tables import LabelsError
from export.calibration.labeled_predictions import read_predictions
from export.calibration.labels import read_faces
from export.calibration.report import parts_of
from export.calibration.scores import scores_of_tables
from runtime.fusion import FusionTables


def problems_of(path: Path, *experts: str, groups: tuple[str, ...] = ()) -> tuple[str, ...]:
    with pytest.raises(LabelsError) as caught:
        read_predictions(path, experts, groups)
    return caught.value.problems


def table(folder: Path, text: str) -> Path:
    path = folder / "predictions.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_ages_predictions_subjects_and_groups(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "id,age,a,b,subject,group_sex,city,note\n"
        "x,20,21.5,19,ann,f,Bonn,hello\n"
        "y,70,60,75,bob,m,Ulm,there\n\n",
    )
    faces = read_predictions(path, ["b", "a"], ["city"])
    assert faces.names == ("b", "a")
    assert faces.age_years.tolist() == [20.0, 70.0]
    assert faces.predictions_years.tolist() == [[19.0, 21.5], [75.0, 60.0]]
    assert faces.subjects is not None
    assert faces.subjects.tolist() == ["ann", "bob"]
    assert {name: values.tolist() for name, values in faces.groups.items()} == {
        "group_sex": ["f", "m"],
        "city": ["Bonn", "Ulm"],
    }
    assert faces.take(np.array([1])).predictions_years.tolist() == [[75.0, 60.0]]


def test_all_problems_of_rows_are_reported_at_once_with_row_numbers(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "id,age,a,b,c,subject\nx,-1,1,7,,s\nx,20,nan,7,,s\nz,121,3,7,,s\nw,,4,7,,s\n",
    )
    text = "\n".join(problems_of(path, "a", "b", "c"))
    assert "age: outside 0..120 in rows 2, 4" in text
    assert "age: no finite number in row 5; the first is ''" in text
    assert "a: no finite number in row 3; the first is 'nan'" in text
    assert "b: is 7 for every face" in text
    assert "c: no finite number in rows 2, 3, 4, 5" in text
    assert "id: not unique in rows 2, 3; the first is 'x'" in text


def test_empty_subjects_sources_and_groups_are_unknown(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "age,a,subject,source,group_sex\n20,21,,s,f\n30,33,eve,,\n40,44,,s,m\n50,52,eve,t,f\n",
    )
    faces = read_predictions(path, ["a"])
    assert faces.subjects is not None
    people = faces.people
    assert people[1] == people[3]
    assert len(set(people.tolist())) == 3
    assert people.max() == 2
    assert faces.sources is not None
    assert faces.sources.tolist() == ["s", "", "s", "t"]
    assert set(faces.groups) == {"group_sex", "source"}
    scores = scores_of_tables(faces, FusionTables.identity(["a"]))
    parts = parts_of(scores)
    assert {name: int(rows.sum()) for name, rows in parts["group_sex"].items()} == {"f": 2, "m": 1}
    assert {name: int(rows.sum()) for name, rows in parts["source"].items()} == {"s": 2, "t": 1}


def test_another_column_of_sources(tmp_path: Path) -> None:
    path = table(tmp_path, "age,a,source,camera\n20,21,s,x\n30,33,t,y\n")
    found = read_predictions(path, ["a"], sources="camera").sources
    assert found is not None
    assert found.tolist() == ["x", "y"]
    with pytest.raises(LabelsError, match="column 'lens' is missing"):
        read_predictions(path, ["a"], sources="lens")


def test_too_many_sources(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = "".join(f"20,{n},{n}\n" for n in range(21))
    path = table(tmp_path, f"age,a,source\n{rows}")
    assert read_predictions(path, ["a"]).sources is None
    assert "source: 21 different values are too many sources" in caplog.text
    with pytest.raises(LabelsError, match="21 different values are too many sources"):
        read_predictions(path, ["a"], sources="source")


def test_all_problems_of_the_header_are_reported_at_once(tmp_path: Path) -> None:
    path = table(tmp_path, "id,years,a,a\n")
    text = "\n".join(problems_of(path, "a", "b", "b", "mean", groups=("sex",)))
    for expected in (
        "column 'age' is missing; found id, years, a, a",
        "column 'b' is missing",
        "column 'sex' is missing",
        "column 'a' comes twice",
        "expert 'b' was requested twice",
        "an expert cannot be called 'mean'",
        "only a header",
    ):
        assert expected in text


def test_long_lists_of_rows_are_truncated(tmp_path: Path) -> None:
    rows = "".join(f"200,{n}\n" for n in range(40))
    (problem,) = problems_of(table(tmp_path, f"age,a\n{rows}"), "a")
    assert "12, 13 and 28 more; the first is '200'" in problem


def test_a_group_with_too_many_values_is_an_error(tmp_path: Path) -> None:
    rows = "".join(f"20,{n},{n}\n" for n in range(300))
    (problem,) = problems_of(table(tmp_path, f"age,a,name\n{rows}"), "a", groups=("name",))
    assert "300 different values" in problem


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path / "none.csv", "a")
    assert "cannot be read" in problem


def pictures(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("name", "age", "subject", "groups"),
    [
        ("16_AlbertEinstein_59_m.jpg", 59.0, "AlbertEinstein", {"gender": "male"}),
        ("7_Mary_Ann_8_f.JPG", 8.0, "Mary_Ann", {"gender": "female"}),
        (
            "25_0_1_20170116174525125.jpg.chip.jpg",
            25.0,
            None,
            {"gender": "male", "race": "black"},
        ),
        ("61_1_20170109142408075.jpg", 61.0, None, {"gender": "female"}),
        ("001A02.JPG", 2.0, "001", {}),
        ("sub/082A43b.jpg", 43.0, "082", {}),
        ("07381A80.jpg", 80.0, "07381", {}),
    ],
)
def test_layouts_of_folders_are_detected(
    tmp_path: Path, name: str, age: float, subject: str | None, groups: dict[str, str]
) -> None:
    pictures(tmp_path, name, "readme.txt")
    (face,) = read_faces(tmp_path)
    assert (face.name, face.age_years, face.subject, face.groups) == (name, age, subject, groups)
    assert face.path == tmp_path / name


def test_all_pictures_with_other_names_are_reported(tmp_path: Path) -> None:
    pictures(tmp_path, "001A02.JPG", "002A200.JPG", "holiday.jpg")
    with pytest.raises(LabelsError) as caught:
        read_faces(tmp_path)
    assert len(caught.value.problems) == 2
    assert "'200' is no number within 0..120" in str(caught.value)
    assert "holiday.jpg: is not a name of the layout fgnet" in str(caught.value)


def test_a_folder_without_labels_is_an_error_with_a_cure(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match=r"there are none\. Give a CSV"):
        read_faces(tmp_path)
    pictures(tmp_path, "holiday.jpg")
    with pytest.raises(LabelsError, match="the first of 1 is 'holiday'"):
        read_faces(tmp_path)


def test_caf_lists_are_read(tmp_path: Path) -> None:
    pictures(tmp_path, "a/1.jpg", "a/2.jpg")
    source = tmp_path / "caf.txt"
    source.write_text("17 a/1.jpg 34 1\n\n17 a/2.jpg 36 0\n", encoding="utf-8")
    first, second = read_faces(source)
    assert (first.subject, first.age_years, first.groups) == ("17", 34.0, {"gender": "male"})
    assert (second.name, second.groups) == ("a/2.jpg", {"gender": "female"})


def test_problems_of_a_caf_list_are_reported_with_line_numbers(tmp_path: Path) -> None:
    source = tmp_path / "caf.txt"
    source.write_text("17 gone.jpg 34 1\n18 short\n", encoding="utf-8")
    with pytest.raises(LabelsError) as caught:
        read_faces(source)
    assert "line 1: picture 'gone.jpg' does not exist" in str(caught.value)
    assert "line 2: is not `id filename age gender`" in str(caught.value)


def test_a_csv_is_read_by_its_own_column_names(tmp_path: Path) -> None:
    pictures(tmp_path, "1.jpg")
    source = tmp_path / "faces.csv"
    source.write_text("Datei,Alter,who,ort\n\n1.jpg,12, eve ,Ulm\n", encoding="utf-8")
    columns = {"path": "Datei", "age": "Alter", "subject": "who"}
    (face,) = read_faces(source, "auto", columns)
    assert (face.age_years, face.subject, face.groups) == (12.0, "eve", {})
    (face,) = read_faces(source, "auto", columns, ["ort"])
    assert face.groups == {"ort": "Ulm"}
    with pytest.raises(LabelsError, match="column 'land' is missing; found Datei, Alter"):
        read_faces(source, "auto", columns, ["land"])
    with pytest.raises(LabelsError, match="column 'path' is missing; found Datei, Alter"):
        read_faces(source)


def test_labels_of_names_can_be_chosen_as_groups(tmp_path: Path) -> None:
    pictures(tmp_path, "25_0_1_20170116174525125.jpg")
    (face,) = read_faces(tmp_path, groups=["race"])
    assert face.groups == {"race": "black"}
    with pytest.raises(LabelsError, match="has no label city to group by; has gender, race"):
        read_faces(tmp_path, groups=["city"])


def test_subject_and_source_of_a_picture_may_be_empty(tmp_path: Path) -> None:
    pictures(tmp_path, "1.jpg", "2.jpg")
    source = tmp_path / "faces.csv"
    source.write_text("path,age,subject,source\n1.jpg,12,,\n2.jpg,13,eve,s\n", encoding="utf-8")
    first, second = read_faces(source)
    assert (first.subject, first.source) == (None, None)
    assert (second.subject, second.source) == ("eve", "s")


def test_a_picture_listed_twice_is_an_error(tmp_path: Path) -> None:
    pictures(tmp_path, "1.jpg")
    source = tmp_path / "faces.csv"
    source.write_text("image,age\n1.jpg,12\n1.jpg,13\n", encoding="utf-8")
    with pytest.raises(LabelsError, match=r"picture '1\.jpg' is listed twice"):
        read_faces(source)


def test_other_spellings_of_a_name_are_the_same_picture(tmp_path: Path) -> None:
    pictures(tmp_path, "1.jpg")
    source = tmp_path / "faces.csv"
    same = f"{tmp_path}/1.jpg"
    source.write_text(f"image,age\n1.jpg,12\n./1.jpg,13\n{same},14\n", encoding="utf-8")
    rows = r"row 2 \(age 12\), row 3 \(age 13\), row 4 \(age 14\)"
    with pytest.raises(LabelsError, match=rf"picture '1\.jpg' is listed twice: {rows}"):
        read_faces(source)


def test_a_column_that_comes_twice_is_an_error(tmp_path: Path) -> None:
    pictures(tmp_path, "1.jpg")
    source = tmp_path / "faces.csv"
    source.write_text("image,age,note,note,age\n1.jpg,12,a,b,50\n", encoding="utf-8")
    with pytest.raises(LabelsError, match=r"has 1 problem:\n- column 'age' comes twice"):
        read_faces(source)


def test_an_open_quote_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "faces.csv"
    source.write_text('image,age\n"1.jpg,12\n' + "2.jpg,13\n" * 600, encoding="utf-8")
    with pytest.raises(LabelsError, match=r"row 2: picture '1\.jpg,12"):
        read_faces(source)
