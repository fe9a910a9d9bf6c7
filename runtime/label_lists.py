"""Input of bulk labeling: which photographs, and the faces in them that are known already."""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from runtime.columns import (
    BOX,
    BOX_CORNERS,
    IMAGE,
    PATH,
    POSITION,
    SCORE,
    picture_column,
)
from runtime.detection import PERSON, Detection
from runtime.file_system import portable
from runtime.files import is_regular, read_rows, read_text
from runtime.image_files import format_of
from runtime.images import is_of_macos, is_photograph
from runtime.label_tables import CSV, PARQUET, LabelingError, import_pyarrow
from runtime.places import place_of

_GIVEN_COLUMNS = (PATH, IMAGE, SCORE, *POSITION)
"""Columns of a list that are read."""
_FORMAT_BYTES = 12
_CURE = (
    f"Give folders, photographs, patterns, or CSV or Parquet files with a column '{PATH}' (or "
    f"'{IMAGE}')."
)


def photographs_in(sources: Sequence[str]) -> list[str]:
    """Resolves sources to photographs, without duplicates, in the order of the sources.

    Args:
        sources: folders, which are searched recursively; photographs; patterns such as
            `holiday/**/*.jpg`; and CSV or Parquet lists with a column `path` (or `image`), relative
            to the list's folder, and optionally those of `listed_faces`. The photographs of a
            folder or pattern are sorted.

    Raises:
        LabelingError: a source does not exist, is no picture, or has no photographs, or a list
            cannot be read.
    """
    for wrong, fact in ((_is_missing, "does not exist"), (_is_other, "is no JPEG, PNG or WebP")):
        if bad := [source for source in sources if wrong(source)]:
            more = f" (and {len(bad) - 1:,} more)" if bad[1:] else ""
            raise LabelingError(f"{bad[0]} {fact}{more}. {_CURE}")
    found: dict[str, None] = {}
    for source in sources:
        paths = list(_photographs(source))
        if not paths:
            raise LabelingError(f"There is no photograph in {source}. {_CURE}")
        found |= dict.fromkeys(paths)
    return list(found)


def listed_faces(sources: Sequence[str]) -> dict[str, tuple[Detection, ...]]:
    """Returns the faces that lists give, by photograph, so that they need not be detected.

    The columns are those of `runtime.columns`: a row with a box gives a face; its landmarks, the
    box of its person, `score` and `turn` are optional. So a table of `label` is such a list, and so
    are labeled faces of calibration. Photographs whose rows have no box are left out.

    Args:
        sources: as in `photographs_in`; those that are not lists give no faces.

    Raises:
        LabelingError: a list cannot be read, or a row has only a part of these numbers.
    """
    faces: dict[str, list[tuple[Detection, ...]]] = {}
    for path in filter(_is_list, map(Path, sources)):
        for number, row in enumerate(_rows(path), 2):
            try:
                faces.setdefault(_photograph(path, row), []).append(_listed_face(row))
            except ValueError as error:
                raise LabelingError(f"{path}, row {number}: {error}") from error
    if mixed := next((name for name, own in faces.items() if () in own and any(own)), None):
        raise LabelingError(
            f"Only some rows of {mixed} have a box in {', '.join(BOX)} or in "
            f"{', '.join(BOX_CORNERS)}. Give one in each, or in none."
        )
    given = {name: tuple(f for row in own for f in row) for name, own in faces.items()}
    return {name: own for name, own in given.items() if own}


def _is_list(path: Path) -> bool:
    return path.suffix.lower() in (CSV, PARQUET)


def _is_missing(source: str) -> bool:
    """Returns whether a source is no pattern, and there is nothing of its name."""
    if glob.has_magic(source):
        return False
    return not os.path.exists(source)  # noqa: PTH110 - false for a name that is too long


def _is_other(source: str) -> bool:
    """Returns whether a source is a file that has neither name nor content of a photograph.

    A damaged photograph is one row of the table, with its error.
    """
    path = Path(source)
    if _is_list(path) or is_photograph(Path(path.name)) or not is_regular(path):
        return False
    try:
        with path.open("rb") as file:
            return format_of(file.read(_FORMAT_BYTES)) is None
    except OSError:  # the row of the photograph says why
        return False


def _photograph(path: Path, row: Mapping[str, str]) -> str:
    """Returns the path of the photograph of a list's row."""
    return portable(path.parent / row[PATH])


def _photographs(source: str) -> Iterator[str]:
    path = Path(source)
    if path.is_dir():
        yield from _in_folder(path)
    elif _is_list(path):
        yield from (_photograph(path, row) for row in _rows(path))
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
            f"{path} cannot be read as a list with a column '{PATH}' or '{IMAGE}' ({error})."
        ) from error
    return [row for row in rows if row[PATH]]


def _csv_rows(path: Path) -> list[dict[str, str]]:
    """Reads the known columns of a CSV with commas, semicolons or tabs; rows may be shorter."""
    header, rows = read_rows(read_text(path))
    pictures = _pictures(header)
    nothing = dict.fromkeys(_GIVEN_COLUMNS, "")
    known = set(_GIVEN_COLUMNS)
    found = [
        nothing | {name: cell for name, cell in zip(header, row, strict=False) if name in known}
        for row in rows
    ]
    return [{**row, PATH: row[pictures]} for row in found]


def _parquet_rows(path: Path) -> list[dict[str, str]]:
    parquet = import_pyarrow(path, "pyarrow.parquet")
    header = parquet.read_schema(path).names
    pictures = _pictures(header)
    names = [name for name in _GIVEN_COLUMNS if name in header]
    rows = parquet.read_table(path, columns=names).to_pylist()
    if other := next((r[pictures] for r in rows if not isinstance(r[pictures], str | None)), None):
        raise ValueError(f"it holds {other!r}, which is not text")
    found = [
        {name: "" if row.get(name) is None else str(row[name]) for name in _GIVEN_COLUMNS}
        for row in rows
    ]
    return [{**row, PATH: row[pictures]} for row in found]


def _pictures(header: Sequence[str]) -> str:
    """Returns the column that names the photographs; raises `ValueError` if there is none."""
    if (name := picture_column(header)) is None:
        raise ValueError(f"its columns are {', '.join(header)[:200] or 'none'}")
    return name


def _listed_face(row: Mapping[str, str]) -> tuple[Detection, ...]:
    """Returns the face of a row, and its person if that is given; empty without a box.

    Raises:
        ValueError: the position is not stated completely.
    """
    problems: list[str] = []
    place = place_of(row, problems.append)
    if problems:
        raise ValueError("; ".join(problems))
    if place.box is None:
        return ()
    score = float(row[SCORE]) if row[SCORE] else None
    face = Detection(place.box, score, place.turn, landmarks=place.landmarks)
    return face, *(() if place.person_box is None else (Detection(place.person_box, kind=PERSON),))
