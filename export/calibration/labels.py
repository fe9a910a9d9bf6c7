"""Labeled pictures: one face of known age each, found and read in the layouts of data sets.

- `agedb`: `16_AlbertEinstein_59_m.jpg`, number, name, age, gender;
- `utkface`: `25_0_1_20170116174525125.jpg.chip.jpg`, age, gender, race, date;
- `fgnet`: `001A02.JPG`, subject and age, letters may follow (as in All-Age-Faces);
- `caf`: a text file of lines `id filename age gender`, as published with the Cross-Age Faces;
- `csv`: a CSV with the columns `image` and `age`, optionally `subject` and groups; the names of
  the columns can be changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from export.calibration.labeled_predictions import OLDEST_YEARS, LabelsError, read_csv, repeated

Layout = Literal["auto", "agedb", "utkface", "fgnet", "caf", "csv"]
LAYOUTS: tuple[Layout, ...] = ("auto", "agedb", "utkface", "fgnet", "caf", "csv")

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_PATTERNS: Mapping[str, re.Pattern[str]] = {
    "agedb": re.compile(r"\d+_(?P<subject>.+)_(?P<age>\d{1,3})_(?P<gender>[mf])", re.IGNORECASE),
    "utkface": re.compile(r"(?P<age>\d{1,3})_(?P<gender>[01])(?:_(?P<race>[0-4]))?_\d{8,}"),
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
_CAF_FIELDS = 4
_LISTED = 20


@dataclass(frozen=True, slots=True)
class LabeledFace:
    """One picture of one face of known age."""

    path: Path
    name: str
    """Identifies the face in tables: the picture's path within the data set."""
    age_years: float
    subject: str | None = None
    """The person in the picture; None when unknown."""
    groups: Mapping[str, str] = field(default_factory=dict)


def read_faces(
    source: Path, layout: Layout = "auto", columns: Mapping[str, str] | None = None
) -> list[LabeledFace]:
    """Finds labeled faces.

    Args:
        source: a folder, searched recursively; a CSV; or a text file of CAF.
        layout: the layout of the labels; `auto` detects it.
        columns: the CSV's own names of the columns `image`, `age` and `subject`.

    Raises:
        LabelsError: the labels cannot be used; every problem is listed.
    """
    problems: list[str] = []
    chosen = _layout_of(source) if layout == "auto" else layout
    if chosen == "csv":
        faces = _from_csv(source, columns or {}, problems)
    elif chosen == "caf":
        faces = _from_caf(source, problems)
    else:
        faces = _from_folder(source, chosen, problems)
    problems += [f"picture {name!r} is listed twice" for name in repeated(f.name for f in faces)]
    if not faces and not problems:
        problems.append(f"no labeled picture was found with layout {chosen!r}")
    if problems:
        rest = len(problems) - _LISTED
        raise LabelsError(
            source.name, problems[:_LISTED] + ([f"… and {rest} more"] if rest > 0 else [])
        )
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
            f"{shown}. Give a CSV with the columns image and age instead"
        )
        raise LabelsError(source.name, [problem])
    return best


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())


def _stem(path: Path) -> str:
    """Returns the name up to its first dot: UTKFace's aligned pictures end in `.jpg.chip.jpg`."""
    return path.name.split(".", 1)[0]


def _from_folder(folder: Path, layout: str, problems: list[str]) -> list[LabeledFace]:
    faces = []
    for path in _pictures(folder):
        name = path.relative_to(folder).as_posix()
        match = _PATTERNS[layout].fullmatch(_stem(path))
        if match is None:
            problems.append(f"{name}: is not a name of the layout {layout}")
            continue
        labels = {key: value for key, value in match.groupdict().items() if value is not None}
        age = _age(labels.pop("age"), name, problems)
        subject = labels.pop("subject", None)
        faces.append(LabeledFace(path, name, age, subject, _decoded(layout, labels)))
    return faces


def _from_caf(source: Path, problems: list[str]) -> list[LabeledFace]:
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise LabelsError(source.name, [f"cannot be read: {error}"]) from error
    faces = []
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if len(fields) != _CAF_FIELDS:
            if fields:
                problems.append(f"line {number}: is not `id filename age gender`, got {line!r}")
            continue
        subject, name, age, gender = fields
        path = _existing(source.parent / name, f"line {number}", problems)
        years = _age(age, f"line {number}", problems)
        groups = _decoded("caf", {"gender": gender})
        faces.append(LabeledFace(path, name, years, subject, groups))
    return faces


def _from_csv(source: Path, columns: Mapping[str, str], problems: list[str]) -> list[LabeledFace]:
    header, rows = read_csv(source)
    image, age, subject = (columns.get(key, key) for key in ("image", "age", "subject"))
    found = ", ".join(header) or "nothing"
    problems += [
        f"column {name!r} is missing; found {found}" for name in (image, age) if name not in header
    ]
    if problems:
        return []
    faces = []
    for number, row in enumerate(rows, start=2):
        if not any(row.values()):
            continue
        path = _existing(source.parent / row[image], f"row {number}", problems)
        years = _age(row[age], f"row {number}", problems)
        groups = {key: value for key, value in row.items() if key not in (image, age, subject)}
        faces.append(LabeledFace(path, row[image], years, row.get(subject), groups))
    return faces


def _decoded(layout: str, labels: Mapping[str, str]) -> dict[str, str]:
    codes = _CODES.get(layout, {})
    return {key: codes.get(key, {}).get(value.lower(), value) for key, value in labels.items()}


def _existing(path: Path, place: str, problems: list[str]) -> Path:
    if not path.is_file():
        problems.append(f"{place}: picture {path.name!r} does not exist")
    return path


def _age(text: str, place: str, problems: list[str]) -> float:
    try:
        age = float(text)
    except ValueError:
        age = -1.0
    if not 0.0 <= age <= OLDEST_YEARS:
        problems.append(f"{place}: age {text!r} is no number within 0..{OLDEST_YEARS:g}")
    return age
