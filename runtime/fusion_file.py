"""`fusion.json`: reading, checking and writing the fusion tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from runtime.errors import FusionTableError
from runtime.files import write_json
from runtime.fusion import ExpertTable, Floats, FusionTables, Spread
from runtime.json_reader import JsonReader
from runtime.results import INTERVAL_LEVEL

FILE_NAME = "fusion.json"
SCHEMA_VERSION = 1
"""Bumped whenever the meaning or the layout of fusion.json changes."""
_TAIL = round((1.0 - INTERVAL_LEVEL) / 2.0, 6)
_CURE = "Fit it again: python export/calibrate.py."


def read_fusion(path: Path) -> FusionTables:
    """Reads and checks fusion tables.

    Raises:
        FusionTableError: the file is unreadable or inconsistent; every problem is listed.
    """
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FusionTableError(str(path), [f"cannot be read: {error}"], _CURE) from error
    problems: list[str] = []
    tables = _tables(JsonReader(document, "", problems))
    if problems:
        raise FusionTableError(str(path), problems, _CURE)
    return tables


def write_fusion(path: Path, tables: FusionTables) -> None:
    """Writes fusion tables whole; what is written can be read back equal."""
    write_json(path, _document(tables))


def check_fusion_fits(path: Path, tables: FusionTables, sources: Mapping[str, str | None]) -> None:
    """Refuses tables that were fitted for other experts than those at hand.

    Args:
        path: where the tables come from, for the message.
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
            problems.append(f"experts.{name}: missing; the tables know {known}")
        elif table.source_sha256 not in (None, sha256):
            problems.append(f"experts.{name}: was calibrated for another checkpoint")
    if problems:
        raise FusionTableError(str(path), problems, f"{_CURE} Or take the file away.")


def _tables(root: JsonReader) -> FusionTables:
    root.only(("schema_version", "age_grid", "experts", "spread", "provenance"))
    version = root.child("schema_version").integer(low=1)
    if version > SCHEMA_VERSION:
        root.problem(f"schema_version {version} is newer than this runtime's {SCHEMA_VERSION}")
    grid = np.array(root.child("age_grid").numbers())
    if len(grid) < 2 or not (np.diff(grid) > 0).all():
        root.child("age_grid").problem("must hold at least 2 increasing ages")
    experts = {name: _expert(entry, len(grid)) for name, entry in root.child("experts").items()}
    if not experts:
        root.child("experts").problem("must not be empty")
    spread = _spread(root.child("spread"), len(grid), experts) if root.has("spread") else None
    provenance = (
        {key: entry.value for key, entry in root.child("provenance").items()}
        if root.has("provenance")
        else {}
    )
    return FusionTables(grid, experts, spread, provenance)


def _expert(entry: JsonReader, grid_size: int) -> ExpertTable:
    entry.only(("bias_years", "gate_logit", "base_logit", "source_sha256"))
    return ExpertTable(
        bias_years=np.array(entry.child("bias_years").numbers(count=grid_size)),
        gate_logit=np.array(entry.child("gate_logit").numbers(count=grid_size)),
        base_logit=entry.child("base_logit").number(),
        source_sha256=entry.child("source_sha256").sha256() if entry.has("source_sha256") else None,
    )


def _spread(entry: JsonReader, grid_size: int, experts: Mapping[str, ExpertTable]) -> Spread:
    entry.only(("levels", "subsets"))
    levels = entry.child("levels").numbers()
    inside = len(levels) >= 2 and levels[0] > 0.0 and levels[-1] < 1.0
    if not inside or not (np.diff(levels) > 0).all():
        entry.child("levels").problem("must hold at least 2 increasing levels within (0, 1)")
    elif levels[0] > _TAIL or levels[-1] < 1.0 - _TAIL:
        entry.child("levels").problem(
            f"must reach from {_TAIL} to {1.0 - _TAIL}, where the 90 % interval ends"
        )
    quantiles = {}
    for subset in entry.child("subsets").elements():
        subset.only(("experts", "quantiles_years"))
        names = frozenset(element.string() for element in subset.child("experts").elements())
        if not names or names - set(experts):
            subset.child("experts").problem(f"must name some of {', '.join(experts)}")
        rows = subset.child("quantiles_years")
        quantiles[names] = _quantiles(rows, (grid_size, len(levels)))
    return Spread(tuple(levels), quantiles)


def _quantiles(entry: JsonReader, shape: tuple[int, int]) -> Floats:
    rows = [row.numbers(count=shape[1]) for row in entry.elements()]
    if len(rows) != shape[0]:
        entry.problem(f"must hold {shape[0]} rows, got {len(rows)}")
    if len(rows) != shape[0] or any(len(row) != shape[1] for row in rows):
        return np.zeros(shape)
    table = np.array(rows)
    if not (np.diff(table, axis=1) >= 0).all():
        entry.problem("must not decrease along a row")
    return table


def _document(tables: FusionTables) -> dict[str, object]:
    document: dict[str, object] = {
        "schema_version": SCHEMA_VERSION,
        "age_grid": tables.age_grid.tolist(),
        "experts": {
            name: {
                "bias_years": table.bias_years.tolist(),
                "gate_logit": table.gate_logit.tolist(),
                "base_logit": table.base_logit,
                "source_sha256": table.source_sha256,
            }
            for name, table in tables.experts.items()
        },
        "provenance": dict(tables.provenance),
    }
    if tables.spread is not None:
        document["spread"] = {
            "levels": list(tables.spread.levels),
            "subsets": [
                {"experts": sorted(names), "quantiles_years": table.tolist()}
                for names, table in tables.spread.quantiles_years.items()
            ],
        }
    return document
