"""Labeled pictures: one face of known age each, found and read in the layouts of data sets.

- `agedb`: `16_AlbertEinstein_59_m.jpg`, number, name, age, gender;
- `utkface`: `25_0_1_20170116174525125.jpg.chip.jpg`, age, gender, race, date; a few of the
  published names lack gender, race or the dot before `jpg`;
- `fgnet`: `001A02.JPG`, subject and age, letters may follow (as in All-Age-Faces);
- `caf`: a text file of lines `id filename age gender`, as published with the Cross-Age Faces;
- `csv`: a CSV with the columns `path` (or `image`) and `age`, optionally `subject`, `source`, the
  position of the face (module `runtime.columns`) and groups; the names of the columns can be
  changed.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from export.calibration.csv_tables import (
    LabelsError,
    missing_problem,
    picture_name,
    read_csv,
    repeated,
)
from export.calibration.labeled_predictions import OLDEST_YEARS, group_columns
from runtime.columns import AGE, PATH, POSITION, SOURCE, SUBJECT
from runtime.files import read_text
from runtime.images import is_photograph
from runtime.places import Place, column_problems, place_of

logger = logging.getLogger("agemoe")

Layout = Literal["auto", "agedb", "utkface", "fgnet", "caf", "csv"]
LAYOUTS: tuple[Layout, ...] = ("auto", "agedb", "utkface", "fgnet", "caf", "csv")

_PATTERNS: Mapping[str, re.Pattern[str]] = {
    "agedb": re.compile(r"\d+_(?P<subject>.+)_(?P<age>\d{1,3})_(?P<gender>[mf])", re.IGNORECASE),
    "utkface": re.compile(
        r"(?P<age>\d{1,3})(?:_(?P<gender>[01])?)?(?:_(?P<race>[0-4]))?_\d{8,} ?(?:jpe?g)?"
    ),
    "fgnet": re.compile(r"(?P<subject>\d{3,5})A(?P<age>\d{1,3})[a-z]*", re.IGNORECASE),
}
_CODES: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "utkface": {
        "gender": {"0": "male", "1": "female"},
        "race": {"0": "white", "1": "black", "2": "asian", "3": "indian", "4": "other"},
    },
    "agedb": {"gender": {"m": "male", "f": "female"}},
    "caf": {"gender": {"1": "male", "0": "female"}},
}
_CAF_FIELDS = (SUBJECT, "filename", AGE, "gender")
KEYS = (PATH, AGE, SUBJECT, SOURCE, *POSITION)
"""Columns of a CSV that mean something, besides groups; `--columns` renames them."""
_LISTED = 20
_FEW_SHARE = 0.05
"""Of a folder's pictures: so many may have names of no layout; they are left out and counted."""


@dataclass(frozen=True, slots=True)
class LabeledFace:
    """One face of known age in a picture."""

    path: Path
    name: str
    """Identifies the face in tables: the picture's path within the data set, and the face's box
    where several faces of the picture are labeled."""
    age_years: float
    subject: str | None = None
    """The person in the picture; None when unknown."""
    groups: Mapping[str, str] = field(default_factory=dict)
    source: str | None = None
    """The data set or camera the picture is from; None when unknown."""
    place: Place = field(default_factory=Place)
    """The labeled position of the face."""


class _Entry(NamedTuple):
    """A picture before its labels are validated."""

    place: str
    """Row, line or name, for problems."""
    path: Path
    name: str
    labels: Mapping[str, str]
    """With the key `age`, optionally `subject`, `source` and those of a position."""
    groups: Mapping[str, str]


def read_faces(
    source: Path,
    layout: Layout = "auto",
    columns: Mapping[str, str] | None = None,
    groups: Sequence[str] = (),
) -> list[LabeledFace]:
    """Finds labeled faces.

    Args:
        source: a folder, searched recursively; a CSV; or a text file of CAF.
        layout: the layout of the labels; `auto` detects it.
        columns: the CSV's own names of the columns in `KEYS`.
        groups: labels to report separately. In a CSV also the columns named `group…`; in other
            layouts none means all that the layout has.

    Raises:
        LabelsError: the labels cannot be used; every problem is listed.
    """
    problems: list[str] = []
    chosen = _layout_of(source) if layout == "auto" else layout
    if chosen == "csv":
        entries = _from_csv(source, columns or {}, groups, problems)
    elif chosen == "caf":
        entries = _from_caf(source, problems)
    else:
        entries = _from_folder(source, chosen, problems)
    listed = list(entries)
    faces = [_face(entry, _CODES.get(chosen, {}), groups, problems) for entry in listed]
    faces = _named_apart(faces)
    problems += _repeated_problems(faces, [entry.place for entry in listed])
    if not faces and not problems:
        problems.append(f"no labeled picture was found with layout {chosen!r}")
    if problems:
        rest = len(problems) - _LISTED
        more = [f"… and {rest} more"] if rest > 0 else []
        raise LabelsError(source.name, problems[:_LISTED] + more)
    return faces


def _layout_of(source: Path) -> str:
    """Returns the layout by the suffix of the source, or by the names of most of its pictures."""
    if source.suffix.lower() == ".csv":
        return "csv"
    if source.suffix.lower() == ".txt":
        return "caf"
    stems = [_stem(path) for path in _pictures(source)]
    fits = {
        name: sum(pattern.fullmatch(stem) is not None for stem in stems)
        for name, pattern in _PATTERNS.items()
    }
    best = max(fits, key=lambda name: fits[name])
    if fits[best] == 0:
        shown = f"the first of {len(stems)} is {stems[0]!r}" if stems else "there are none"
        problem = (
            f"no picture has its age in its name, as in the layouts {', '.join(_PATTERNS)}; "
            f"{shown}. Give a CSV with the columns {PATH} and {AGE} instead"
        )
        raise LabelsError(source.name, [problem])
    return best


def _pictures(folder: Path) -> list[Path]:
    def fail(error: OSError) -> None:
        problem = f"{error.filename} cannot be searched ({error.strerror})"
        raise LabelsError(folder.name, [problem]) from error

    walked = os.walk(folder, onerror=fail)
    found = [Path(where) / name for where, _, names in walked for name in names]
    return sorted(p for p in found if is_photograph(p.relative_to(folder)) and p.is_file())


def _stem(path: Path) -> str:
    """Returns the name up to its first dot: UTKFace's aligned pictures end in `.jpg.chip.jpg`."""
    return path.name.split(".", 1)[0]


def _from_folder(folder: Path, layout: str, problems: list[str]) -> Iterator[_Entry]:
    pictures = _pictures(folder)
    names = {path: path.relative_to(folder).as_posix() for path in pictures}
    matches = {path: _PATTERNS[layout].fullmatch(_stem(path)) for path in pictures}
    unusable = [names[path] for path, match in matches.items() if match is None]
    if len(unusable) > _FEW_SHARE * len(pictures):
        problems += [f"{name}: is not a name of the layout {layout}" for name in unusable]
    elif unusable:
        more = ", …" if len(unusable) > _LISTED else ""
        logger.warning(
            "%d of %d pictures are left out, because their names are not of the layout %s: %s%s",
            len(unusable),
            len(pictures),
            layout,
            ", ".join(unusable[:_LISTED]),
            more,
        )
    for path, match in matches.items():
        if match is not None:
            labels = {key: value for key, value in match.groupdict().items() if value is not None}
            yield _Entry(names[path], path, names[path], *_split(labels))


def _from_caf(source: Path, problems: list[str]) -> Iterator[_Entry]:
    try:
        lines = read_text(source).splitlines()
    except (OSError, ValueError) as error:
        raise LabelsError(source.name, [f"cannot be read: {error}"]) from error
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if len(fields) == len(_CAF_FIELDS):
            labels = dict(zip(_CAF_FIELDS, fields, strict=True))
            name = labels.pop("filename")
            yield _Entry(f"line {number}", source.parent / name, name, *_split(labels))
        elif fields:
            problems.append(f"line {number}: is not `id filename age gender`, got {line!r}")


def _from_csv(
    source: Path, columns: Mapping[str, str], groups: Sequence[str], problems: list[str]
) -> Iterator[_Entry]:
    header, rows = read_csv(source)
    names = {key: columns.get(key, key) for key in KEYS}
    names[PATH] = picture_name(columns, header)
    wanted = dict.fromkeys((names[PATH], names[AGE], *columns.values(), *groups))
    problems += [missing_problem(source.name, n, header) for n in wanted if n not in header]
    used = {*names.values(), *wanted}
    problems += [f"column {name!r} comes twice" for name in repeated(header) if name in used]
    problems += column_problems({key for key, name in names.items() if name in header})
    chosen = group_columns(header, (), groups)
    for number, row in enumerate([] if problems else rows, start=2):
        if any(row.values()):
            labels = {key: row[name] for key, name in names.items() if name in header}
            name = labels.pop(PATH)
            if not name:
                problems.append(f"row {number}: the column {names[PATH]!r} is empty")
                continue
            belongs = {column: row[column] for column in chosen}
            yield _Entry(f"row {number}", source.parent / name, name, labels, belongs)


def _split(labels: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the labels that mean something, and the others, which are groups."""
    known = {key: value for key, value in labels.items() if key in KEYS}
    return known, {key: value for key, value in labels.items() if key not in KEYS}


def _face(
    entry: _Entry,
    codes: Mapping[str, Mapping[str, str]],
    groups: Sequence[str],
    problems: list[str],
) -> LabeledFace:
    labels = entry.labels
    if not _exists(entry.path):
        problems.append(f"{entry.place}: picture {entry.path.name!r} does not exist")
    text = labels[AGE]
    try:
        age = float(text)
    except ValueError:
        age = -1.0
    if not 0.0 <= age <= OLDEST_YEARS:
        problems.append(f"{entry.place}: age {text!r} is no number within 0..{OLDEST_YEARS:g}")
    found = {k: codes.get(k, {}).get(value.lower(), value) for k, value in entry.groups.items()}
    if absent := [name for name in groups if name not in found]:
        known = ", ".join(found) or "none"
        problems.append(f"{entry.place}: has no label {', '.join(absent)} to group by; has {known}")
    if groups and codes:
        found = {name: value for name, value in found.items() if name in groups}
    return LabeledFace(
        entry.path,
        entry.name,
        age,
        labels.get(SUBJECT) or None,
        found,
        labels.get(SOURCE) or None,
        place_of(labels, lambda text: problems.append(f"{entry.place}: {text}")),
    )


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, as where a quote is not closed
        return False


def _repeated_problems(faces: Sequence[LabeledFace], places: Sequence[str]) -> list[str]:
    """Returns a problem for each picture that is listed several times, with its places and ages.

    Names that are spelled differently, `1.jpg` and `./1.jpg`, are one picture.
    """
    listed: dict[tuple[str, str], list[str]] = {}
    names: dict[tuple[str, str], str] = {}
    for face, place in zip(faces, places, strict=True):
        key = (os.path.normpath(Path.cwd() / face.path), _shown_box(face))
        names.setdefault(key, face.name)
        listed.setdefault(key, []).append(f"{place} (age {face.age_years:g})")
    return [
        f"picture {names[key]!r} is listed twice: {', '.join(found[:_LISTED])}"
        for key, found in sorted(listed.items())
        if len(found) > 1
    ]


def _shown_box(face: LabeledFace) -> str:
    return " ".join(f"{n:g}" for n in face.place.box or ())


def _named_apart(faces: Sequence[LabeledFace]) -> list[LabeledFace]:
    """Adds the boxes to the names of faces that share a picture."""
    shared = set(repeated(face.name for face in faces))
    return [
        replace(face, name=f"{face.name} {_shown_box(face)}")
        if face.name in shared and face.place.box is not None
        else face
        for face in faces
    ]
