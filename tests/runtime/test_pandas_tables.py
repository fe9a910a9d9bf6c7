"""Data frames of results: the columns of `label`, one row a face, one for what has none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from runtime import (
    AgeEstimate,
    ExpertAge,
    FrameResult,
    ImageError,
    PersonEstimate,
    PhotoFace,
    ResidualQuantiles,
    to_pandas,
)
from runtime.columns import LANDMARKS, is_label_table
from runtime.label_lists import listed_faces
from runtime.label_tables import NO_FACE, LabelingError, table_columns
from runtime.results import Landmarks

if TYPE_CHECKING:
    from runtime.pandas_tables import Result

POINTS: Landmarks = ((1.0, 2.0), (3.0, 2.0), (2.0, 3.0), (1.0, 4.0), (3.0, 4.0))
ONE = AgeEstimate(20.0, {"a": ExpertAge(19.0, 20.0, 1.0)}, {"b": "late"}, notes=("n", "m"))
TWO = AgeEstimate(
    30.0,
    {"a": ExpertAge(31.0, 30.0, 0.5), "c": ExpertAge(29.0, 30.0, 0.5)},
    residuals=ResidualQuantiles((0.05, 0.95), (-5.0, 7.0)),
)
FACES = [
    PhotoFace((1.0, 2.0, 3.0, 4.0), score=0.5, turn=1, landmarks=POINTS, result=TWO),
    PhotoFace((5.0, 2.0, 3.0, 4.0), result=ImageError("bad")),
]
PERSON = PersonEstimate(TWO, (FrameResult(TWO, 1.0),), 1.0, None)


def test_entries_of_all_kinds_are_rows() -> None:
    pandas = pytest.importorskip("pandas")
    entries: list[Result | list[PhotoFace]] = [ONE, FACES, [], ImageError("gone"), PERSON, FACES[0]]
    frame = to_pandas(entries, ["1", Path("2"), "3", "4", "5", "6"])
    columns = table_columns(["a", "b", "c"])
    assert list(frame.columns) == list(columns)[:-1]
    kinds = {str: "string", int: "Int32", float: "float64"}
    assert [str(t) for t in frame.dtypes] == [kinds[t] for t in columns.values()][:-1]
    assert frame["path"].tolist() == ["1", "2", "2", "3", "4", "5", "6"]
    assert frame["face"].fillna(-1).tolist() == [0, 0, 1, -1, -1, 0, 0]
    ages = [20.0, 30.0, None, None, None, 30.0, 30.0]
    expected = pandas.Series(ages, name="age_years", dtype="float64")
    pandas.testing.assert_series_equal(frame["age_years"], expected)
    assert frame["error"].fillna("").tolist() == ["", "", "bad", NO_FACE, "gone", "", ""]
    first, second = frame.iloc[0], frame.iloc[1]
    assert (first["missing"], first["notes"], first["age_a"]) == ("b: late", "n; m", 19.0)
    assert (second["low_years"], second["high_years"], second["age_c"]) == (25.0, 37.0, 29.0)
    assert second[list(LANDMARKS)].tolist() == [number for point in POINTS for number in point]
    assert (second["w"], second["turn"], second["score"]) == (3.0, 1, 0.5)


def test_one_photograph_and_nothing_at_all() -> None:
    pytest.importorskip("pandas")
    assert to_pandas(FACES, ["x.jpg"])["face"].tolist() == [0, 1]
    assert to_pandas(FACES)["path"].isna().all()
    assert len(to_pandas([])) == 0
    assert to_pandas([], [])["age_years"].dtype == "float64"


def test_a_frame_is_a_list_with_its_faces(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    frame = to_pandas([FACES], ["x.jpg"])
    assert is_label_table(frame.columns)
    frame.to_csv(tmp_path / "list.csv", index=False)
    first, _ = listed_faces([str(tmp_path / "list.csv")])[str(tmp_path / "x.jpg")]
    assert (first.box, first.turn, first.landmarks) == ((1.0, 2.0, 3.0, 4.0), 1, POINTS)


def test_what_cannot_be_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    with pytest.raises(ValueError, match="1 paths were given for 2 results"):
        to_pandas([ONE, TWO], ["a"])
    for no_list in (ONE, "a.jpg", [None], ["a.jpg"]):
        with pytest.raises(TypeError, match="takes a list of results, of lists of faces"):
            to_pandas(cast("list[Result]", no_list))
    clash = AgeEstimate(1.0, {"years": ExpertAge(1.0, 1.0, 1.0)})
    with pytest.raises(LabelingError, match="expert years would be the column age_years"):
        to_pandas([clash])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"not installed\. Install agemoe-runtime\[pandas\]"):
        to_pandas([ONE])
