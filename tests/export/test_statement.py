"""`evaluate.py --statement`: a page for buyers, its figures, and what it says was not tested."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export import evaluate
from export.calibration.labeled_predictions import LabeledPredictions
from export.calibration.markdown_text import plain
from export.calibration.report import ReportOptions
from export.calibration.scores import scores_of_tables
from export.calibration.statement import figures_of_statement
from runtime import read_policy
from runtime.fusion import FusionTables
from runtime.fusion_file import read_fusion, write_fusion
from runtime.manifest_file import read_manifest
from runtime.quality import QualityLimits
from tests.export.calibration_examples import write_csv
from tests.runtime.fusion_tables import Row, pivot_tables
from tests.runtime.tiny_engines import Tiny, write_engines

GOLDEN = Path(__file__).parent / "cases" / "statement.md"
OPTIONS = ReportOptions(resamples=100)
HOSTILE = "x|y`**<script>[a](b)\n# top\u202e"


def people(count: int = 400, per_person: int = 2, seed: int = 3) -> LabeledPredictions:
    """People of 8 to 40 with one expert, two groups, sources and the distance of their eyes."""
    random = np.random.default_rng(seed)
    ages = np.repeat(random.integers(8, 41, count // per_person), per_person).astype(float)
    subjects = np.repeat(np.char.add("p", np.arange(count // per_person).astype(str)), per_person)
    sexes = np.where(np.arange(count) // per_person % 3 == 0, "female", "male")
    regions = np.array(["north", "south", ""])[np.arange(count) // per_person % 7 % 3]
    sources = np.where(np.arange(count) // per_person % 2 == 0, "web", "booth")
    years = np.round(ages + random.normal(0.0, 5.0, count), 1)
    return LabeledPredictions(
        ages,
        ("a",),
        years[:, None],
        subjects,
        {"sex": sexes, "region": regions, "source": sources},
        sources,
        {"inter_eye_pixels": np.round(random.uniform(8.0, 120.0, count))},
    )


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("runtime.__version__", "1.2.3")
    return write_folder(tmp_path / "engines")


def write_folder(folder: Path, kind: str = "checkpoint") -> Path:
    write_engines(folder, {"a": Tiny(kind=kind, license="MIT")})
    tables = pivot_tables({"a": Row()}, provenance={"data": "fitted.csv", "faces": 90})
    write_fusion(folder / "fusion.json", tables)
    return folder


def given(faces: LabeledPredictions, engines: Path, name: str = "new.csv") -> list[str]:
    table = write_csv(engines.parent / name, faces)
    options = ["--predictions", str(table), "--engines", str(engines), "--bootstrap", "100"]
    return [*options, "--fusion", str(engines / "fusion.json"), "--groups", *faces.groups]


def page_of(faces: LabeledPredictions, engines: Path, *options: str, name: str = "new.csv") -> str:
    page = engines.parent / "statement.md"
    assert evaluate.main([*given(faces, engines, name), "--statement", str(page), *options]) == 0
    return page.read_text(encoding="utf-8")


def test_the_page_of_a_small_case_is_known(engines: Path) -> None:
    """After a change that is meant, read the difference and replace the file."""
    faces = people()
    fit = [
        "--policy",
        "--challenge",
        "25",
        "--max-false-positive",
        "0.3",
        "--without-claim",
        "--min-inter-eye",
        "16",
    ]
    assert evaluate.main([*given(faces, engines), *fit]) == 0
    page = page_of(faces, engines, "--challenge", "21", "--date", "2026-11-27")
    assert page == page_of(faces, engines, "--challenge", "21", "--date", "2026-11-27")
    # Hashes change with the made-up networks; what is shown of them is tested elsewhere.
    assert re.sub(r"`[0-9a-f]{16,64}`", "`…`", page) == GOLDEN.read_text(encoding="utf-8")


def test_versions_and_hashes_are_shown(engines: Path) -> None:
    assert evaluate.main([*given(people(), engines), "--policy", "--challenge", "25"]) == 0
    page = page_of(people(), engines)
    policy, manifest = read_policy(engines), read_manifest(engines)
    fusion = read_fusion(engines / "fusion.json")
    expert = manifest.experts["a"]
    for found in (policy.id, expert.source.sha256, expert.fingerprint, fusion.sha256):
        assert f"`{found}`" in page.partition("## 7. Versions")[2]
    assert "license MIT" in page


def test_figures_are_those_of_a_count_by_hand() -> None:
    faces = people()
    scores = scores_of_tables(faces, FusionTables.identity(["a"]))
    limits = QualityLimits(min_inter_eye_pixels=30)
    found = figures_of_statement(scores, OPTIONS, limits=limits)
    ages, years = faces.age_years, np.clip(faces.predictions_years[:, 0], 0.0, 100.0)
    assert found.people == 200
    for name, cells in found.groups.items():
        column, _, value = name.partition("=")
        rows = faces.groups[column] == value if value else ages >= 0
        for band, cell in zip(("0-999", *found.bands), cells, strict=True):
            low, high = (int(year) for year in band.split("-"))
            part = rows & (ages >= low) & (ages <= high)
            assert cell.people == len(set(faces.subjects[part]))  # type: ignore[index]
            if cell.mae_years is not None:
                assert cell.mae_years == pytest.approx(np.abs(years - ages)[part].mean())
                assert cell.people >= 10
    both = found.combined["female, north"][0]
    part = (faces.groups["sex"] == "female") & (faces.groups["region"] == "north")
    assert both.people == len(set(faces.subjects[part]))  # type: ignore[index]
    assert "female, not labeled" in found.combined
    (rates,) = found.rates
    assert (rates.threshold, rates.challenge) == (18.0, 25.0)
    accepted = faces.quality["inter_eye_pixels"] >= 30
    assert found.refused == (~accepted).sum()
    for rate in (*rates.younger, *rates.older):
        column, _, value = rate.group.partition("=")
        if not value and rate.group != "all":
            continue
        rows = faces.groups[column] == value if value else ages >= 0
        passing = accepted & (years >= 25)
        young = rate in rates.younger
        side = rows & (ages < 18 if young else ages >= 18)
        wrong = side & (passing if young else ~passing)
        assert rate.people == len(set(faces.subjects[side]))  # type: ignore[index]
        assert rate.events == len(set(faces.subjects[wrong]))  # type: ignore[index]
    before = rates.without_limits
    assert before is not None
    free = (ages < 18) & (years >= 25)
    assert before[0] is not None
    assert before[0].events == len(set(faces.subjects[free]))  # type: ignore[index]
    assert rates.worst is not None
    grouped = [rate for rate in rates.younger if "=" in rate.group]
    assert rates.worst.high == max(rate.high for rate in grouped)
    assert sum(one.faces for one in found.bins) == len(faces)


def test_without_a_policy_the_page_says_so(engines: Path) -> None:
    page = page_of(people(), engines)
    assert "**No policy was fitted:**" in page
    assert "rate, challenge 25" in page  # 7 years above the threshold
    assert "policy: none" in page
    assert "No limits are set" in page
    assert "Date:" not in page
    page = page_of(people(), engines, "--thresholds", "16", "18", "--challenge", "17", "20")
    assert "is this person 16 or older?" in page
    assert "rate, challenge 17 | pass, challenge 20 |" in page
    assert page.count("rate, challenge 17") == 2  # below the threshold of 18


def test_hostile_names_are_shown_and_do_nothing_else(engines: Path) -> None:
    faces = people()
    values = np.where(np.arange(len(faces)) % 4 < 2, HOSTILE, "")
    groups = {"sex": faces.groups["sex"], "odd|`<b>\u202e": values}
    page = page_of(replace(faces, groups=groups, sources=None), engines, name="<i>|`x`.csv")
    assert "\u202e" not in page
    assert not re.search(r"(?<!\\)<", page)
    assert "# top" not in [line.strip() for line in page.splitlines()]
    assert plain("<i>|`x`.csv") in page
    for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        pipes = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(pipes) == 1
    backticks = re.sub(r"\\`", "", page)
    assert backticks.count("`") % 2 == 0


def test_small_counts_are_never_rounded_to_nothing(engines: Path) -> None:
    faces = people(40)
    years = np.where(faces.age_years < 18, 10.0, 30.0)
    years[0] += 0.1
    page = page_of(replace(faces, predictions_years=years[:, None]), engines)
    assert "none; at most" in page
    assert not re.search(r"(?<![\d.])0(\.0+)? %", page)
    assert "(few)" in page
    assert re.search(r"\| \(\d\) \|", page)  # too few people for a mean


@pytest.mark.parametrize("keep", ["younger", "older"])
def test_people_of_one_side_only(engines: Path, keep: str) -> None:
    faces = people()
    faces = faces.take((faces.age_years < 18) == (keep == "younger"))
    page = page_of(faces, engines)
    assert "unknown, as there are no photographs of them" in page
    assert "There are no such people." in page
    assert "for lack of faces: all." in page


def test_warnings_stand_at_the_top(engines: Path) -> None:
    page = page_of(people(), engines, name="fitted.csv")
    assert page.index("**Warning: The fusion tables may have been fitted on some") < page.index(
        "In short"
    )
    assert "placeholders" not in page
    demo = write_folder(engines.parent / "demo" / "engines", kind="demo")
    page = page_of(people(), demo)
    assert page.index("**These networks are placeholders") < page.index("In short")


def test_a_policy_that_the_faces_do_not_support_is_named(engines: Path) -> None:
    faces = people()
    fit = ["--policy", "--challenge", "19", "--max-false-positive", "0.01", "--without-claim"]
    assert evaluate.main([*given(faces, engines), *fit]) == 0
    page = page_of(faces, engines, name="other.csv")
    assert "it is **not** shown to be kept" in page
    groups = "source booth, source web, sex female, sex male, region north, region south"
    assert f"not** shown for these groups by themselves: {groups}." in page
    assert "on data of the same name" not in page
    assert "on data of the same name" in page_of(faces, engines)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--policy"], "in a run of its own"),
        (["--json"], "--json belongs to a report"),
        (["--output", "x"], "--output belongs to a report"),
        (["--correlation", "x.json"], "--correlation belongs to a report"),
        (["--date", "27.11.2026"], "must be a day"),
        (["--challenge", "17"], "no --challenge reaches the threshold 18"),
        (["--thresholds", "21"], "is for the threshold 18: --thresholds 21 is not"),
        (["--min-inter-eye", "20"], "has other limits on quality"),
        (["--min-inter-eye", "16", "--date", "x"], "must be a day"),
    ],
)
def test_options_that_contradict_each_other(
    engines: Path, capsys: pytest.CaptureFixture[str], options: list[str], part: str
) -> None:
    faces = people()
    fit = ["--policy", "--challenge", "25", "--min-inter-eye", "16"]
    assert evaluate.main([*given(faces, engines), *fit]) == 0
    page = engines.parent / "page.md"
    assert evaluate.main([*given(faces, engines), "--statement", str(page), *options]) == 2
    assert part in capsys.readouterr().err
    assert not page.exists()


def test_a_date_alone_belongs_to_nothing(engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([*given(people(), engines), "--date", "2026-11-27"]) == 2
    assert "--date belongs to --statement" in capsys.readouterr().err


def test_a_policy_of_other_engines_is_refused(
    engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = people()
    assert evaluate.main([*given(faces, engines), "--policy", "--challenge", "25"]) == 0
    tables = pivot_tables({"a": Row(1.0)})
    write_fusion(engines / "fusion.json", tables)
    page = engines.parent / "page.md"
    assert evaluate.main([*given(faces, engines), "--statement", str(page)]) == 2
    assert "fitted with other fusion tables" in capsys.readouterr().err
    assert not page.exists()
