"""The benchmark of several pictures, on simulated people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import several_pictures
from export.calibration.labeled_predictions import LabeledPredictions
from runtime.fusion import Spread
from runtime.fusion_file import write_fusion
from tests.export.calibration_examples import write_csv
from tests.runtime.fusion_tables import Row, pivot_tables
from tests.runtime.photo_samples import astronaut
from tests.runtime.tiny_engines import SHA, Tiny, write_engines

SPREAD = Spread(
    (0.025, 0.05, 0.5, 0.95, 0.975),
    {frozenset("a"): np.tile([-10.0, -8.0, 0.0, 8.0, 10.0], (101, 1))},
)


def rows(output: str) -> list[list[str]]:
    lines = [line for line in output.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def people_table(folder: Path, people: int, pictures: int) -> list[str]:
    """Options for people of 10 to 60 whose errors correlate by one half."""
    rng = np.random.default_rng(0)
    ages = np.repeat(rng.uniform(10, 60, people), pictures)
    shared = np.repeat(rng.normal(0, 3, people), pictures)
    predictions = ages + shared + rng.normal(0, 3, people * pictures)
    names = np.char.add("p", np.repeat(np.arange(people), pictures).astype(np.str_))
    faces = LabeledPredictions(ages, ("a",), predictions[:, None], names)
    csv = write_csv(folder / "people.csv", faces)
    write_fusion(folder / "fusion.json", pivot_tables({"a": Row()}, spread=SPREAD))
    return ["--predictions", str(csv), "--fusion", str(folder / "fusion.json"), "--draws", "3"]


def test_more_pictures_have_smaller_errors_and_narrower_intervals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert several_pictures.main(people_table(tmp_path, 60, 8)) == 0
    table = rows(capsys.readouterr().out)
    assert [row[:3] for row in table[-4:]] == [["10 years", "60", str(n)] for n in (1, 2, 4, 8)]
    errors = [float(row[3]) for row in table[-4:]]
    assert errors[0] > 1.15 * errors[-1]
    for column, falls in ((4, False), (5, True), (6, True)):
        widths = [float(row[column].split(", ")[1]) for row in table[-4:]]
        assert (widths[-1] < 0.95 * widths[0]) is falls
    assert float(table[-1][6].split("%")[0]) < float(table[-1][5].split("%")[0])


def test_a_span_without_enough_pictures_of_anybody_has_an_empty_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert several_pictures.main(people_table(tmp_path, 60, 4)) == 0
    table = rows(capsys.readouterr().out)
    assert [row[:3] for row in table[2:5]] == [["4 years", "60", str(n)] for n in (1, 2, 4)]
    assert table[-1] == ["10 years", "0", "8", *["–"] * 5]


def test_the_mean_over_people_is_that_of_their_means() -> None:
    values, people = np.array([1.0, 3.0, 10.0, np.nan]), np.array([0, 0, 1, 2])
    assert several_pictures._by_person(values, people) == 6.0


def test_errors_on_copies_are_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = pivot_tables({"a": Row(source_sha256=SHA)}, spread=SPREAD)
    write_engines(tmp_path, {"a": Tiny()})
    write_fusion(tmp_path / "fusion.json", tables)
    photos = tmp_path / "photos"
    photos.mkdir()
    for age in (20, 70):
        Image.fromarray(astronaut()[:256, 100:356]).save(photos / f"001A{age}.png")
    command = ["--copies", str(photos), "--engines", str(tmp_path)]
    with pytest.warns(match="OpenCV's Haar cascade"):
        assert several_pictures.main(command) == 0
    assert "2 photographs, 6 copies of each: the errors correlate by 0.9" in capsys.readouterr().out


def test_people_with_one_picture_are_too_few(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = LabeledPredictions(np.full(40, 30.0), ("a",), np.linspace(20, 40, 40)[:, None])
    csv = write_csv(tmp_path / "people.csv", faces)
    write_fusion(tmp_path / "fusion.json", pivot_tables({"a": Row()}, spread=SPREAD))
    command = ["--predictions", str(csv), "--fusion", str(tmp_path / "fusion.json")]
    assert several_pictures.main(command) == 2
    assert "too few people with two pictures" in capsys.readouterr().err
