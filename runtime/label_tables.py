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

from runtime.columns import (
    AGE_YEARS,
    BOX,
    ENGINE,
    ERROR,
    FACE,
    HIGH_YEARS,
    LANDMARKS,
    LOW_YEARS,
    MISSING,
    NOTES,
    PATH,
    SCORE,
    TURN,
    expert_column,
)
from runtime.errors import AgeMoEError
from runtime.files import replacing, resolved
from runtime.photographs import FoundFace
from runtime.results import AgeEstimate

Value = str | int | float | None
Row = Mapping[str, Value]
"""One line of the table, by column."""

CSV, PARQUET = ".csv", ".parquet"
NO_FACE = "no face found"
"""Value of the column `error` for a photograph without faces, which does not count as bad."""
_ROWS_PER_GROUP = 8192


class LabelingError(AgeMoEError, RuntimeError):
    """Bulk labeling cannot start, resume or finish."""


def table_columns(experts: Sequence[str]) -> dict[str, type]:
    """Returns the names and types of the table's columns, see docs/labeling.md.

    Every value but `path` and `engine` may be missing.

    Raises:
        LabelingError: the column of an expert has the name of another one.
    """
    ages = (AGE_YEARS, LOW_YEARS, HIGH_YEARS)
    raw = [expert_column(name) for name in experts]
    if taken := [name for name in experts if expert_column(name) in ages]:
        raise LabelingError(
            f"The raw predictions of the expert {taken[0]} would be the column "
            f"{expert_column(taken[0])}, which holds the fused age. Rename the expert in "
            f"experts.toml and build it again."
        )
    return {
        PATH: str,
        FACE: int,
        **dict.fromkeys((*BOX, SCORE), float),
        TURN: int,
        **dict.fromkeys((*LANDMARKS, *ages, *raw), float),
        **dict.fromkeys((MISSING, NOTES, ERROR, ENGINE), str),
    }


def position_of(found: FoundFace) -> Row:
    """Returns the columns of a face's position."""
    numbers: dict[str, float | None] = dict(zip(BOX, found.box, strict=True))
    numbers |= {SCORE: found.score, TURN: found.turn}
    if found.landmarks is not None:
        points = itertools.chain.from_iterable(found.landmarks)
        numbers |= zip(LANDMARKS, points, strict=True)
    return {name: n for name, n in numbers.items() if n is not None and math.isfinite(n)}


def ages_of(result: AgeEstimate | AgeMoEError) -> Row:
    """Returns the columns of an estimate, or of the error instead of it."""
    if not isinstance(result, AgeEstimate):
        return {ERROR: str(result)}
    missing = "; ".join(f"{name}: {why}" for name, why in result.missing.items())
    return {
        AGE_YEARS: result.age_years,
        LOW_YEARS: result.low_years,
        HIGH_YEARS: result.high_years,
        **{expert_column(name): expert.age_years for name, expert in result.experts.items()},
        MISSING: missing or None,
        NOTES: "; ".join(result.notes) or None,
    }


def journal_of(output: Path) -> Path:
    """Returns the path of the journal of a table."""
    return output.with_name(f"{output.name}.journal")


def check_output(output: Path, inputs: Iterable[str] = (), *, overwrite: bool = False) -> None:
    """Verifies, before any work, that a table can be written.

    Args:
        output: the table.
        inputs: files that it must not replace.
        overwrite: whether an existing table may be replaced; that of an interrupted job may.

    Raises:
        LabelingError: the suffix is unknown, there is no such folder, it exists or is one of the
            inputs, or pyarrow is missing.
    """
    if output.suffix.lower() not in (CSV, PARQUET):
        raise LabelingError(f"A table is written as .csv or .parquet, got {output.name}.")
    if not output.parent.is_dir():
        raise LabelingError(f"There is no folder {output.parent} for {output.name}. Create it.")
    if output.is_dir():
        raise LabelingError(f"{output} is a folder. Give the name of a file.")
    if resolved(output) in {resolved(Path(name)) for name in inputs}:
        raise LabelingError(
            f"{output} is one of the lists to label, and would be replaced. Choose another output."
        )
    if output.exists() and not overwrite and not journal_of(output).exists():
        raise LabelingError(f"{output} exists. Choose another output, or overwrite it.")
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
