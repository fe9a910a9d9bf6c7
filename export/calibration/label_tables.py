"""From bulk labeling to calibration: a table of `agemoe label`, and the true ages.

The table holds each expert's raw prediction (`age_NAME`) for every face of many photographs; the
true ages are another CSV with the columns `path` (or `image`) and `age`, optionally `face` (the
number of the face in its photograph), `subject`, `source` and groups. Without `face`, the largest
face of a photograph is the labeled one.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.calibration.csv_tables import (
    LabelsError,
    missing_problem,
    picture_name,
    read_csv,
    repeated,
)
from export.calibration.labeled_predictions import (
    LabeledPredictions,
    group_columns,
    predictions_of,
)
from export.calibration.raw_predictions import check_found
from runtime.columns import (
    AGE,
    BOX,
    ERROR,
    FACE,
    PATH,
    SOURCE,
    SUBJECT,
    expert_column,
    experts_in,
    is_label_table,
)
from runtime.files import resolved
from runtime.label_tables import PARQUET

logger = logging.getLogger("agemoe")

_NAMED = 5

Row = Mapping[str, str]


def join_labels(
    table: Path,
    truth: Path,
    experts: Sequence[str] | None,
    groups: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    *,
    varied: bool = True,
) -> LabeledPredictions:
    """Returns the raw predictions of a label table beside the true ages.

    A photograph is the same where both files name it equally, or where the names lead to the same
    file: those of the true ages from the folder of their CSV, those of the table from the current
    folder. Photographs without a face, or without a prediction of every expert, are left out, with
    a warning.

    Args:
        table: written by `agemoe label`, .csv or .parquet.
        truth: CSV of true ages.
        experts: the experts to use; None means all of the table.
        groups: columns of the true ages to report separately.
        columns: the true ages' own names of `path`, `age`, `subject` and `source`.
        varied: refuse an expert that predicts one age for all faces.

    Raises:
        LabelsError: a file cannot be used, or they do not fit together.
    """
    header, rows = (
        _parquet(table) if table.suffix.lower() == PARQUET else read_csv(table, estimates=True)
    )
    if not is_label_table(header):
        problem = (
            f"is no table of `agemoe label`; its columns are {', '.join(header)}. "
            f"Leave --truth out where the table itself has the true ages"
        )
        raise LabelsError(table.name, [problem])
    raw = experts_in(header)
    names = list(raw if experts is None else experts)
    if absent := [name for name in names if name not in raw]:
        problem = f"has no expert {', '.join(absent)}; it has {', '.join(raw)}"
        raise LabelsError(table.name, [problem])
    labeled = _Truth(truth, columns or {}, groups)
    pairs = _joined(table, rows, labeled)
    complete = [(t, row) for t, row in pairs if all(row[expert_column(name)] for name in names)]
    if len(complete) < len(pairs):
        logger.warning(
            "%d of %d faces are left out: they have no prediction of every expert.",
            len(pairs) - len(complete),
            len(pairs),
        )
    if not complete:
        raise LabelsError(table.name, ["no labeled face has a prediction of every expert"])
    cells = {key: np.array([t[key] for t, _ in complete]) for key in labeled.kept}
    cells |= {name: np.array([row[expert_column(name)] for _, row in complete]) for name in names}
    return predictions_of(truth.name, cells, names, labeled.groups, varied=varied)


class _Truth:
    """The rows of the CSV of true ages, by the keys of their columns."""

    def __init__(self, path: Path, columns: Mapping[str, str], groups: Sequence[str]) -> None:
        header, rows = read_csv(path)
        names = {key: columns.get(key, key) for key in (AGE, SUBJECT, SOURCE, FACE)}
        names[PATH] = picture_name(columns, header)
        wanted = (names[PATH], names[AGE], *columns.values(), *groups)
        missing = [name for name in dict.fromkeys(wanted) if name not in header]
        if missing:
            raise LabelsError(path.name, [missing_problem(path.name, n, header) for n in missing])
        self.path = path
        self.groups = group_columns(header, (), groups)
        present = {key: name for key, name in names.items() if name in header}
        present |= {name: name for name in self.groups}
        self.kept = [key for key in present if key not in (PATH, FACE)]
        self.rows = [{key: row[name] for key, name in present.items()} for row in rows]
        if twice := repeated(f"{row[PATH]} {row.get(FACE, '')}".strip() for row in self.rows):
            raise LabelsError(path.name, [f"{name} is listed twice" for name in twice[:_NAMED]])


def _joined(table: Path, rows: Sequence[Row], truth: _Truth) -> list[tuple[Row, Row]]:
    """Returns each row of the true ages with the table's row of its face."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row[PATH], []).append(row)
    by_path = {resolved(Path(name)): found for name, found in by_name.items()}
    pairs: list[tuple[Row, Row]] = []
    unknown, without = [], 0
    for wanted in truth.rows:
        image = wanted[PATH]
        found = by_name.get(image) or by_path.get(resolved(truth.path.parent / image))
        if found is None:
            unknown.append(image)
        elif face := _face_of(found, wanted.get(FACE, "")):
            pairs.append((wanted, face))
        else:
            without += 1
    if unknown:
        listed = ", ".join(unknown[:_NAMED]) + (" …" if len(unknown) > _NAMED else "")
        text = f"{len(unknown)} of {len(truth.rows)} photographs are not in {table.name}: {listed}"
        if not pairs:
            known = next(iter(by_name), "nothing")
            raise LabelsError(truth.path.name, [f"{text}. The first of {table.name} is {known}"])
        logger.warning("%s", text)
    check_found(without, len(pairs) + without, "Label them again with another --detector")
    return pairs


def _face_of(rows: Sequence[Row], number: str) -> Row | None:
    """Returns the row of the face of that number, or of the largest; None if there is none."""
    faces = [row for row in rows if row[FACE] and not row.get(ERROR)]
    if number:
        return next((row for row in faces if row[FACE] == number), None)
    return max(faces, key=_area, default=None)


def _area(row: Row) -> float:
    width, height = (row.get(name) for name in BOX[2:])
    return float(width) * float(height) if width and height else 0.0


def _parquet(path: Path) -> tuple[list[str], list[Row]]:
    """Returns header and rows of a Parquet table, its values as text."""
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
        table = parquet.read_table(path)
    except ImportError as error:
        cure = "Install agemoe-runtime[label], or label into a .csv"
        raise LabelsError(path.name, [f"needs pyarrow, which is not installed. {cure}"]) from error
    except (OSError, ValueError) as error:  # pyarrow's derive from them
        raise LabelsError(path.name, [f"cannot be read: {error}"]) from error
    rows: list[Row] = [
        {name: "" if value is None else str(value) for name, value in row.items()}
        for row in table.to_pylist()
    ]
    return list(table.column_names), rows
