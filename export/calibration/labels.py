"""Labeled pictures: finding them, reading their labels, asking the experts.

Layouts:

- `agedb`: `16_AlbertEinstein_59_m.jpg`, number, name, age, gender;
- `utkface`: `25_0_1_20170116174525125.jpg.chip.jpg`, age, gender, race, date;
- `fgnet`: `001A02.JPG`, subject and age, letters may follow (All-Age-Faces names its pictures so);
- `caf`: a text file of lines `id filename age gender`, as the Cross-Age Faces are published;
- `csv`: a CSV with the columns `image` and `age`, optionally `subject` and groups; other names of
  columns can be given.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from export.calibration.labeled_predictions import OLDEST_YEARS, LabelsError

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
    """What the face is called in tables: its path within the data set."""
    age_years: float
    subject: str | None = None
    """Who is in the picture; None when unknown."""
    groups: Mapping[str, str] = field(default_factory=dict)


def read_faces(
    source: Path, layout: Layout = "auto", columns: Mapping[str, str] | None = None
) -> list[LabeledFace]:
    """Finds labeled faces.

    Args:
        source: a folder, searched through and through; a CSV; or a text file of CAF.
        layout: how labels are written; `auto` looks at the names.
        columns: names of a CSV's own columns for `image`, `age` and `subject`.

    Raises:
        LabelsError: something cannot be used; every problem is listed.
    """
    problems: list[str] = []
    chosen = _layout_of(source) if layout == "auto" else layout
    if chosen == "csv":
        faces = _from_csv(source, columns or {}, problems)
    elif chosen == "caf":
        faces = _from_caf(source, problems)
    else:
        faces = _from_folder(source, chosen, problems)
    if not faces and not problems:
        problems.append(f"no labeled picture was found with layout {chosen!r}")
    if problems:
        rest = len(problems) - _LISTED
        shown = problems[:_LISTED] + ([f"… and {rest} more"] if rest > 0 else [])
        raise LabelsError(source.name, shown)
    return faces


def _layout_of(source: Path) -> str:
    """The layout of a source, by its suffix or by what most of its pictures are called."""
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
            f"no picture carries its age in its name as {', '.join(_PATTERNS)} do; {shown}. Give "
            "a CSV with the columns image and age instead"
        )
        raise LabelsError(source.name, [problem])
    return best


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())


def _stem(path: Path) -> str:
    """The name up to its first dot: UTKFace's aligned pictures end in `.jpg.chip.jpg`."""
    return path.name.split(".", 1)[0]


def _from_folder(folder: Path, layout: str, problems: list[str]) -> list[LabeledFace]:
    faces = []
    for path in _pictures(folder):
        name = path.relative_to(folder).as_posix()
        match = _PATTERNS[layout].fullmatch(_stem(path))
        if match is None:
            problems.append(f"{name}: is not named as {layout} names its pictures")
            continue
        labels = {key: value for key, value in match.groupdict().items() if value is not None}
        age = _age(labels.pop("age"), name, problems)
        subject = labels.pop("subject", None)
        faces.append(LabeledFace(path, name, age, subject, _decoded(layout, labels)))
    return faces


def _from_caf(source: Path, problems: list[str]) -> list[LabeledFace]:
    faces = []
    for number, line in enumerate(_text(source).splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != _CAF_FIELDS:
            problems.append(f"line {number}: is not `id filename age gender`, got {line!r}")
            continue
        subject, name, age, gender = fields
        path = _existing(source.parent / name, f"line {number}", problems)
        years = _age(age, f"line {number}", problems)
        groups = _decoded("caf", {"gender": gender})
        faces.append(LabeledFace(path, name, years, subject, groups))
    return faces


def _from_csv(source: Path, columns: Mapping[str, str], problems: list[str]) -> list[LabeledFace]:
    rows = list(csv.DictReader(_text(source).splitlines()))
    known = {key: columns.get(key, key) for key in ("image", "age", "subject")}
    header = list(rows[0]) if rows else []
    for key in ("image", "age"):
        if known[key] not in header:
            found = ", ".join(header) or "nothing"
            problems.append(f"column {known[key]!r} is missing; found {found}")
    if problems:
        return []
    faces = []
    for number, row in enumerate(rows, start=2):
        path = _existing(source.parent / row[known["image"]], f"row {number}", problems)
        age = _age(row[known["age"]], f"row {number}", problems)
        groups = {k: v or "" for k, v in row.items() if k and k not in known.values()}
        subject = row.get(known["subject"])
        faces.append(LabeledFace(path, row[known["image"]], age, subject, groups))
    return faces


def _text(source: Path) -> str:
    try:
        return source.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise LabelsError(source.name, [f"cannot be read: {error}"]) from error


def _decoded(layout: str, labels: Mapping[str, str]) -> dict[str, str]:
    codes = _CODES.get(layout, {})
    return {key: codes.get(key, {}).get(value.lower(), value) for key, value in labels.items()}


def _existing(path: Path, where: str, problems: list[str]) -> Path:
    if not path.is_file():
        problems.append(f"{where}: picture {path.name!r} does not exist")
    return path


def _age(text: str | None, where: str, problems: list[str]) -> float:
    try:
        age = float(text or "")
    except ValueError:
        age = -1.0
    if not 0.0 <= age <= OLDEST_YEARS:
        problems.append(f"{where}: age {text!r} is no number within 0..{OLDEST_YEARS:g}")
    return age
