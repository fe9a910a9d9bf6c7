"""CSV tables of labeled data: reading them, and the error that lists their problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError
from runtime.columns import AGE, AGE_YEARS, PATH, holds_estimates, is_label_table, picture_column
from runtime.files import read_rows, read_text
from runtime.printing import bullets, printable

Strings = NDArray[np.str_]
_LISTED = 20


class LabelsError(ExportError, ValueError):
    """The labeled data cannot be used; `problems` lists everything found."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        """Compose the message from the name of the source and all its problems."""
        self.problems = tuple(problems)
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__(f"{printable(source)} has {count}:", *bullets(problems))


def read_csv(path: Path, *, estimates: bool = False) -> tuple[list[str], list[dict[str, str]]]:
    """Returns header and rows of a CSV, without spaces around cells or empty last rows.

    Commas, semicolons and tabs separate cells. Short rows are padded with empty cells.

    Args:
        path: the CSV.
        estimates: whether a table written by `agemoe label` is expected. Elsewhere one of an
            earlier version is refused, whose column `age` holds estimates: they would be taken for
            true ages.

    Raises:
        LabelsError: the file cannot be read, has rows with more cells than the header, or holds
            estimates.
    """
    try:
        header, rows = read_rows(read_text(path))
    except (OSError, ValueError) as error:
        raise LabelsError(path.name, [f"cannot be read: {error}"]) from error
    lines = [[cell.strip() for cell in line] for line in rows]
    while lines and not any(lines[-1]):
        lines.pop()
    if problems := _ragged(header, lines):
        raise LabelsError(path.name, problems)
    if not estimates and holds_estimates(header):
        problem = (
            "is a table of `agemoe label` of an earlier version: its column age holds estimates, "
            f"not true ages. Rename it {AGE_YEARS} and add a column {AGE}, or give "
            f"{_truth_cure(path.name)}"
        )
        raise LabelsError(path.name, [problem])
    padding = [""] * len(header)
    return header, [dict(zip(header, line + padding, strict=False)) for line in lines]


def _ragged(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Returns a problem for each row with cells beyond the header; row 1 is the header."""
    return [
        f"row {number}: has {len(line)} cells, the header {len(header)}; the first one too many "
        f"is {line[len(header)]!r}. Put quotes around cells that hold the separator"
        for number, line in enumerate(lines, start=2)
        if any(line[len(header) :])
    ][:_LISTED]


def missing_problem(table: str, column: str, header: Sequence[str], also: str = "") -> str:
    """Returns the problem that a table lacks a column, under its own and under another name."""
    if column == AGE and is_label_table(header):
        return (
            f"is a table of `agemoe label` without the true ages: add a column {AGE}, or give "
            f"{_truth_cure(table)}"
        )
    found = ", ".join(header) or "nothing"
    other = f", also as {also!r}" if also else ""
    return f"column {column!r} is missing{other}; found {found}"


def _truth_cure(table: str) -> str:
    return (
        f"the true ages in another CSV, with the columns {PATH} and {AGE}: "
        f"--predictions {printable(table)} --truth TRUTH.csv"
    )


def picture_name(columns: Mapping[str, str], header: Sequence[str]) -> str:
    """Returns the column that names the pictures, under the user's own name for it or as it is."""
    return columns.get(PATH) or picture_column(header) or PATH


def repeated(names: Iterable[str]) -> list[str]:
    """Returns the names that occur more than once, sorted."""
    return sorted(name for name, count in Counter(names).items() if count > 1)
