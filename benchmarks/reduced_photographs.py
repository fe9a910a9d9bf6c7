"""Writes reduced copies of labeled photographs, to measure how the error depends on their size.

Each photograph is written once per factor, as PNG, with one table of labels: age, source (the
folder's name), subject (one per photograph or person) and the factor as a group.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from benchmarks.options import exit_status
from export.calibration.csv_tables import LabelsError, read_csv
from export.calibration.labels import LabeledFace, read_faces
from runtime.commands import Parser, count, seed
from runtime.images import ImageLimits, load_rgb
from runtime.printing import printable
from runtime.program import command_line

LABELS = "labels.csv"
_COLUMNS = ("image", "age", "subject", "source", "group_reduced")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status."""
    return exit_status(partial(_write, parser().parse_args(arguments)))


def parser() -> Parser:
    """Returns the parser of the arguments."""
    parser = Parser(
        prog="python -m benchmarks.reduced_photographs",
        description="Writes copies of labeled photographs, reduced in size, and their labels.",
        notes=f"Evaluate the copies with: {command_line('evaluate')} --faces FOLDER/labels.csv",
        examples=("PHOTOS --output FOLDER --count 500",),
    )
    add, photos = parser.add_argument, "folders of photographs with the ages in the file names"
    factors, side = "factors to reduce by", "smallest side of a copy in pixels; others are left out"
    exclude = "photographs to leave out: a table with the columns source and image"
    photographs = "photographs of each folder, drawn at random"
    add("photos", nargs="+", type=Path, metavar="PHOTOS", help=photos)
    add("--output", type=Path, required=True, metavar="DIR", help="new or empty folder to write")
    add("--count", type=count, default=500, metavar="N", help=photographs)
    add("--factors", type=count, nargs="+", default=[1, 2, 4, 8], metavar="N", help=factors)
    add("--least-side", type=count, default=64, metavar="N", help=side)
    add("--exclude", type=Path, metavar="CSV", help=exclude)
    add("--seed", type=seed, default=0, metavar="N", help="random seed of the draw")
    return parser


def _write(parsed: argparse.Namespace) -> int:
    excluded = _excluded(parsed.exclude)
    parsed.output.mkdir(parents=True, exist_ok=True)
    if any(parsed.output.iterdir()):
        raise ValueError(f"{printable(parsed.output)} is not empty. Give a new folder.")
    with (parsed.output / LABELS).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for folder in parsed.photos:
            faces = [f for f in read_faces(folder) if (folder.name, f.path.name) not in excluded]
            chosen = random.Random(parsed.seed).sample(faces, min(parsed.count, len(faces)))
            writer.writerows(_written(chosen, folder.name, parsed))
    return 0


def _excluded(path: Path | None) -> frozenset[tuple[str, str]]:
    """Returns source and file name of each photograph in a table; none without one."""
    if path is None:
        return frozenset()
    header, rows = read_csv(path)
    if absent := {"source", "image"} - set(header):
        raise LabelsError(path.name, [f"column {name!r} is missing" for name in sorted(absent)])
    return frozenset((row["source"], row["image"]) for row in rows)


def _written(
    faces: Iterable[LabeledFace], source: str, parsed: argparse.Namespace
) -> Iterator[tuple[object, ...]]:
    """Writes the copies of each photograph; yields their rows."""
    for number, face in enumerate(faces):
        image = Image.fromarray(load_rgb(face.path, ImageLimits()))
        for factor in parsed.factors:
            size = image.width // factor, image.height // factor
            if min(size) < parsed.least_side:
                continue
            name = f"{source}-{number:05}-{factor}.png"
            image.resize(size, Image.Resampling.BOX).save(parsed.output / name)
            subject = f"{source}-{face.subject or number}"
            yield name, face.age_years, subject, source, f"1/{factor}"


if __name__ == "__main__":
    sys.exit(main())
