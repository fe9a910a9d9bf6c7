"""Reads, validates and writes `fusion.json`, the fusion tables."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from runtime.errors import FusionTableError
from runtime.files import parse_json, read_text, write_json
from runtime.fusion import ExpertTable, Floats, FusionTables, Gate, LinearGate, PivotGate, Spread
from runtime.json_reader import SHA256, JsonReader, not_empty, one_of, read_dataclass
from runtime.pooling import Correlation
from runtime.program import command_line
from runtime.results import INTERVAL_LEVEL

if TYPE_CHECKING:
    from runtime.manifest import Expert

FILE_NAME = "fusion.json"
SCHEMA_VERSION = 4
"""Incremented whenever the meaning or the layout of fusion.json changes; older ones are read.

Version 3 lacks `correlation`. Version 2 lacks `fingerprint` and `detector`, too: its tables are
bound to checkpoints only."""
_TAIL = round((1.0 - INTERVAL_LEVEL) / 2.0, 6)
_CURE = f"Fit it again: {command_line('calibrate')}."


def _known_version(version: int) -> str | None:
    known = 1 <= version <= SCHEMA_VERSION
    return None if known else f"this runtime reads versions 1 to {SCHEMA_VERSION}"


def _ages(grid: Sequence[float]) -> str | None:
    return None if len(grid) > 1 and _increase(grid) else "must hold at least 2 increasing ages"


def _levels(levels: Sequence[float]) -> str | None:
    if len(levels) < 2 or levels[0] <= 0.0 or levels[-1] >= 1.0 or not _increase(levels):
        return "must hold at least 2 increasing levels within (0, 1)"
    if levels[0] > _TAIL or levels[-1] < 1.0 - _TAIL:
        return f"must reach from {_TAIL} to {1.0 - _TAIL}, where the 90 % interval ends"
    return None


def _increase(values: Iterable[float]) -> bool:
    return all(one < other for one, other in pairwise(values))


def _length_problem(path: str, values: Sized, count: int) -> Iterator[tuple[str, str]]:
    if len(values) != count:
        yield path, f"must hold {count} numbers, got {len(values)}"


@dataclass(frozen=True, slots=True, eq=False)
class _Subset:
    experts: tuple[str, ...]
    quantiles_years: tuple[Floats, ...]

    def problems(self) -> Iterator[tuple[str, str]]:
        for index, row in enumerate(self.quantiles_years):
            if any(one > other for one, other in pairwise(row)):
                yield f"quantiles_years[{index}]", "must not decrease"


@dataclass(frozen=True, slots=True, eq=False)
class _Spread:
    levels: Annotated[tuple[float, ...], _levels]
    subsets: tuple[_Subset, ...]

    def problems(self) -> Iterator[tuple[str, str]]:
        for index, subset in enumerate(self.subsets):
            for number, row in enumerate(subset.quantiles_years):
                path = f"subsets[{index}].quantiles_years[{number}]"
                yield from _length_problem(path, row, len(self.levels))


@dataclass(frozen=True, slots=True, eq=False)
class _Expert:
    bias_years: Floats
    knots_years: Annotated[Floats, _ages] | None = None
    """None: the age grid."""
    source_sha256: SHA256 | None = None
    fingerprint: SHA256 | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _PivotRow:
    logit: Floats
    base_logit: float


@dataclass(frozen=True, slots=True)
class _LinearRow:
    slopes: Mapping[str, float]
    bias: float


@dataclass(frozen=True, slots=True, eq=False)
class _Gate:
    form: Annotated[str, one_of(("pivot", "linear"))]
    pivot: Mapping[str, _PivotRow] | None = None
    linear: Mapping[str, _LinearRow] | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        for form in ("pivot", "linear"):
            if (getattr(self, form) is None) == (form == self.form):
                yield form, "must be there exactly if it is the gate's form"

    def problems_within(self, experts: Mapping[str, Any], ages: int) -> Iterator[tuple[str, str]]:
        known = f"must name exactly {', '.join(experts)}"
        for form, rows in (("pivot", self.pivot), ("linear", self.linear)):
            if rows is not None and set(rows) != set(experts):
                yield f"gate.{form}", known
        for name, row in (self.pivot or {}).items():
            yield from _length_problem(f"gate.pivot.{name}.logit", row.logit, ages)
        for name, linear in (self.linear or {}).items():
            if set(linear.slopes) != set(experts):
                yield f"gate.linear.{name}.slopes", known


@dataclass(frozen=True, slots=True, eq=False)
class _Document:
    """The layout of fusion.json."""

    schema_version: Annotated[int, _known_version]
    age_grid: Annotated[Floats, _ages]
    experts: Annotated[Mapping[str, _Expert], not_empty]
    gate: _Gate
    largest_raw_years: float | None = None
    spread: _Spread | None = None
    correlation: Correlation | None = None
    detector: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def problems(self) -> Iterator[tuple[str, str]]:
        ages = len(self.age_grid)
        for name, table in self.experts.items():
            knots = ages if table.knots_years is None else len(table.knots_years)
            yield from _length_problem(f"experts.{name}.bias_years", table.bias_years, knots)
        yield from self.gate.problems_within(self.experts, ages)
        for index, subset in enumerate(self.spread.subsets if self.spread else ()):
            path = f"spread.subsets[{index}]"
            if not subset.experts or set(subset.experts) - set(self.experts):
                yield f"{path}.experts", f"must name some of {', '.join(self.experts)}"
            if (rows := len(subset.quantiles_years)) != ages:
                yield f"{path}.quantiles_years", f"must hold {ages} rows, got {rows}"


def read_fusion(path: Path) -> FusionTables:
    """Reads and validates fusion tables.

    Raises:
        FusionTableError: the file is unreadable or inconsistent; every problem is listed.
    """
    try:
        text = read_text(path)
        document = parse_json(text)
    except (OSError, ValueError) as error:
        raise FusionTableError(str(path), [f"cannot be read: {error}"], _CURE) from error
    problems: list[str] = []
    read = read_dataclass(_Document, JsonReader(_upgraded(document), "", problems))
    if problems:
        raise FusionTableError(str(path), problems, _CURE)
    return replace(_tables(read), sha256=hashlib.sha256(text.encode()).hexdigest())


def write_fusion(path: Path, tables: FusionTables) -> None:
    """Writes fusion tables atomically."""
    largest, spread = tables.largest_raw_years, tables.spread
    document = _Document(
        SCHEMA_VERSION,
        tables.age_grid,
        {name: _expert_of(table, tables.age_grid) for name, table in tables.experts.items()},
        _gate_of(tables.gate),
        largest if np.isfinite(largest) else None,
        None if spread is None else _spread_of(spread),
        tables.correlation,
        tables.detector,
        tables.provenance,
    )
    write_json(path, _without_none(asdict(document)))


def check_fusion_fits(
    path: Path, tables: FusionTables, experts: Mapping[str, Expert | None]
) -> None:
    """Verifies that tables were fitted for these experts.

    Args:
        path: of the tables, for the message.
        tables: the tables.
        experts: the experts by name; None where only the name is known.

    Raises:
        FusionTableError: an expert has no table, or has one of other weights, settings or another
            geometry.
    """
    problems = []
    for name, expert in experts.items():
        table = tables.experts.get(name)
        if table is None:
            known = ", ".join(tables.experts)
            problems.append(f"experts.{name}: missing; there are tables for {known}")
        elif expert is not None and (difference := _difference(table, expert)):
            problems.append(f"experts.{name}: {difference}")
    if problems:
        raise FusionTableError(str(path), problems, f"{_CURE} Or remove the file.")


def _difference(table: ExpertTable, expert: Expert) -> str | None:
    """Returns what a table was fitted for, if it is not this expert."""
    if table.source_sha256 not in (None, expert.source.sha256):
        return "was calibrated for another checkpoint"
    if table.fingerprint in (None, expert.fingerprint):
        return None
    if expert.fingerprint is None:
        return (
            "was calibrated for known settings and geometry, and the manifest states none for this "
            f"expert. Run the build again, which adds them: {command_line('build')}"
        )
    return (
        "was calibrated for other settings or another geometry of the same checkpoint, which "
        "change its predictions"
    )


def _upgraded(document: Any) -> Any:  # noqa: ANN401 - parsed JSON
    """Returns a document of version 1, whose experts hold the gate's rows, as version 2."""
    if not isinstance(document, dict) or document.get("schema_version") != 1:
        return document
    experts = document.get("experts")
    if not isinstance(experts, dict) or not all(isinstance(e, dict) for e in experts.values()):
        return document
    moved = {"gate_logit": "logit", "base_logit": "base_logit"}
    rows = {
        name: {new: expert[old] for old, new in moved.items() if old in expert}
        for name, expert in experts.items()
    }
    tables = {
        name: {key: value for key, value in expert.items() if key not in moved}
        for name, expert in experts.items()
    }
    gate = {"form": "pivot", "pivot": rows}
    return {**document, "schema_version": SCHEMA_VERSION, "experts": tables, "gate": gate}


def _tables(document: _Document) -> FusionTables:
    grid, spread, largest = document.age_grid, document.spread, document.largest_raw_years
    experts = {
        name: ExpertTable(
            grid if table.knots_years is None else table.knots_years,
            table.bias_years,
            table.source_sha256,
            table.fingerprint,
        )
        for name, table in document.experts.items()
    }
    found = None
    if spread is not None:
        quantiles = {frozenset(s.experts): np.array(s.quantiles_years) for s in spread.subsets}
        found = Spread(spread.levels, quantiles)
    return FusionTables(
        grid,
        experts,
        _gate(document.gate, tuple(experts), grid),
        found,
        np.inf if largest is None else largest,
        document.detector,
        document.provenance,
        document.correlation,
    )


def _gate(gate: _Gate, names: tuple[str, ...], grid: Floats) -> Gate:
    if gate.linear is not None:
        rows = [gate.linear[name] for name in names]
        slopes = np.array([[row.slopes[name] for name in names] for row in rows])
        return LinearGate(names, slopes, np.array([row.bias for row in rows]))
    pivots = [(gate.pivot or {})[name] for name in names]
    logits = np.array([row.logit for row in pivots])
    return PivotGate(names, grid, logits, np.array([row.base_logit for row in pivots]))


def _expert_of(table: ExpertTable, grid: Floats) -> _Expert:
    same = np.array_equal(table.knots_years, grid)
    knots = None if same else table.knots_years
    return _Expert(table.bias_years, knots, table.source_sha256, table.fingerprint)


def _gate_of(gate: Gate) -> _Gate:
    if isinstance(gate, LinearGate):
        rows = zip(gate.names, gate.slopes.tolist(), gate.bias.tolist(), strict=True)
        linear = {n: _LinearRow(dict(zip(gate.names, row, strict=True)), b) for n, row, b in rows}
        return _Gate("linear", linear=linear)
    pivots = zip(gate.names, gate.logit, gate.base_logit.tolist(), strict=True)
    return _Gate("pivot", {name: _PivotRow(logit, base) for name, logit, base in pivots})


def _spread_of(spread: Spread) -> _Spread:
    subsets = (
        _Subset(tuple(sorted(names)), tuple(quantiles))
        for names, quantiles in spread.quantiles_years.items()
    )
    return _Spread(spread.levels, tuple(subsets))


def _without_none(value: Any) -> Any:  # noqa: ANN401 - anything that becomes JSON
    if isinstance(value, Mapping):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return value
