"""Output of bulk labeling: the rows of a table of ages, and its files.

Only paths, boxes and numbers are written, never pixels.
"""

from __future__ import annotations

import csv
import importlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.errors import AgeMoEError
from runtime.files import replacing
from runtime.photographs import FoundFace
from runtime.results import AgeEstimate

Value = str | int | float | None
Row = Mapping[str, Value]
"""One line of the table, by column."""

CSV, PARQUET = ".csv", ".parquet"
BOX_COLUMNS = ("x", "y", "w", "h")
"""The box of a face, in pixels of the upright photograph."""
LANDMARK_COLUMNS = tuple(
    f"{point}_{axis}"
    for point in ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
    for axis in "xy"
)
"""Its landmarks, in pixels of the upright photograph; left and right as seen where the face is
upright."""
_ROWS_PER_GROUP = 8192


class LabelingError(AgeMoEError, RuntimeError):
    """Bulk labeling cannot start, resume or finish."""


def table_columns(experts: Sequence[str]) -> dict[str, type]:
    """Returns the names and types of the table's columns.

    Every value but `path` and `engine` may be missing. `face` counts from 0 from left to right,
    `x` … `h` is its box in pixels of the upright picture, `age_NAME` an expert's raw prediction;
    see docs/labeling.md.
    """
    numbers = (*BOX_COLUMNS, "score")
    ages = ("age", "low", "high", *(f"age_{name}" for name in experts))
    return {
        "path": str,
        "face": int,
        **dict.fromkeys(numbers, float),
        "turn": int,
        **dict.fromkeys(LANDMARK_COLUMNS, float),
        **dict.fromkeys(ages, float),
        "missing": str,
        "notes": str,
        "error": str,
        "engine": str,
    }


def position_of(found: FoundFace) -> Row:
    """Returns the columns of a face's position."""
    numbers = dict(zip(BOX_COLUMNS, found.box, strict=True), score=found.score, turn=found.turn)
    if found.landmarks is not None:
        points = itertools.chain.from_iterable(found.landmarks)
        numbers |= zip(LANDMARK_COLUMNS, points, strict=True)
    return {name: n for name, n in numbers.items() if n is not None and math.isfinite(n)}


def ages_of(result: AgeEstimate | AgeMoEError) -> Row:
    """Returns the columns of an estimate, or of the error instead of it."""
    if not isinstance(result, AgeEstimate):
        return {"error": str(result)}
    missing = "; ".join(f"{name}: {why}" for name, why in result.missing.items())
    return {
        "age": result.age_years,
        "low": result.low_years,
        "high": result.high_years,
        **{f"age_{name}": expert.age_years for name, expert in result.experts.items()},
        "missing": missing or None,
        "notes": "; ".join(result.notes) or None,
    }


def check_output(output: Path) -> None:
    """Verifies, before any work, that a table can be written.

    Raises:
        LabelingError: the suffix is unknown, there is no such folder, or pyarrow is missing.
    """
    if output.suffix.lower() not in (CSV, PARQUET):
        raise LabelingError(f"A table is written as .csv or .parquet, got {output.name}.")
    if not output.parent.is_dir():
        raise LabelingError(f"There is no folder {output.parent} for {output.name}. Create it.")
    if output.suffix.lower() == PARQUET:
        import_pyarrow(output)


def write_table(output: Path, rows: Iterable[Row], columns: Mapping[str, type]) -> None:
    """Writes a table as CSV or Parquet, by its suffix, atomically.

    The columns, names and types, are in the order of the table; missing values are empty.
    """
    write = _write_parquet if output.suffix.lower() == PARQUET else _write_csv
    escaped = ({name: _escaped(row.get(name)) for name in columns} for row in rows)
    with replacing(output) as temporary:
        write(temporary, escaped, columns)


def import_pyarrow(path: Path, module: str = "pyarrow") -> Any:  # noqa: ANN401 - it has no types
    """Imports pyarrow or one of its modules for a table; raises `LabelingError` if it is absent."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise LabelingError(
            f"{path.name} needs pyarrow, which is not installed. Install agemoe-runtime[label], "
            f"or use CSV."
        ) from error


def _escaped(value: Value) -> Value:
    """Escapes what file names may hold and tables cannot.

    These are bytes that are not UTF-8, and carriage returns, at which CSV readers start a new row.
    """
    if isinstance(value, str):
        text = value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return text.replace("\r", r"\x0d")
    return value


def _write_csv(path: Path, rows: Iterable[Row], columns: Mapping[str, type]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(path: Path, rows: Iterable[Row], columns: Mapping[str, type]) -> None:
    arrow, parquet = import_pyarrow(path), import_pyarrow(path, "pyarrow.parquet")
    kinds = {str: arrow.string(), int: arrow.int32(), float: arrow.float64()}
    schema = arrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
    pending = iter(rows)
    with parquet.ParquetWriter(path, schema) as writer:
        while group := list(itertools.islice(pending, _ROWS_PER_GROUP)):
            writer.write_table(arrow.Table.from_pylist(group, schema))
