"""CSV tables of labeled data: reading them, and the error that lists their problems."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError

Strings = NDArray[np.str_]
_LABEL_TABLE = frozenset({"face", "low", "high", "missing", "error", "engine"})
"""Columns of the tables of `python -m runtime label`, which hold estimates."""
_ENOUGH_TO_TELL = 2


class LabelsError(ExportError, ValueError):
    """The labeled data cannot be used; `problems` lists everything found."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        """Compose the message from the name of the source and all its problems."""
        self.problems = tuple(problems)
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__(f"{source} has {count}:" + "".join(f"\n- {p}" for p in problems))


def read_csv(path: Path, *, estimates: bool = False) -> tuple[list[str], list[dict[str, str]]]:
    """Returns header and rows of a UTF-8 CSV, without spaces around cells or empty last rows.

    Short rows are padded with empty cells, long ones cut.

    Args:
        path: the CSV.
        estimates: whether a table written by `python -m runtime label` is expected. Elsewhere it is
            refused: its column `age` holds estimates, and would be taken for the true age.

    Raises:
        LabelsError: the file cannot be read, or holds estimates.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [[cell.strip() for cell in line] for line in csv.reader(file)]
    except (OSError, ValueError, csv.Error) as error:
        raise LabelsError(path.name, [f"cannot be read: {error}"]) from error
    while lines and not any(lines[-1]):
        lines.pop()
    header = lines[0] if lines else []
    if not estimates and is_label_table(header):
        problem = (
            "is a table of `python -m runtime label`: its column age holds estimates, not true "
            "ages. Give the true ages in another CSV, with the columns image and age: "
            f"--predictions {path.name} --truth TRUTH.csv"
        )
        raise LabelsError(path.name, [problem])
    padding = [""] * len(header)
    return header, [dict(zip(header, line + padding, strict=False)) for line in lines[1:]]


def is_label_table(header: Sequence[str]) -> bool:
    """Returns whether a table is one of `python -m runtime label`, by its columns."""
    return "age" in header and len(_LABEL_TABLE.intersection(header)) >= _ENOUGH_TO_TELL


def repeated(names: Iterable[str]) -> list[str]:
    """Returns the names that occur more than once, sorted."""
    return sorted(name for name, count in Counter(names).items() if count > 1)
