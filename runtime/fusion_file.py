"""Reads, validates and writes `fusion.json`, the fusion tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from runtime.errors import FusionTableError
from runtime.files import write_json
from runtime.fusion import ExpertTable, Floats, FusionTables, Spread
from runtime.json_reader import JsonReader, not_empty, read_dataclass
from runtime.results import INTERVAL_LEVEL

FILE_NAME = "fusion.json"
SCHEMA_VERSION = 1
"""Incremented whenever the meaning or the layout of fusion.json changes."""
_TAIL = round((1.0 - INTERVAL_LEVEL) / 2.0, 6)
_CURE = "Fit it again: python export/calibrate.py."


def _known_version(version: int) -> str | None:
    return None if version == SCHEMA_VERSION else f"this runtime reads version {SCHEMA_VERSION}"


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
                if len(row) != len(self.levels):
                    path = f"subsets[{index}].quantiles_years[{number}]"
                    yield path, f"must hold {len(self.levels)} numbers, got {len(row)}"


@dataclass(frozen=True, slots=True, eq=False)
class _Document:
    """The layout of fusion.json."""

    schema_version: Annotated[int, _known_version]
    age_grid: Annotated[Floats, _ages]
    experts: Annotated[Mapping[str, ExpertTable], not_empty]
    spread: _Spread | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def problems(self) -> Iterator[tuple[str, str]]:
        ages = len(self.age_grid)
        for name, table in self.experts.items():
            for key, values in (("bias_years", table.bias_years), ("gate_logit", table.gate_logit)):
                if len(values) != ages:
                    yield f"experts.{name}.{key}", f"must hold {ages} numbers, got {len(values)}"
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
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FusionTableError(str(path), [f"cannot be read: {error}"], _CURE) from error
    problems: list[str] = []
    read = read_dataclass(_Document, JsonReader(document, "", problems))
    if problems:
        raise FusionTableError(str(path), problems, _CURE)
    spread = None
    if read.spread is not None:
        subsets = {frozenset(s.experts): np.array(s.quantiles_years) for s in read.spread.subsets}
        spread = Spread(read.spread.levels, subsets)
    return FusionTables(read.age_grid, read.experts, spread, read.provenance)


def write_fusion(path: Path, tables: FusionTables) -> None:
    """Writes fusion tables atomically."""
    document = asdict(
        _Document(SCHEMA_VERSION, tables.age_grid, dict(tables.experts), None, tables.provenance)
    )
    del document["spread"]
    if tables.spread is not None:
        subsets = [
            {"experts": sorted(names), "quantiles_years": quantiles}
            for names, quantiles in tables.spread.quantiles_years.items()
        ]
        document["spread"] = {"levels": tables.spread.levels, "subsets": subsets}
    write_json(path, document)


def check_fusion_fits(path: Path, tables: FusionTables, sources: Mapping[str, str | None]) -> None:
    """Verifies that tables were fitted for these experts.

    Args:
        path: of the tables, for the message.
        tables: the tables.
        sources: SHA-256 of each expert's checkpoint, by the expert's name; None when unknown.

    Raises:
        FusionTableError: an expert has no table, or has one of another checkpoint.
    """
    problems = []
    for name, sha256 in sources.items():
        table = tables.experts.get(name)
        if table is None:
            known = ", ".join(tables.experts)
            problems.append(f"experts.{name}: missing; there are tables for {known}")
        elif table.source_sha256 not in (None, sha256):
            problems.append(f"experts.{name}: was calibrated for another checkpoint")
    if problems:
        raise FusionTableError(str(path), problems, f"{_CURE} Or remove the file.")
