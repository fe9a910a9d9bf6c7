"""fusion.json: round trips, and all problems of a file at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import FusionTableError
from runtime.fusion import ExpertTable, FusionTables, LinearGate, PivotGate, Spread
from runtime.fusion_file import check_fusion_fits, read_fusion, write_fusion
from runtime.geometry import Geometry
from runtime.manifest import Artifact, BatchProfile, Expert, FileRecord, InputSpec, Source
from runtime.pooling import Correlation
from tests.runtime.fusion_tables import Row, pivot_tables

SHA, OTHER = "ab" * 32, "cd" * 32


def tables() -> FusionTables:
    experts = {"a": Row([1.0, -2.5, 0.1], [0.0, 1.0, 2.0], 0.5, SHA), "b": Row(0.0, 1.0)}
    quantiles = {frozenset("ab"): np.tile([-5.0, 0.0, 4.0], (3, 1)), frozenset("a"): np.eye(3) * 0}
    spread = Spread((0.05, 0.5, 0.95), quantiles)
    return pivot_tables(experts, grid=[0.0, 50.0, 100.0], spread=spread, provenance={"faces": 630})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_fusion(tmp_path / "fusion.json", tables())
    return tmp_path / "fusion.json"


def broken(path: Path, *changes: Callable[[dict[str, Any]], object]) -> list[str]:
    document = json.loads(path.read_bytes())
    for change in changes:
        change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(FusionTableError) as caught:
        read_fusion(path)
    assert str(path) in str(caught.value)
    assert "Fit it again: python -m runtime calibrate." in str(caught.value)
    return list(caught.value.problems)


def test_round_trip(path: Path) -> None:
    found, wanted = read_fusion(path), tables()
    assert found.age_grid.tolist() == wanted.age_grid.tolist()
    assert found.provenance == wanted.provenance
    assert list(found.experts) == ["a", "b"]
    for name, table in wanted.experts.items():
        read = found.experts[name]
        assert read.bias_years.tolist() == table.bias_years.tolist()
        assert read.knots_years.tolist() == table.knots_years.tolist()
        assert read.source_sha256 == table.source_sha256
    assert isinstance(found.gate, PivotGate)
    assert isinstance(wanted.gate, PivotGate)
    assert found.gate.names == ("a", "b")
    assert found.gate.logit.tolist() == wanted.gate.logit.tolist()
    assert found.gate.base_logit.tolist() == wanted.gate.base_logit.tolist()
    assert found.spread is not None
    assert wanted.spread is not None
    assert found.spread.levels == wanted.spread.levels
    assert {k: v.tolist() for k, v in found.spread.quantiles_years.items()} == {
        k: v.tolist() for k, v in wanted.spread.quantiles_years.items()
    }


def test_identity_round_trip_has_no_spread(tmp_path: Path) -> None:
    write_fusion(tmp_path / "f.json", FusionTables.identity(["x"]))
    assert read_fusion(tmp_path / "f.json").spread is None


def row(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["gate"]["pivot"]["b"]
    return found


CHANGES: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("unknown key surprise", lambda d: d.update(surprise=1)),
    (
        "schema_version: this runtime reads versions",
        lambda d: d.update(schema_version=9),
    ),
    ("at least 2 increasing ages", lambda d: d.update(age_grid=[0.0, 50.0, 50.0])),
    ("age_grid[1]: must be a finite number", lambda d: d.update(age_grid=[0.0, "x", 1.0])),
    ("a.bias_years: must hold 3 numbers, got 2", lambda d: d["experts"]["a"]["bias_years"].pop()),
    ("pivot.b.logit: missing", lambda d: d["gate"]["pivot"]["b"].pop("logit")),
    ("b.base_logit: must be a finite", lambda d: row(d).update(base_logit=10**400)),
    ("b.base_logit: must be a finite", lambda d: row(d).update(base_logit=True)),
    ("b.logit: must hold 3 numbers, got 2", lambda d: row(d)["logit"].pop()),
    ("gate.pivot: must name exactly a, b", lambda d: d["gate"]["pivot"].pop("a")),
    ("gate.linear: must be there exactly", lambda d: d["gate"].update(form="linear")),
    ("gate.form: must be one of pivot, linear", lambda d: d["gate"].update(form="tree")),
    ("a.knots_years: must hold at least 2", lambda d: d["experts"]["a"].update(knots_years=[1])),
    ("a.bias_years: must hold 2", lambda d: d["experts"]["a"].update(knots_years=[1, 2])),
    ("must be 64 hex digits", lambda d: d["experts"]["a"].update(source_sha256="AB" * 32)),
    ("experts: must not be empty", lambda d: d.update(experts={})),
    ("experts: must be an object", lambda d: d.update(experts=[1])),
    ("increasing levels within (0, 1)", lambda d: d["spread"].update(levels=[0.0, 0.5, 0.9])),
    ("increasing levels within (0, 1)", lambda d: d["spread"].update(levels=[0.9])),
    ("increasing levels within (0, 1)", lambda d: d["spread"].update(levels=[])),
    ("must reach from 0.05 to 0.95", lambda d: d["spread"].update(levels=[0.1, 0.5, 0.95])),
    ("must reach from 0.05 to 0.95", lambda d: d["spread"].update(levels=[0.05, 0.5, 0.9])),
    ("must name some of a, b", lambda d: d["spread"]["subsets"][0].update(experts=["z"])),
    ("must name some of a, b", lambda d: d["spread"]["subsets"][0].update(experts=[])),
    ("must hold 3 rows", lambda d: d["spread"]["subsets"][0].update(quantiles_years=[])),
    ("must hold 3 rows", lambda d: d["spread"]["subsets"][0]["quantiles_years"].pop()),
    ("must hold 3 numbers", lambda d: d["spread"]["subsets"][0]["quantiles_years"][1].pop()),
    ("must not decrease", lambda d: d["spread"]["subsets"][0]["quantiles_years"][1].reverse()),
    ("subsets: missing", lambda d: d["spread"].pop("subsets")),
    ("provenance: must be an object", lambda d: d.update(provenance="me")),
]


@pytest.mark.parametrize(("problem", "change"), CHANGES)
def test_each_problem_is_reported(
    path: Path, problem: str, change: Callable[[dict[str, Any]], object]
) -> None:
    assert any(problem in found for found in broken(path, change))


def test_all_problems_are_reported_at_once(path: Path) -> None:
    chosen = [CHANGES[index] for index in (0, 4, 5, 17, 22)]
    problems = broken(path, *(change for _, change in chosen))
    for problem, _ in chosen:
        assert any(problem in found for found in problems)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"{", b"[]", b"null", b"3", b"[" * 200_000, b'{"a": NaN}']
)
def test_any_other_content_is_a_fusion_table_error(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(FusionTableError) as caught:
        read_fusion(path)
    assert len(set(caught.value.problems)) == len(caught.value.problems)


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(FusionTableError, match="cannot be read"):
        read_fusion(tmp_path)


def expert(sha256: str | None, fingerprint: str | None = None) -> Expert:
    geometry = InputSpec("face", 8, 8, Geometry())
    source, file = Source("checkpoint", "x.pth", sha256), FileRecord("x.onnx", SHA, 1)
    artifact = Artifact("onnx", "fp32", (file,), {}, 0.0, None)
    profile = BatchProfile()
    return Expert(
        "cnn",
        source,
        (geometry,),
        ("age_years",),
        None,
        profile,
        (artifact,),
        fingerprint=fingerprint,
    )


def test_tables_of_other_experts_or_checkpoints_are_rejected(path: Path) -> None:
    read = read_fusion(path)
    # b was fitted without a checkpoint
    check_fusion_fits(path, read, {"a": expert(SHA), "b": expert(OTHER)})
    with pytest.raises(FusionTableError) as caught:
        check_fusion_fits(path, read, {"a": expert(OTHER), "z": None})
    assert caught.value.problems == (
        "experts.a: was calibrated for another checkpoint",
        "experts.z: missing; there are tables for a, b",
    )


def test_tables_of_other_settings_or_geometry_are_rejected(path: Path) -> None:
    bound = tables()
    bound = replace(
        bound, experts={**bound.experts, "a": replace(bound.experts["a"], fingerprint=OTHER)}
    )
    write_fusion(path, bound)
    read = read_fusion(path)
    assert {name: table.fingerprint for name, table in read.experts.items()} == {
        "a": OTHER,
        "b": None,
    }
    check_fusion_fits(path, read, {"a": expert(SHA, OTHER), "b": expert(SHA, SHA)})
    for found, problem in (
        (expert(SHA, SHA), "other settings or another geometry of the same checkpoint"),
        (expert(OTHER, OTHER), "another checkpoint"),
        (expert(SHA, None), "the manifest states none for this expert. Run the build again"),
    ):
        with pytest.raises(FusionTableError, match=problem):
            check_fusion_fits(path, read, {"a": found})


def test_the_detector_is_kept(path: Path) -> None:
    assert read_fusion(path).detector is None
    write_fusion(path, replace(tables(), detector="haar 1"))
    assert read_fusion(path).detector == "haar 1"


CORRELATION = Correlation(0.4, 0.3, 0.5, 30, 90, 2.0, "people.csv")


def test_the_correlation_is_kept(path: Path) -> None:
    assert read_fusion(path).correlation is None
    write_fusion(path, replace(tables(), correlation=CORRELATION))
    assert read_fusion(path).correlation == CORRELATION


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"high": 0.39}, "correlation.value: must lie between low and high, all within 0..1"),
        ({"high": 1.1}, "correlation.value: must lie between low and high, all within 0..1"),
        ({"low": -0.1}, "correlation.value: must lie between low and high, all within 0..1"),
        ({"value": None}, "correlation.value: "),
        ({"pairs": 29}, "correlation.pairs: must be at least one for each of the people"),
        ({"people": 0}, "correlation.pairs: must be at least one for each of the people"),
        ({"surprise": 1}, "correlation: unknown key surprise"),
    ],
)
def test_a_bad_correlation_is_named(path: Path, change: dict[str, Any], problem: str) -> None:
    write_fusion(path, replace(tables(), correlation=CORRELATION))
    (found,) = broken(path, lambda document: document["correlation"].update(change))
    assert found.startswith(problem)


def test_version_3_is_read_without_a_correlation(path: Path) -> None:
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps({**document, "schema_version": 3}))
    assert read_fusion(path).correlation is None


def test_version_2_is_read_and_bound_to_checkpoints_only(path: Path) -> None:
    document = json.loads(path.read_bytes())
    document["schema_version"] = 2
    path.write_text(json.dumps(document))
    read = read_fusion(path)
    assert (read.detector, read.experts["a"].fingerprint) == (None, None)
    check_fusion_fits(path, read, {"a": expert(SHA, OTHER)})
    with pytest.raises(FusionTableError, match="another checkpoint"):
        check_fusion_fits(path, read, {"a": expert(OTHER)})


def test_nan_is_never_written(tmp_path: Path) -> None:
    bad = pivot_tables({"a": Row()}, grid=[0.0, np.nan])
    with pytest.raises(ValueError, match="JSON"):
        write_fusion(tmp_path / "fusion.json", bad)
    assert list(tmp_path.iterdir()) == []


def test_version_1_is_read(path: Path) -> None:
    document = json.loads(path.read_bytes())
    for name, pivot in document.pop("gate")["pivot"].items():
        document["experts"][name] |= {
            "gate_logit": pivot["logit"],
            "base_logit": pivot["base_logit"],
        }
    document["schema_version"] = 1
    path.write_text(json.dumps(document))
    raw = np.array([[20.0, 40.0], [np.nan, 70.0]])
    found, wanted = read_fusion(path).fuse(("a", "b"), raw), tables().fuse(("a", "b"), raw)
    assert found.age_years.tolist() == wanted.age_years.tolist()
    document["experts"]["a"].pop("gate_logit")
    path.write_text(json.dumps(document))
    with pytest.raises(FusionTableError, match=r"gate\.pivot\.a\.logit: missing"):
        read_fusion(path)


def test_a_linear_gate_and_own_knots_round_trip(tmp_path: Path) -> None:
    grid = np.array([0.0, 150.0])
    experts = {
        "a": ExpertTable(np.array([-5.0, 1.0, 7.5]), np.array([0.1, 0.2, 0.3]), SHA),
        "b": ExpertTable(grid, np.zeros(2)),
    }
    gate = LinearGate(("a", "b"), np.array([[0.1, -0.2], [0.3, 0.4]]), np.array([1.0, -1.0]))
    write_fusion(tmp_path / "f.json", FusionTables(grid, experts, gate, None, 150.0))
    read = read_fusion(tmp_path / "f.json")
    assert isinstance(read.gate, LinearGate)
    assert read.gate.slopes.tolist() == gate.slopes.tolist()
    assert read.gate.bias.tolist() == gate.bias.tolist()
    assert read.experts["a"].knots_years.tolist() == [-5.0, 1.0, 7.5]
    assert (read.largest_raw_years, read.spread) == (150.0, None)
    document = json.loads((tmp_path / "f.json").read_bytes())
    document["gate"]["linear"]["a"]["slopes"].pop("b")
    (tmp_path / "f.json").write_text(json.dumps(document))
    with pytest.raises(FusionTableError, match=r"a\.slopes: must name exactly a, b"):
        read_fusion(tmp_path / "f.json")
