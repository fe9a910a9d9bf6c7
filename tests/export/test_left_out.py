"""Sources that are left out of the fit, against a brute-force twin."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import calibrate
from export.calibration.csv_tables import LabelsError
from export.calibration.fit import fit_fusion, keep_fusion
from export.calibration.intervals import quantile_table
from export.calibration.labeled_predictions import LabeledPredictions, write_predictions
from export.calibration.left_out import (
    LeftOut,
    Robust,
    check_sources,
    leave_sources_out,
    left_out_report,
)
from export.calibration.markdown import markdown
from export.calibration.report import ReportOptions, report_of
from export.calibration.scores import Scores, scores_of_calibration
from runtime.fusion import Floats, FusionTables
from runtime.fusion_file import read_fusion
from runtime.results import AgeEstimate
from tests.export.calibration_examples import fewer_splits, made_up

SHIFTS = {"north": 0.0, "south": 9.0, "west": -4.0}
"""Years by which the experts are wrong on all faces of a source."""
OPTIONS = ReportOptions(resamples=100)


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with fewer_splits():
        yield


@cache
def shifted() -> LabeledPredictions:
    """180 faces of three sources, on each of which all experts err in a way of its own."""
    faces = made_up(180, seed=3)
    sources = np.array(list(SHIFTS))[np.arange(180) % 3]
    shift = np.array([SHIFTS[source] for source in sources])
    return replace(
        faces, predictions_years=faces.predictions_years + shift[:, None], sources=sources
    )


FITTED: dict[bytes, FusionTables] = {}


def refit(faces: LabeledPredictions) -> FusionTables:
    """Fits; once for the same numbers, whoever asks."""
    content = faces.age_years.tobytes() + faces.predictions_years.tobytes()
    if content not in FITTED:
        FITTED[content] = fit_fusion(faces, form="tables", quiet=True).tables
    return FITTED[content]


@cache
def calibrated() -> tuple[FusionTables, LeftOut]:
    return refit(shifted()), leave_sources_out(shifted(), refit)


def report(tables: FusionTables, robust: Robust | None = None) -> dict[str, Any]:
    return left_out_report(calibrated()[1], OPTIONS, tables, robust)


def intervals(tables: FusionTables, faces: LabeledPredictions) -> tuple[Floats, Floats, Floats]:
    """Fused ages and interval ends, face by face through the runtime's own estimates."""
    fused = tables.fuse(faces.names, faces.predictions_years).age_years
    found = []
    for age in fused.tolist():
        residuals = tables.residuals_at(frozenset(faces.names), age)
        found.append(AgeEstimate(age, {}, residuals=residuals).interval(0.9))
    low, high = np.array(found).T
    return fused, low, high


def test_figures_of_left_out_sources_equal_a_fit_on_the_other_rows() -> None:
    faces = shifted()
    found = report(calibrated()[0])["sources"]
    assert set(found) == set(SHIFTS)
    assert faces.sources is not None
    for source in SHIFTS:
        rows = [row for row in range(len(faces)) if faces.sources[row] != source]
        others = LabeledPredictions(
            faces.age_years[rows], faces.names, faces.predictions_years[rows]
        )
        held = faces.take(faces.sources == source)
        fused, low, high = intervals(refit(others), held)
        section = found[source]
        assert section["faces"] == 60
        assert section["mae"]["fused"] == pytest.approx(np.abs(fused - held.age_years).mean())
        covered = (held.age_years >= low) & (held.age_years <= high)
        assert section["coverage"]["90"] == pytest.approx(covered.mean())
        assert section["interval_width_years"]["90"] == pytest.approx((high - low).mean())


def test_a_source_that_differs_is_covered_less_and_robust_intervals_cover_every_source() -> None:
    tables, left_out = calibrated()
    robust = Robust.of(tables, left_out)
    found = report(robust.tables(tables), robust)
    ordinary = {name: section["coverage"]["90"] for name, section in found["sources"].items()}
    wide = {name: section["robust"]["coverage"]["90"] for name, section in found["sources"].items()}
    assert min(ordinary.values()) < 0.85
    assert min(wide.values()) >= 0.9
    assert min(wide.values()) <= 0.95  # no wider than the source in need requires
    assert found["robust_share"] == robust.share
    page = markdown({**report_of(scores(), OPTIONS), "left_out": found}, "Report", [], [])
    assert "## When a source is new" in page
    assert "covered, robust" in page
    plain = markdown({**report_of(scores(), OPTIONS), "left_out": report(tables)}, "R", [], [])
    assert "`--robust source` widens the intervals" in plain
    assert "covered, robust" not in plain


@cache
def scores() -> Scores:
    return scores_of_calibration(shifted(), fit_fusion(shifted(), form="tables", quiet=True))


def test_the_share_is_the_smallest_that_covers_by_trying_all() -> None:
    tables, left_out = calibrated()
    robust = Robust.of(tables, left_out)
    faces, names = shifted(), frozenset(shifted().names)
    assert tables.spread is not None
    assert faces.sources is not None
    ordinary, levels = tables.spread.quantiles_years[names], tables.spread.levels
    low, high = levels.index(0.05), levels.index(0.95)
    of_sources = []
    for source in SHIFTS:
        held = faces.take(faces.sources == source)
        without = refit(faces.take(faces.sources != source))
        fused = without.fuse(held.names, held.predictions_years).age_years
        of_sources.append(
            (fused, held.age_years, quantile_table(fused, held.age_years - fused, levels))
        )
    outer_low = np.min([ordinary[:, low], *(table[:, low] for *_, table in of_sources)], axis=0)
    outer_high = np.max([ordinary[:, high], *(table[:, high] for *_, table in of_sources)], axis=0)

    def least_covered(share: float) -> int:
        """Faces that are covered in the source with the fewest of them."""
        counts = []
        for fused, ages, _ in of_sources:
            ends = [
                np.interp(fused, tables.age_grid, (1 - share) * inner + share * outer)
                for inner, outer in ((ordinary[:, low], outer_low), (ordinary[:, high], outer_high))
            ]
            counts.append(int(((ages - fused >= ends[0]) & (ages - fused <= ends[1])).sum()))
        return min(counts)

    needed = 55  # of 60: the 90 % of 61 faces, rounded up
    tried = next(s for s in np.arange(0.0, 1.0005, 0.0005) if least_covered(s) >= needed)
    assert 0.05 < tried < 1.0
    assert robust.share == pytest.approx(tried, abs=0.0006)
    written = robust.tables(tables).spread
    assert written is not None
    twin = ordinary[:, high] + robust.share * (outer_high - ordinary[:, high])
    assert written.quantiles_years[names][:, high] == pytest.approx(twin, abs=0.0006)
    assert written.quantiles_years[names][:, levels.index(0.5)] == pytest.approx(
        ordinary[:, levels.index(0.5)], abs=0.0006
    )


def test_robust_quantiles_do_not_cross_and_are_never_narrower() -> None:
    tables, left_out = calibrated()
    wide = Robust.of(tables, left_out).tables(tables)
    assert tables.spread is not None
    assert wide.spread is not None
    assert set(wide.spread.quantiles_years) == set(tables.spread.quantiles_years)
    for names, table in wide.spread.quantiles_years.items():
        assert (np.diff(table, axis=1) >= 0.0).all()
        ordinary = tables.spread.quantiles_years[names]
        assert (table[:, 0] <= ordinary[:, 0] + 0.001).all()
        assert (table[:, -1] >= ordinary[:, -1] - 0.001).all()


def test_robust_held_out_scores_equal_the_ordinary_ones_widened() -> None:
    tables, left_out = calibrated()
    robust, plain = Robust.of(tables, left_out), scores()
    wide = robust.scores(plain, tables.age_grid)
    assert plain.quantiles is not None
    assert wide.quantiles is not None
    low, high = wide.interval(wide.quantiles, 0.9)
    inner = plain.interval(plain.quantiles, 0.9)
    assert ((low <= inner[0]) & (high >= inner[1])).all()
    assert (high - low).mean() > (inner[1] - inner[0]).mean() + 1.0


def test_unknown_and_small_sources_stay_in_every_fit() -> None:
    faces = shifted()
    assert faces.sources is not None
    sources = faces.sources.copy()
    sources[:12], sources[12:18] = "", "tiny"
    sizes = []

    def counted(rest: LabeledPredictions) -> FusionTables:
        assert rest.sources is not None
        assert (rest.sources == "").sum() == 12
        assert (rest.sources == "tiny").sum() == 6
        sizes.append(len(rest))
        return calibrated()[0]

    found = leave_sources_out(replace(faces, sources=sources), counted)
    assert set(found.sources) == set(SHIFTS)
    assert sum(sizes) == 3 * 180 - 162
    assert found.skipped == {"tiny": "it has 6 faces, and 30 are required"}


def test_people_of_a_left_out_source_are_left_out_everywhere() -> None:
    faces = shifted()
    assert faces.sources is not None
    subjects = np.where(np.arange(180) < 6, "eve", "")
    rests = []

    def counted(rest: LabeledPredictions) -> FusionTables:
        rests.append(rest)
        return calibrated()[0]

    leave_sources_out(replace(faces, subjects=subjects), counted)
    for rest in rests:
        assert rest.subjects is not None
        assert "eve" not in rest.subjects
        assert len(rest) == 120 - 4


def test_one_source_is_too_few(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faces = replace(made_up(80), sources=np.array(["only"] * 80))
    found = leave_sources_out(faces, refit)
    assert "of the others, 0 faces of 0 people are too few" in found.skipped["only"]
    with pytest.raises(LabelsError, match="need 2 sources that can be left out, found none; only:"):
        check_sources(faces)
    table = tmp_path / "a.csv"
    write_predictions(table, [str(number) for number in range(80)], made_up(80))
    options = ["--predictions", str(table), "--experts", "early", "late", "--form", "tables"]
    options += ["--output", str(tmp_path / "out"), "--robust", "source"]
    assert calibrate.main(options) == 2
    assert "robust intervals need 2 sources" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_kept_fusion_has_left_out_sources_too() -> None:
    tables = replace(refit(shifted()), spread=None)
    found = leave_sources_out(shifted(), lambda rest: keep_fusion(rest, tables, quiet=True).tables)
    for name, source in found.sources.items():
        rows = shifted().sources == name
        fused = tables.fuse(shifted().names, shifted().predictions_years[rows]).age_years
        assert source.scores.fused_years == pytest.approx(fused)
        assert source.scores.quantiles is not None


def test_the_command_with_another_column_of_sources(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "faces.csv"
    write_predictions(table, [str(number) for number in range(180)], shifted())
    text = table.read_text()
    table.write_text(text.replace("id,age,source,", "id,age,camera,", 1))
    options = ["--predictions", str(table), "--experts", "early", "late", "--form", "tables"]
    options += ["--output", str(tmp_path / "out"), "--sources", "camera", "--bootstrap", "100"]
    assert calibrate.main([*options, "--robust", "source"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["groups"]["camera"]) == set(report["left_out"]["sources"]) == set(SHIFTS)
    for section in report["left_out"]["sources"].values():
        assert section["robust"]["coverage"]["90"] >= 0.9
    tables = read_fusion(tmp_path / "out" / "fusion.json")
    robust = tables.provenance["robust"]
    assert isinstance(robust, dict)
    assert robust["sources"] == sorted(SHIFTS)
    capsys.readouterr()
    assert calibrate.main([*options[:-4], "--sources", "lens"]) == 2
    assert "column 'lens' is missing" in capsys.readouterr().err
