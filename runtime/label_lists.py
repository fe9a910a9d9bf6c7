"""Input of bulk labeling: which photographs, and the faces in them that are known already."""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from runtime.alignment import landmarks_from
from runtime.detection import Detection
from runtime.file_system import portable
from runtime.files import read_rows, read_text
from runtime.images import is_of_macos, is_photograph
from runtime.label_tables import (
    BOX_COLUMNS,
    CSV,
    LANDMARK_COLUMNS,
    PARQUET,
    LabelingError,
    import_pyarrow,
)
from runtime.results import Box

_GIVEN_COLUMNS = ("path", *BOX_COLUMNS, "score", "turn", *LANDMARK_COLUMNS)
"""Columns of a list that are read."""


def photographs_in(sources: Sequence[str]) -> list[str]:
    """Resolves sources to photographs, without duplicates, in the order of the sources.

    Args:
        sources: folders, which are searched recursively; photographs; patterns such as
            `holiday/**/*.jpg`; and CSV or Parquet lists with a column `path`, relative to the
            list's folder, and optionally those of `listed_faces`. The photographs of a folder or
            pattern are sorted.

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


def listed_faces(sources: Sequence[str]) -> dict[str, tuple[Detection, ...]]:
    """Returns the faces that lists give, by photograph, so that they need not be detected.

    A row with numbers in `BOX_COLUMNS` gives a face, and its landmarks with numbers in
    `LANDMARK_COLUMNS`; `score` and `turn` are optional. So a table of `label` is such a list.
    Photographs whose rows have no box are left out.

    Args:
        sources: as in `photographs_in`; those that are not lists give no faces.

    Raises:
        LabelingError: a list cannot be read, or a row has only a part of these numbers.
    """
    faces: dict[str, list[Detection | None]] = {}
    for path in map(Path, sources):
        if path.suffix.lower() in (CSV, PARQUET):
            for number, row in enumerate(_rows(path), 2):
                try:
                    name = portable(path.parent / row["path"])
                    faces.setdefault(name, []).append(_listed_face(row))
                except ValueError as error:
                    raise LabelingError(f"{path}, row {number}: {error}") from error
    if mixed := next((name for name, own in faces.items() if None in own and any(own)), None):
        raise LabelingError(
            f"Only some rows of {mixed} have a box in {', '.join(BOX_COLUMNS)}. Give one in each, "
            f"or in none."
        )
    given = {name: tuple(face for face in own if face) for name, own in faces.items()}
    return {name: own for name, own in given.items() if own}


def _photographs(source: str) -> Iterator[str]:
    path = Path(source)
    if path.is_dir():
        yield from _in_folder(path)
    elif path.suffix.lower() in (CSV, PARQUET):
        yield from (portable(path.parent / row["path"]) for row in _rows(path))
    elif not path.exists() and glob.has_magic(source):
        matches = glob.glob(source, recursive=True)  # noqa: PTH207 - of absolute patterns too
        files = (m for m in matches if Path(m).is_file() and not is_of_macos(Path(m)))
        yield from sorted(map(portable, files))
    else:
        yield portable(source)


def _in_folder(folder: Path) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise LabelingError(
            f"{error.filename} cannot be searched ({error.strerror}). Grant access to it, or "
            f"name the folders to search."
        ) from error

    for where, folders, files in os.walk(folder, onerror=fail):
        folders.sort()
        within = Path(where).relative_to(folder)
        yield from (portable(Path(where) / n) for n in sorted(files) if is_photograph(within / n))


def _rows(path: Path) -> list[Mapping[str, str]]:
    """Returns the rows of a list that name a photograph, with its known columns as text."""
    try:
        rows = _parquet_rows(path) if path.suffix.lower() == PARQUET else _csv_rows(path)
    except (OSError, ValueError, KeyError, csv.Error) as error:  # pyarrow's derive from them
        raise LabelingError(
            f"{path} cannot be read as a list with a column 'path' ({error})."
        ) from error
    return [row for row in rows if row["path"]]


def _csv_rows(path: Path) -> list[dict[str, str]]:
    """Reads the known columns of a CSV with commas, semicolons or tabs; rows may be shorter."""
    header, rows = read_rows(read_text(path))
    if "path" not in header:
        raise ValueError(f"its columns are {', '.join(header)[:200] or 'none'}")
    nothing = dict.fromkeys(_GIVEN_COLUMNS, "")
    known = set(_GIVEN_COLUMNS)
    return [
        nothing | {name: cell for name, cell in zip(header, row, strict=False) if name in known}
        for row in rows
    ]


def _parquet_rows(path: Path) -> list[dict[str, str]]:
    parquet = import_pyarrow(path, "pyarrow.parquet")
    names = [name for name in _GIVEN_COLUMNS if name in parquet.read_schema(path).names]
    rows = parquet.read_table(path, columns=sorted({"path", *names})).to_pylist()
    if other := next((r["path"] for r in rows if not isinstance(r["path"], str | None)), None):
        raise ValueError(f"it holds {other!r}, which is not text")
    return [
        {name: "" if row.get(name) is None else str(row[name]) for name in _GIVEN_COLUMNS}
        for row in rows
    ]


def _listed_face(row: Mapping[str, str]) -> Detection | None:
    """Returns the face of a row; raises `ValueError` if only a part of it is given."""
    box, points = _numbers(row, BOX_COLUMNS), _numbers(row, LANDMARK_COLUMNS)
    if box is None:
        if points is not None:
            raise ValueError(f"landmarks need a box in {', '.join(BOX_COLUMNS)}")
        return None
    turn = int(row["turn"] or 0)
    if turn not in range(4):
        raise ValueError(f"turn must be within 0..3, got {turn}")
    return Detection(
        cast(Box, box),
        float(row["score"]) if row["score"] else None,
        turn,
        landmarks=None if points is None else landmarks_from(np.reshape(points, (5, 2))),
    )


def _numbers(row: Mapping[str, str], columns: Sequence[str]) -> tuple[float, ...] | None:
    """Returns the numbers of some columns; None if all are empty."""
    given = [name for name in columns if row[name]]
    if not given:
        return None
    if len(given) != len(columns):
        absent = next(name for name in columns if name not in given)
        raise ValueError(f"{given[0]} is given without {absent}")
    return tuple(float(row[name]) for name in columns)
