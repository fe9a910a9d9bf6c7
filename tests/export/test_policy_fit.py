"""`evaluate.py --policy`: from labeled faces to policy.json, or a refusal that says why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from export import evaluate
from export.calibration.challenge import upper_bound
from export.calibration.fitted_faces import fingerprints
from export.calibration.labeled_predictions import LabeledPredictions, read_predictions
from runtime import AgeMoE, read_policy
from runtime.fusion_file import write_fusion
from runtime.quality import QualityLimits
from tests.export.calibration_examples import write_csv
from tests.runtime.fusion_tables import Row, pivot_tables
from tests.runtime.tiny_engines import Tiny, write_engines

MANY = 320


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    folder = tmp_path / "engines"
    write_engines(folder, {"a": Tiny()})
    tables = pivot_tables({"a": Row()}, provenance={"data": "fitted.csv", "faces": 90})
    write_fusion(folder / "fusion.json", tables)
    return folder


def labeled(folder: Path, younger: int = MANY, name: str = "new.csv") -> Path:
    """People of 15 estimated 15, but one at 26.2, and people of 30 estimated 22 to 38."""
    ages = np.repeat([15.0, 30.0], [younger, 100])
    years = np.concatenate([np.full(younger, 15.0), np.linspace(22.0, 38.0, 100)])
    years[0] = 26.2
    sexes = np.where(np.arange(len(ages)) % 16 == 1, "f", "m")
    return write_csv(
        folder / name, LabeledPredictions(ages, ("a",), years[:, None], None, {"sex": sexes})
    )


def run(table: Path, engines: Path, *options: str) -> int:
    fusion = str(engines / "fusion.json")
    given = ["--predictions", str(table), "--fusion", fusion, "--engines", str(engines)]
    return evaluate.main([*given, "--policy", *options])


def test_the_smallest_challenge_age_is_written_and_bound(
    tmp_path: Path, engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(labeled(tmp_path), engines) == 0
    page = capsys.readouterr().out
    policy = read_policy(engines)
    assert (policy.threshold, policy.challenge) == (18.0, 26.5)  # nobody younger above 26.2
    assert (policy.max_false_positive, policy.confidence) == (0.01, 0.95)
    assert policy.evidence is not None
    assert policy.evidence.claimed
    assert policy.evidence.bound == pytest.approx(upper_bound(0, MANY))
    assert policy.evidence.older[0].events == (np.linspace(22.0, 38.0, 100) < 26.5).sum()
    assert f"policy {policy.id}" in page
    assert "under the limit of 1 %" in page
    assert "NOT" not in page
    with AgeMoE(engines) as moe:
        assert policy.binding == moe.binding


def test_names_of_groups_are_printed_as_text(
    tmp_path: Path, engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ages = np.repeat([15.0, 30.0], 20)
    groups = {"sex": np.full(len(ages), "x|y\u202e\n# top")}
    faces = LabeledPredictions(ages, ("a",), ages[:, None], None, groups)
    options = ["--challenge", "25", "--groups", "sex"]
    assert run(write_csv(tmp_path / "<b>.csv", faces), engines, *options) == 0
    page = capsys.readouterr().out
    assert "\u202e" not in page
    assert "\n# top" not in page
    assert r"| sex=x\|y\\u202e\\n# top | 20 | 0 |" in page
    assert r"people like those in \<b\>.csv" in page


def test_a_wider_limit_gives_a_lower_challenge_age(tmp_path: Path, engines: Path) -> None:
    assert run(labeled(tmp_path), engines, "--max-false-positive", "0.02", "--floor", "10") == 0
    policy = read_policy(engines)
    assert policy.challenge == 18.0  # 1 of 320 is under 2 %
    assert policy.evidence is not None
    assert policy.evidence.failed is not None
    assert (policy.floor, policy.evidence.failed.events) == (10.0, 0)


@pytest.mark.parametrize(
    ("options", "younger", "parts"),
    [
        ((), 298, ["No challenge age up to 58", "all has 298; at least 299"]),
        (("--groups", "sex"), MANY, ["sex=f has 20", "sex=m has 300"]),
        (("--challenge", "20", "--max-false-positive", "0.01"), MANY, ["--without-claim"]),
        (
            ("--youngest", "16"),
            MANY,
            ["people of 16 or more years, but younger than 18: all has 0"],
        ),
    ],
)
def test_too_few_faces_write_nothing(
    tmp_path: Path,
    engines: Path,
    capsys: pytest.CaptureFixture[str],
    options: Sequence[str],
    younger: int,
    parts: Sequence[str],
) -> None:
    assert run(labeled(tmp_path, younger), engines, *options) == 2
    message = capsys.readouterr().err
    assert "Nothing was written" in message
    for part in parts:
        if part != "sex=m has 300":  # enough people are not named
            assert part in message
        else:
            assert part not in message
    assert not (engines / "policy.json").exists()


def test_a_policy_without_its_claim_says_so(
    tmp_path: Path, engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--challenge", "20", "--max-false-positive", "0.01", "--without-claim"]
    assert run(labeled(tmp_path), engines, *options) == 0
    assert "That is NOT under the limit of 1 %" in capsys.readouterr().out
    policy = read_policy(engines)
    assert policy.evidence is not None
    assert not policy.evidence.claimed
    assert policy.evidence.younger[0].events == 1


def test_a_given_challenge_age_is_measured(
    tmp_path: Path, engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(labeled(tmp_path, 50), engines, "--challenge", "25", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    policy = read_policy(engines)
    assert (shown["id"], shown["challenge"]) == (policy.id, 25.0)
    assert policy.max_false_positive is None
    assert policy.evidence is not None
    assert policy.evidence.bound == pytest.approx(upper_bound(1, 50))


def test_faces_of_the_fit_are_warned_of(
    tmp_path: Path, engines: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(labeled(tmp_path), engines) == 0
    assert "same name" not in caplog.text
    assert run(labeled(tmp_path, name="fitted.csv"), engines) == 0
    assert "data with the same name, fitted.csv" in caplog.text


def test_faces_of_the_fit_are_stated_in_the_policy(
    tmp_path: Path, engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = labeled(tmp_path)
    seen = fingerprints(read_predictions(table, ["a"]).take(np.arange(-40, 0)))
    tables = pivot_tables({"a": Row()}, provenance={"fitted_faces": seen})
    write_fusion(engines / "fusion.json", tables)
    assert run(table, engines) == 0
    assert "were fitted on 40 of these" in capsys.readouterr().out
    evidence = read_policy(engines).evidence
    assert evidence is not None
    assert "(the tables were fitted on 40 of its" in evidence.data


def test_tables_that_are_not_in_use_are_refused(
    tmp_path: Path, engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.json"
    write_fusion(other, pivot_tables({"a": Row(1.0)}))
    options = ["--predictions", str(labeled(tmp_path)), "--engines", str(engines), "--policy"]
    assert evaluate.main([*options, "--fusion", str(other)]) == 2
    assert "must be the tables in use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--max-false-positive", "0.01"], "--max-false-positive belong to --policy"),
        (["--without-claim"], "--without-claim belong to --policy"),
        (["--policy", "--challenge", "25", "30"], "at most one --challenge"),
        (["--policy", "--thresholds", "16", "18"], "takes one --thresholds"),
        (["--policy", "--challenge", "17"], "must be at least the threshold 18"),
        (["--policy", "--max-false-positive", "0"], "must lie within"),
        (["--policy", "--max-false-positive", "nan"], "must lie within"),
        (["--policy", "--youngest", "18"], "below the threshold"),
        (["--policy", "--floor", "19"], "the threshold"),
        (["--policy", "--output", "x"], "--output belongs to a report"),
        (["--policy", "--correlation", "x.json"], "--correlation belongs to a report"),
    ],
)
def test_options_that_contradict_each_other(
    tmp_path: Path,
    engines: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    part: str,
) -> None:
    fusion = str(engines / "fusion.json")
    given = ["--predictions", str(labeled(tmp_path)), "--fusion", fusion]
    assert evaluate.main([*given, "--engines", str(engines), *options]) == 2
    assert part in capsys.readouterr().err


def with_eyes(folder: Path) -> Path:
    """The labeled people; all younger ones, and a fifth of the older ones, are far away."""
    ages = np.repeat([15.0, 30.0], [MANY, 100])
    years = np.concatenate([np.full(MANY, 28.0), np.linspace(22.0, 38.0, 100)])
    years[-1] = 9.0
    eyes = np.where(np.arange(len(ages)) < MANY, 10.0, 40.0)
    eyes[-20:] = 10.0
    quality = {"inter_eye_pixels": eyes}
    faces = LabeledPredictions(ages, ("a",), years[:, None], quality=quality)
    return write_csv(folder / "eyes.csv", faces)


def test_faces_below_the_quality_limits_count_as_referred(
    tmp_path: Path, engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--challenge", "25", "--floor", "12"]
    assert run(with_eyes(tmp_path), engines, *options) == 0
    free = read_policy(engines)
    assert free.quality is None
    assert run(with_eyes(tmp_path), engines, *options, "--min-inter-eye", "16") == 0
    limited = read_policy(engines)
    assert limited.quality == QualityLimits(min_inter_eye_pixels=16.0)
    assert limited.id != free.id
    assert free.evidence is not None
    assert limited.evidence is not None
    assert (free.evidence.younger[0].events, limited.evidence.younger[0].events) == (MANY, 0)
    years = np.append(np.linspace(22.0, 38.0, 100)[:-1], 9.0)
    passing = years >= 25
    assert free.evidence.older[0].events == (~passing).sum()
    assert limited.evidence.older[0].events == (~passing | (np.arange(100) >= 80)).sum()
    assert free.evidence.failed is not None
    assert limited.evidence.failed is not None
    assert free.evidence.failed.events == 1
    assert (limited.evidence.failed.events, limited.evidence.failed.people) == (0, 100)
    assert "distance between the eyes at least 16 pixels" in capsys.readouterr().out


def test_quality_limits_of_a_policy_need_quality(
    tmp_path: Path, engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(labeled(tmp_path), engines, "--challenge", "25", "--min-inter-eye", "16") == 2
    assert "there is no quality to limit" in capsys.readouterr().err
    assert not (engines / "policy.json").exists()
