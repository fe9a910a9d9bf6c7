"""Input and output of bulk labeling: lists of photographs, and a table of ages.

Only paths, boxes and numbers are written, never pixels.
"""

from __future__ import annotations

import csv
import glob
import importlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.errors import AgeMoEError
from runtime.files import read_rows, read_text, replacing
from runtime.images import is_of_macos, is_photograph

Value = str | int | float | None
Row = Mapping[str, Value]
"""One line of the table, by column."""

CSV, PARQUET = ".csv", ".parquet"
_ROWS_PER_GROUP = 8192


class LabelingError(AgeMoEError, RuntimeError):
    """Bulk labeling cannot start, resume or finish."""


def photographs_in(sources: Sequence[str]) -> list[str]:
    """Resolves sources to photographs, without duplicates, in the order of the sources.

    Args:
        sources: folders, which are searched recursively; photographs; patterns such as
            `holiday/**/*.jpg`; and CSV or Parquet lists with a column `path`, relative to the
            list's folder. The photographs of a folder or pattern are sorted.

    Raises:
        LabelingError: a source has no photographs, or a list cannot be read.
    """
    found: dict[str, None] = {}
    for source in sources:
        paths = list(_photographs(source))
        if not paths:
            raise LabelingError(
                f"There is no photograph in {source}. Give folders, photographs, patterns, or CSV "
                f"or Parquet files with a column 'path'."
            )
        found |= dict.fromkeys(paths)
    return list(found)


def table_columns(experts: Sequence[str]) -> dict[str, type]:
    """Returns the names and types of the table's columns.

    Every value but `path` and `engine` may be missing. `face` counts from 0 from left to right,
    `x` … `h` is its box in pixels of the upright picture, `age_NAME` an expert's raw prediction;
    see docs/labeling.md.
    """
    numbers = ("x", "y", "w", "h", "score")
    ages = ("age", "low", "high", *(f"age_{name}" for name in experts))
    return {
        "path": str,
        "face": int,
        **dict.fromkeys(numbers, float),
        "turn": int,
        **dict.fromkeys(ages, float),
        "missing": str,
        "error": str,
        "engine": str,
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
        _pyarrow(output)


def write_table(output: Path, rows: Iterable[Row], columns: Mapping[str, type]) -> None:
    """Writes a table as CSV or Parquet, by its suffix, atomically.

    The columns, names and types, are in the order of the table; missing values are empty.
    """
    write = _write_parquet if output.suffix.lower() == PARQUET else _write_csv
    escaped = ({name: _escaped(row.get(name)) for name in columns} for row in rows)
    with replacing(output) as temporary:
        write(temporary, escaped, columns)


def _photographs(source: str) -> Iterator[str]:
    path = Path(source)
    if path.is_dir():
        yield from _in_folder(path)
    elif path.suffix.lower() in (CSV, PARQUET):
        yield from (str(path.parent / name) for name in _listed(path))
    elif not path.exists() and glob.has_magic(source):
        matches = glob.glob(source, recursive=True)  # noqa: PTH207 - of absolute patterns too
        yield from sorted(m for m in matches if Path(m).is_file() and not is_of_macos(Path(m)))
    else:
        yield source


def _in_folder(folder: Path) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise LabelingError(
            f"{error.filename} cannot be searched ({error.strerror}). Grant access to it, or "
            f"name the folders to search."
        ) from error

    for where, folders, files in os.walk(folder, onerror=fail):
        folders.sort()
        within = Path(where).relative_to(folder)
        yield from (str(Path(where) / n) for n in sorted(files) if is_photograph(within / n))


def _listed(path: Path) -> list[str]:
    try:
        names = _parquet_paths(path) if path.suffix.lower() == PARQUET else _csv_paths(path)
    except (OSError, ValueError, KeyError, csv.Error) as error:  # pyarrow's derive from them
        raise LabelingError(
            f"{path} cannot be read as a list with a column 'path' ({error})."
        ) from error
    return [name for name in names if name]


def _csv_paths(path: Path) -> list[str]:
    """Reads the column `path` of a CSV with commas, semicolons or tabs; rows may be shorter."""
    header, rows = read_rows(read_text(path))
    if "path" not in header:
        raise ValueError(f"its columns are {', '.join(header)[:200] or 'none'}")
    place = header.index("path")
    return [row[place] for row in rows if len(row) > place]


def _parquet_paths(path: Path) -> list[str]:
    parquet = _pyarrow(path, "pyarrow.parquet")
    names = parquet.read_table(path, columns=["path"])["path"].to_pylist()
    if other := next((name for name in names if not isinstance(name, str | None)), None):
        raise ValueError(f"it holds {other!r}, which is not text")
    return [name or "" for name in names]


def _pyarrow(path: Path, module: str = "pyarrow") -> Any:  # noqa: ANN401 - it has no types
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
    arrow, parquet = _pyarrow(path), _pyarrow(path, "pyarrow.parquet")
    kinds = {str: arrow.string(), int: arrow.int32(), float: arrow.float64()}
    schema = arrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
    pending = iter(rows)
    with parquet.ParquetWriter(path, schema) as writer:
        while group := list(itertools.islice(pending, _ROWS_PER_GROUP)):
            writer.write_table(arrow.Table.from_pylist(group, schema))
