"""Labeled predictions: the true age and each expert's raw prediction for every face.

As a CSV: the columns `age` and one per expert, optionally `id`, `subject` (the person in the
picture) and groups (every column named `group…`, and any column requested by name).
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError
from runtime.files import write_whole
from runtime.fusion import Floats

OLDEST_YEARS = 120.0
"""Upper limit of labels; the lower one is 0."""
MOST_GROUPS = 200
"""A column with more distinct values does not form groups."""
_RESERVED_NAMES = frozenset({"fused", "mean", "age", "id", "subject"})
"""Not allowed as names of experts: reports and CSVs use them."""
_LISTED_ROWS = 12

Strings = NDArray[np.str_]


class LabelsError(ExportError, ValueError):
    """The labeled data cannot be used; `problems` lists everything found."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        """Compose the message from the name of the source and all its problems."""
        self.problems = tuple(problems)
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__(f"{source} has {count}:" + "".join(f"\n- {p}" for p in problems))


@dataclass(frozen=True, slots=True, eq=False)
class LabeledPredictions:
    """Raw predictions of E experts for N faces of known age."""

    age_years: Floats
    """(N,) true ages, 0 to 120."""
    names: tuple[str, ...]
    """The E experts."""
    predictions_years: Floats
    """(N, E) raw predictions, all finite."""
    subjects: Strings | None = None
    """(N,) the person in each picture; None when every face is a person of its own."""
    groups: Mapping[str, Strings] = field(default_factory=dict)
    """(N,) values, by the name of the group's column."""

    def __len__(self) -> int:
        """Number of faces."""
        return len(self.age_years)

    @property
    def people(self) -> NDArray[np.intp]:
        """(N,) the number of the person in each picture, from 0."""
        if self.subjects is None:
            return np.arange(len(self))
        return np.unique(self.subjects, return_inverse=True)[1]

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> LabeledPredictions:
        """Returns the faces at some rows, in that order."""
        return LabeledPredictions(
            self.age_years[rows],
            self.names,
            self.predictions_years[rows],
            None if self.subjects is None else self.subjects[rows],
            {column: values[rows] for column, values in self.groups.items()},
        )


def read_predictions(
    path: Path, experts: Sequence[str], groups: Sequence[str] = (), *, varied: bool = True
) -> LabeledPredictions:
    """Reads and validates a CSV of labeled predictions.

    Args:
        path: the CSV, UTF-8, with a header.
        experts: columns that hold the experts' raw predictions in years.
        groups: columns to report separately, besides every column whose name begins with `group`.
        varied: refuse an expert that predicts one age for all faces; it cannot be calibrated.

    Raises:
        LabelsError: the file cannot be used; every problem is listed with its rows.
    """
    header, rows = read_csv(path)
    problems = _header_problems(header, experts, groups)
    if not rows:
        problems.append("there are no faces, only a header")
    if problems:
        raise LabelsError(path.name, problems)
    columns = {name: np.array([row[name] for row in rows], dtype=np.str_) for name in header}
    numbers = {name: np.array([_number(c) for c in columns[name]]) for name in ("age", *experts)}
    for name, values in numbers.items():
        problems += _problem(name, "no finite number", columns[name], ~np.isfinite(values))
    ages, years = numbers.pop("age"), np.stack(list(numbers.values()), axis=1)
    outside = (ages < 0.0) | (ages > OLDEST_YEARS)
    problems += _problem("age", f"outside 0..{OLDEST_YEARS:g}", columns["age"], outside)
    problems += constant_problems(experts, years) if varied else []
    if (ids := columns.get("id")) is not None:
        problems += _problem("id", "not unique", ids, np.isin(ids, repeated(ids)) & (ids != ""))
    if (subjects := columns.get("subject")) is not None:
        problems += _problem("subject", "empty", subjects, subjects == "")
    chosen = [c for c in header if c in groups or (c.startswith("group") and c not in experts)]
    problems += [
        f"{column}: {count} different values are too many for a group (at most {MOST_GROUPS})"
        for column in chosen
        if (count := len(np.unique(columns[column]))) > MOST_GROUPS
    ]
    if problems:
        raise LabelsError(path.name, problems)
    values_of = {column: columns[column] for column in chosen}
    return LabeledPredictions(ages, tuple(experts), years, subjects, values_of)


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Returns header and rows of a UTF-8 CSV, without spaces around cells or empty last rows.

    Short rows are padded with empty cells, long ones cut.

    Raises:
        LabelsError: the file cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [[cell.strip() for cell in line] for line in csv.reader(file)]
    except (OSError, ValueError, csv.Error) as error:
        raise LabelsError(path.name, [f"cannot be read: {error}"]) from error
    while lines and not any(lines[-1]):
        lines.pop()
    header = lines[0] if lines else []
    padding = [""] * len(header)
    return header, [dict(zip(header, line + padding, strict=False)) for line in lines[1:]]


def write_predictions(path: Path, ids: Sequence[str], faces: LabeledPredictions) -> None:
    """Writes the CSV that `read_predictions` reads."""
    columns = {
        "id": ids,
        "age": [f"{age:g}" for age in faces.age_years],
        **({} if faces.subjects is None else {"subject": faces.subjects}),
        **faces.groups,
        **dict(zip(faces.names, faces.predictions_years.T.tolist(), strict=True)),
    }
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    write_whole(path, buffer.getvalue().encode())


def repeated(names: Iterable[str]) -> list[str]:
    """Returns the names that occur more than once, sorted."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def reserved_problems(experts: Iterable[str]) -> list[str]:
    """Returns a problem for each expert whose name reports or CSVs use for something else."""
    return [
        f"an expert cannot be called {name!r}: the reports use that name"
        for name in sorted(_RESERVED_NAMES.intersection(experts))
    ]


def constant_problems(experts: Sequence[str], years: Floats) -> list[str]:
    """Returns a problem for each expert (column) that predicts one age for all faces (rows)."""
    return [
        f"{name}: is {column[0]:g} for every face and carries no information; leave it out"
        for name, column in zip(experts, years.T, strict=True)
        if len(column) > 1 and np.isfinite(column).all() and np.ptp(column) == 0.0
    ]


def _header_problems(
    header: Sequence[str], experts: Sequence[str], groups: Sequence[str]
) -> list[str]:
    found = ", ".join(header) or "nothing"
    problems = [
        f"column {name!r} is missing; found {found}"
        for name in ("age", *experts, *groups)
        if name not in header
    ]
    problems += [f"column {name!r} comes twice" for name in repeated(header)]
    problems += [f"expert {name!r} was requested twice" for name in repeated(experts)]
    problems += reserved_problems(experts)
    if not experts:
        problems.append("no expert was requested")
    return problems


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _problem(column: str, fact: str, cells: Strings, bad: NDArray[np.bool_]) -> list[str]:
    """Returns one problem for all bad cells of a column, with spreadsheet rows (header: 1)."""
    rows = np.flatnonzero(bad)
    if len(rows) == 0:
        return []
    numbers = ", ".join(str(row + 2) for row in rows[:_LISTED_ROWS])
    more = f" and {len(rows) - _LISTED_ROWS} more" if len(rows) > _LISTED_ROWS else ""
    place = f"row{'s' if len(rows) > 1 else ''} {numbers}{more}"
    return [f"{column}: {fact} in {place}; the first is {str(cells[rows[0]])!r}"]
