"""Labeled predictions: the true age and each expert's raw prediction for every face.

As a CSV: the columns `age` and one per expert, `age_NAME` as in the tables of `label` or just
`NAME`, optionally `id`, `subject` (the person in the picture), `source` (the data set or camera the
picture is from) and groups (every column named `group…`, and any column requested by name), the
quality of the faces, `quality_sharpness` and so on by the names in `runtime.quality`, and
`picture_sha256`, the hash of the picture's file. Cells of `subject`, `source`, groups, quality and
hash may be empty.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.calibration.csv_tables import (
    LabelsError,
    Strings,
    missing_problem,
    read_csv,
    repeated,
)
from runtime.columns import AGE, ID, SOURCE, SUBJECT, expert_column
from runtime.files import write_whole
from runtime.fusion import Floats
from runtime.quality import QUANTITIES

logger = logging.getLogger("agemoe")

OLDEST_YEARS = 120.0
"""Upper limit of labels; the lower one is 0."""
MOST_GROUPS = 200
"""A column with more distinct values does not form groups."""
MOST_SOURCES = 20
"""Everything is fitted again without each source, so there is a limit on them."""
_RESERVED_NAMES = frozenset({"fused", "mean", AGE, ID, SUBJECT, SOURCE})
"""Not allowed as names of experts: reports and CSVs use them."""
PICTURE = "picture_sha256"
_QUALITY = {f"quality_{name}": name for name in QUANTITIES}
"""Quantities of `runtime.quality.FaceQuality`, by their columns."""
_LISTED_ROWS = 12


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
    """(N,) the person in each picture; empty, or None for all, is a person of its own."""
    groups: Mapping[str, Strings] = field(default_factory=dict)
    """(N,) values, by the name of the group's column; a face with an empty one is in no group."""
    sources: Strings | None = None
    """(N,) the source of each picture, empty where unknown; None without such a column."""
    quality: Mapping[str, Floats] = field(default_factory=dict)
    """(N,) quantities of `runtime.quality.FaceQuality`, by name; NaN where unknown."""
    pictures: Strings | None = None
    """(N,) SHA-256 of the file of each picture, empty where unknown; None for all."""

    def __len__(self) -> int:
        """Number of faces."""
        return len(self.age_years)

    @property
    def people(self) -> NDArray[np.intp]:
        """(N,) the number of the person in each picture, from 0."""
        if self.subjects is None:
            return np.arange(len(self))
        named = self.subjects != ""
        known, numbers = np.unique(self.subjects[named], return_inverse=True)
        people = np.arange(len(known), len(known) + len(self))
        people[named] = numbers
        return np.unique(people, return_inverse=True)[1]

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> LabeledPredictions:
        """Returns the faces at some rows, in that order."""
        return LabeledPredictions(
            self.age_years[rows],
            self.names,
            self.predictions_years[rows],
            None if self.subjects is None else self.subjects[rows],
            {column: values[rows] for column, values in self.groups.items()},
            None if self.sources is None else self.sources[rows],
            {name: values[rows] for name, values in self.quality.items()},
            None if self.pictures is None else self.pictures[rows],
        )


def read_predictions(
    path: Path,
    experts: Sequence[str],
    groups: Sequence[str] = (),
    *,
    sources: str | None = None,
    varied: bool = True,
) -> LabeledPredictions:
    """Reads and validates a CSV of labeled predictions.

    Args:
        path: the CSV, UTF-8, with a header.
        experts: their raw predictions in years are in the columns of their names, or those of
            `expert_column`.
        groups: columns to report separately, besides every column whose name begins with `group`
            and the column of sources.
        sources: column of the sources; None means `source`, if there is one.
        varied: refuse an expert that predicts one age for all faces; it cannot be calibrated.

    Raises:
        LabelsError: the file cannot be used; every problem is listed with its rows.
    """
    header, rows = read_csv(path)
    wanted = [*groups, *([] if sources is None else [sources])]
    problems = _header_problems(path.name, header, experts, wanted)
    if not rows:
        problems.append("there are no faces, only a header")
    if problems:
        raise LabelsError(path.name, problems)
    columns = {name: np.array([row[name] for row in rows], dtype=np.str_) for name in header}
    columns |= {name: columns.pop(_column_of(name, header)) for name in experts}
    return predictions_of(path.name, columns, experts, wanted, sources=sources, varied=varied)


def predictions_of(
    name: str,
    columns: Mapping[str, Strings],
    experts: Sequence[str],
    groups: Sequence[str],
    *,
    sources: str | None = None,
    varied: bool = True,
) -> LabeledPredictions:
    """Validates the columns of a table of labeled predictions, as `read_predictions` does.

    Args:
        name: of the table, for messages.
        columns: (N,) cells by column, `age` and the experts among them.
        experts: as in `read_predictions`.
        groups: as in `read_predictions`.
        sources: as in `read_predictions`.
        varied: as in `read_predictions`.

    Raises:
        LabelsError: a value cannot be used; every problem is listed with its rows.
    """
    numbers = {key: np.array([_number(c) for c in columns[key]]) for key in (AGE, *experts)}
    problems: list[str] = []
    for key, values in numbers.items():
        problems += _problem(key, "no finite number", columns[key], ~np.isfinite(values))
    ages, years = numbers.pop(AGE), np.stack(list(numbers.values()), axis=1)
    cells = {name: columns[key] for key, name in _QUALITY.items() if key in columns}
    quality = {name: np.array([_number(c) for c in own]) for name, own in cells.items()}
    for name, values in quality.items():
        bad = ~np.isfinite(values) & (cells[name] != "")
        problems += _problem(f"quality_{name}", "no finite number", cells[name], bad)
    outside = (ages < 0.0) | (ages > OLDEST_YEARS)
    problems += _problem(AGE, f"outside 0..{OLDEST_YEARS:g}", columns[AGE], outside)
    problems += constant_problems(experts, years) if varied else []
    if (ids := columns.get(ID)) is not None:
        problems += _problem(ID, "not unique", ids, np.isin(ids, repeated(ids)) & (ids != ""))
    chosen = group_columns(columns, experts, groups)
    problems += [
        f"{column}: {count} different values are too many for a group (at most {MOST_GROUPS})"
        for column in chosen
        if (count := len(np.unique(columns[column]))) > MOST_GROUPS
    ]
    origin = source_column(columns, sources, problems)
    if problems:
        raise LabelsError(name, problems)
    groups_of = {column: columns[column] for column in chosen}
    if origin is not None:
        groups_of[origin] = columns[origin]
    return LabeledPredictions(
        ages,
        tuple(experts),
        years,
        columns.get(SUBJECT),
        groups_of,
        None if origin is None else columns[origin],
        quality,
        columns.get(PICTURE),
    )


def group_columns(
    columns: Iterable[str], experts: Sequence[str], groups: Sequence[str]
) -> list[str]:
    """Returns the columns to report separately: requested, or with a name like `group…`."""
    return [c for c in columns if c in groups or (c.startswith("group") and c not in experts)]


def source_column(
    columns: Mapping[str, Strings], requested: str | None, problems: list[str]
) -> str | None:
    """Returns the column of the sources; None if there is none.

    Notes a problem where a requested column has too many values. An unrequested `source` with too
    many of them is not used, with a warning.
    """
    name = SOURCE if requested is None else requested
    if name not in columns:
        return None
    count = len(set(columns[name]) - {""})
    if count <= MOST_SOURCES:
        return name
    text = f"{name}: {count} different values are too many sources (at most {MOST_SOURCES})"
    if requested is None:
        logger.warning("%s; the column is not used.", text)
    else:
        problems.append(text)
    return None


def write_predictions(path: Path, ids: Sequence[str], faces: LabeledPredictions) -> None:
    """Writes the CSV that `read_predictions` reads."""
    columns = {
        ID: ids,
        AGE: [f"{age:g}" for age in faces.age_years],
        **({} if faces.subjects is None else {SUBJECT: faces.subjects}),
        **({} if faces.sources is None else {SOURCE: faces.sources}),
        **faces.groups,
        **dict(
            zip(map(expert_column, faces.names), faces.predictions_years.T.tolist(), strict=True)
        ),
        **{
            column: [f"{value:.6g}" if np.isfinite(value) else "" for value in faces.quality[name]]
            for column, name in _QUALITY.items()
            if name in faces.quality
        },
        **({} if faces.pictures is None else {PICTURE: faces.pictures}),
    }
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    write_whole(path, buffer.getvalue().encode())


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


def _column_of(expert: str, header: Sequence[str]) -> str:
    """Returns the column of an expert's raw predictions."""
    return expert if expert in header else expert_column(expert)


def _header_problems(
    table: str, header: Sequence[str], experts: Sequence[str], groups: Sequence[str]
) -> list[str]:
    problems = [
        missing_problem(table, name, header) for name in (AGE, *groups) if name not in header
    ]
    problems += [
        missing_problem(table, name, header, expert_column(name))
        for name in experts
        if _column_of(name, header) not in header
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
