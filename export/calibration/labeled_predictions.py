"""Labeled predictions: one true age and one reading per expert for every face.

Read from a CSV with the columns `age`, one per expert, and optionally `id`, `subject` (who is in
the picture) and any number of groups (`group…`, or any column asked for by name).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError
from runtime.fusion import Floats

OLDEST_YEARS = 120.0
"""No label may be above; below 0 neither."""
RESERVED_NAMES = frozenset({"fused", "mean", "age", "id", "subject"})
"""What no expert may be called: the reports use these names themselves."""
_LISTED_ROWS = 12
MOST_GROUPS = 200
"""A column with more different values than these tells no groups apart."""

Strings = NDArray[np.str_]


class LabelsError(ExportError, ValueError):
    """The labeled data cannot be used; `problems` lists everything found, with row numbers."""

    def __init__(self, file: str, problems: Sequence[str]) -> None:
        """Compose the message from the file's name and all its problems."""
        self.problems = tuple(problems)
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__(
            f"{file} has {count} (the header is row 1):" + "".join(f"\n- {p}" for p in problems)
        )


@dataclass(frozen=True, slots=True, eq=False)
class LabeledPredictions:
    """N faces of known age with the readings of E experts."""

    age_years: Floats
    """(N,) true ages, 0 to 120."""
    names: tuple[str, ...]
    """The E experts."""
    predictions_years: Floats
    """(N, E), complete and finite."""
    subjects: Strings | None = None
    """(N,) who is in the picture; None when every face is its own subject."""
    groups: Mapping[str, Strings] = field(default_factory=dict)
    """(N,) values by the name of the group's column."""

    def __len__(self) -> int:
        """Number of faces."""
        return len(self.age_years)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> LabeledPredictions:
        """The faces at some rows, in that order."""
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
    """Reads and checks a CSV of predictions.

    Args:
        path: the CSV, UTF-8, with a header.
        experts: columns that hold the experts' readings in years.
        groups: columns to report separately, beside every column whose name begins with `group`.
        varied: refuse an expert that gives every face the same age; it cannot be calibrated.

    Raises:
        LabelsError: something cannot be used; every problem is listed with its rows.
    """
    header, rows = _rows(path)
    problems = _header_problems(header, rows, experts, groups)
    if problems:
        raise LabelsError(path.name, problems)
    columns = {name: [row[name] for row in rows] for name in header}
    ages = _numbers("age", columns["age"], problems)
    outside = np.isfinite(ages) & ((ages < 0.0) | (ages > OLDEST_YEARS))
    if outside.any():
        problems.append(f"age: outside 0..{OLDEST_YEARS:g} in {_listed(outside)}")
    readings = np.stack([_numbers(name, columns[name], problems) for name in experts], axis=1)
    if varied:
        problems.extend(_constant_problems(experts, readings))
    problems.extend(_duplicate_problems(columns.get("id")))
    subjects = _subjects(columns.get("subject"), problems)
    chosen = [c for c in header if c in groups or (c.startswith("group") and c not in experts)]
    values = {column: np.array(columns[column], dtype=np.str_) for column in chosen}
    problems.extend(
        f"{column}: {len(np.unique(v))} different values are too many for a group "
        f"(at most {MOST_GROUPS})"
        for column, v in values.items()
        if len(np.unique(v)) > MOST_GROUPS
    )
    if problems:
        raise LabelsError(path.name, problems)
    return LabeledPredictions(ages, tuple(experts), readings, subjects, values)


def _rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Header and rows; a row that is too short is filled up, a longer one cut."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            lines = [[cell.strip() for cell in line] for line in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise LabelsError(path.name, [f"cannot be read: {error}"]) from error
    while lines and not any(lines[-1]):
        lines.pop()
    width = len(header)
    return header, [dict(zip(header, (line + [""] * width)[:width], strict=True)) for line in lines]


def _header_problems(
    header: Sequence[str],
    rows: Sequence[Mapping[str, str]],
    experts: Sequence[str],
    groups: Sequence[str],
) -> list[str]:
    found = ", ".join(header) or "nothing"
    problems = [
        f"column {name!r} is missing; found {found}"
        for name in ("age", *experts, *groups)
        if name not in header
    ]
    problems += [f"column {name!r} comes twice" for name in _repeated(header)]
    problems += [f"expert {name!r} was asked for twice" for name in _repeated(experts)]
    problems += [
        f"an expert cannot be called {name!r}: the reports use that name"
        for name in sorted(RESERVED_NAMES.intersection(experts))
    ]
    if not experts:
        problems.append("no expert was asked for")
    if not rows:
        problems.append("there are no faces, only a header")
    return problems


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if list(names).count(name) > 1})


def _numbers(name: str, cells: Sequence[str], problems: list[str]) -> Floats:
    """(N,) the column as numbers; NaN, with a problem noted, where a cell holds none."""
    values = np.array([_number(cell) for cell in cells])
    bad = ~np.isfinite(values)
    if bad.all():
        problems.append(f"{name}: holds no number at all")
    elif bad.any():
        first = cells[int(np.flatnonzero(bad)[0])]
        problems.append(f"{name}: no finite number in {_listed(bad)}; the first is {first!r}")
    return values


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _constant_problems(experts: Sequence[str], readings: Floats) -> list[str]:
    return [
        f"{name}: is {column[0]:g} for every face; it says nothing about age, leave it out"
        for name, column in zip(experts, readings.T, strict=True)
        if len(column) > 1 and np.isfinite(column).all() and np.ptp(column) == 0.0
    ]


def _duplicate_problems(ids: Sequence[str] | None) -> list[str]:
    """One problem per id that comes more than once."""
    rows: dict[str, list[int]] = {}
    for index, name in enumerate(ids or ()):
        rows.setdefault(name, []).append(index)
    repeated = {name: at for name, at in rows.items() if len(at) > 1 and name}
    problems = [
        f"id {name!r} comes {len(at)} times, in {_rows_text(at)}"
        for name, at in list(repeated.items())[:_LISTED_ROWS]
    ]
    if len(repeated) > _LISTED_ROWS:
        problems.append(f"id: {len(repeated) - _LISTED_ROWS} more come more than once")
    return problems


def _subjects(cells: Sequence[str] | None, problems: list[str]) -> Strings | None:
    if cells is None:
        return None
    values = np.array(cells, dtype=np.str_)
    if (values == "").any():
        problems.append(f"subject: empty in {_listed(values == '')}")
    return values


def _listed(rows: NDArray[np.bool_]) -> str:
    return _rows_text(np.flatnonzero(rows).tolist())


def _rows_text(indices: Sequence[int]) -> str:
    """Row numbers as a spreadsheet counts them: the header is row 1."""
    shown = ", ".join(str(index + 2) for index in indices[:_LISTED_ROWS])
    rest = len(indices) - _LISTED_ROWS
    more = f" and {rest} more" if rest > 0 else ""
    return f"row{'s' if len(indices) > 1 else ''} {shown}{more}"
