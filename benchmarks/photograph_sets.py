"""Labeled photographs from several sources: read, without those that were fitted on, sampled."""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.calibration.csv_tables import LabelsError, read_csv
from export.calibration.labels import LabeledFace, read_faces
from runtime import commands
from runtime.files import sha256_of
from runtime.results import Box

_HEX = re.compile(r"[0-9a-f]{12,64}")
"""The beginning of a SHA-256."""


@dataclass(frozen=True, slots=True)
class Photograph:
    """A photograph of a person of known age."""

    source: str
    face: LabeledFace

    @property
    def box(self) -> Box | None:
        """The labeled face, in pixels; None if the labels hold no boxes."""
        place = getattr(self.face, "place", None)
        box: Box | None = getattr(place, "box", None)
        return box

    @property
    def person(self) -> str:
        """Identifies the person: all photographs of one person are resampled together."""
        return f"{self.source}/{self.face.subject or self.face.name}"


@dataclass(frozen=True, slots=True)
class Source:
    """The photographs of one source that are measured."""

    photographs: tuple[Photograph, ...]
    labeled: int
    """Photographs in the source."""
    excluded: int
    """Those among them that were left out with `--exclude`."""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Photographs that are not measured, because tables were fitted on them."""

    names: frozenset[str] = frozenset()
    """Paths within the source."""
    hashes: frozenset[str] = frozenset()
    """Beginnings of the SHA-256 of the files, in hexadecimal, all of one length."""

    def covers(self, face: LabeledFace) -> bool:
        """Returns whether a photograph is left out."""
        if face.name in self.names:
            return True
        length = len(next(iter(self.hashes), ""))
        return bool(self.hashes) and sha256_of(face.path)[:length] in self.hashes


def source_argument(text: str) -> tuple[str, Path]:
    """Parses NAME=PATH; raises ArgumentTypeError if it is something else or does not exist."""
    name, mark, path = text.partition("=")
    if not (name and mark and Path(path).exists()):
        raise argparse.ArgumentTypeError(
            f"must be NAME=PATH, a folder or a CSV that exists, got {text!r}"
        )
    return name, Path(path)


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Adds the options that choose labeled photographs."""
    add = parser.add_argument
    sources = "labeled photographs: a folder or a CSV, as for calibrate --faces"
    exclude = "table of photographs that were fitted, to leave out: column sha256 or image"
    limit = "photographs per source, drawn at random (default: all)"
    add(
        "--sources",
        type=source_argument,
        nargs="+",
        required=True,
        metavar="NAME=PATH",
        help=sources,
    )
    add("--exclude", type=Path, metavar="CSV", help=exclude)
    add("--limit", type=commands.count, metavar="N", help=limit)
    add("--seed", type=commands.seed, default=0, metavar="N", help="random seed of all draws")


def read_sources(
    paths: Sequence[tuple[str, Path]], exclusion: Exclusion, limit: int | None, seed: int
) -> dict[str, Source]:
    """Reads the photographs of all sources, by the name of the source.

    Args:
        paths: name and folder, or CSV, of each source, as `export.calibration.labels` reads them.
        exclusion: photographs that are left out.
        limit: photographs per source, drawn at random; None means all.
        seed: of the draw.

    Raises:
        LabelsError: the labels of a source cannot be used.
        ValueError: a name is given twice, nothing is left, or the exclusion fits no photograph.
    """
    names = [name for name, _ in paths]
    if len(set(names)) < len(names):
        raise ValueError(f"Two sources have the same name; got {', '.join(names)}. Rename one.")
    found = {name: _source(name, path, exclusion, limit, seed) for name, path in paths}
    empty = [name for name, source in found.items() if not source.photographs]
    if empty:
        raise ValueError(f"Without the excluded photographs nothing is left of {', '.join(empty)}.")
    given = exclusion.names or exclusion.hashes
    if given and not any(source.excluded for source in found.values()):
        raise ValueError(
            f"None of the {len(given)} photographs to exclude is in these sources, so they are "
            f"not the ones that were fitted on. Give a CSV with their column image (path within "
            f"the source) or sha256 (of the file), or leave --exclude out."
        )
    return found


def read_exclusion(path: Path) -> Exclusion:
    """Reads a CSV with the column `sha256` (at least 12 digits) or `image`, one row a photograph.

    Raises:
        LabelsError: the file cannot be used.
    """
    header, rows = read_csv(path)
    if "sha256" in header:
        digits = [row["sha256"].lower() for row in rows]
        wrong = [text for text in digits if not _HEX.fullmatch(text)]
        if wrong:
            problem = f"sha256: {wrong[0]!r} is not 12 to 64 hexadecimal digits"
            raise LabelsError(path.name, [problem])
        length = min(map(len, digits), default=0)
        return Exclusion(hashes=frozenset(text[:length] for text in digits))
    if "image" in header:
        return Exclusion(names=frozenset(row["image"] for row in rows))
    found = ", ".join(header) or "nothing"
    raise LabelsError(path.name, [f"has neither a column sha256 nor image; found {found}"])


def counts_of(sources: Mapping[str, Source]) -> dict[str, dict[str, int]]:
    """Returns how many photographs each source has, without which, and how many are measured."""
    return {
        name: {
            "labeled": source.labeled,
            "excluded": source.excluded,
            "measured": len(source.photographs),
        }
        for name, source in sources.items()
    }


def _source(name: str, path: Path, exclusion: Exclusion, limit: int | None, seed: int) -> Source:
    labeled = sorted(read_faces(path), key=lambda face: face.name)
    kept = [face for face in labeled if not exclusion.covers(face)]
    drawn = kept
    if limit is not None and limit < len(kept):
        drawn = random.Random(f"{seed} {name}").sample(kept, limit)
    photographs = tuple(Photograph(name, face) for face in drawn)
    return Source(photographs, len(labeled), len(labeled) - len(kept))
