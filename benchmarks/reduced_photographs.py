"""Writes reduced copies of labeled photographs, to measure how the error depends on their size.

python -m benchmarks.reduced_photographs PHOTOS [PHOTOS …] --output FOLDER --count 500
python export/evaluate.py --faces FOLDER/labels.csv --engines engines --fusion engines/fusion.json

Each photograph is written once per factor, as PNG, with one table of labels: age, source (the
folder's name), subject (one per photograph or person) and the factor as a group.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from export.calibration.labels import LabeledFace, read_faces
from runtime.images import ImageLimits, load_rgb

LABELS = "labels.csv"
_COLUMNS = ("image", "age", "subject", "source", "group_reduced")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reduced_photographs")
    parser.add_argument("photos", nargs="+", type=Path, help="folders with ages in the names")
    parser.add_argument("--output", type=Path, required=True, help="an empty or new folder")
    parser.add_argument("--count", type=int, default=500, help="photographs of each folder")
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N")
    parser.add_argument("--least-side", type=int, default=64, help="smaller ones are left out")
    parser.add_argument("--exclude", type=Path, help="CSV whose column image names others")
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args(arguments)
    parsed.output.mkdir(parents=True, exist_ok=True)
    excluded = _excluded(parsed.exclude)
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
    with path.open(newline="") as file:
        return frozenset((row["source"], row["image"]) for row in csv.DictReader(file))


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
