"""Measures how often pictures of faces, and pictures without one, are refused as no face.

Faces are photographs as a whole, the detector's own boxes, and crops of these boxes, wider or
tighter than the face. Non-faces are the pictures of scikit-image (those of people excepted) as a
whole and in random boxes, and random boxes beside the faces of the photographs. The search is
that of `AgeMoE(quality=QualityLimits())`. Counts and milliseconds are printed as a table.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.options import exit_status
from runtime.commands import Parser, count
from runtime.detection import Detector, area, shared_area
from runtime.detectors import detector_named
from runtime.geometry import Pixels
from runtime.images import ImageLimits, is_photograph, load_rgb
from runtime.landmark_search import LandmarkSearch
from runtime.photographs import find_faces
from runtime.printing import printable
from runtime.results import Box
from runtime.shared_options import add_detector, add_engines

_PEOPLE = frozenset({"astronaut", "camera", "lfw_subset", "skin"})
"""Pictures of scikit-image with people, or without a fixed content."""
_MARGINS = (0.25, 0.0, -0.1, -0.2)
"""Margins of crops on each side, as shares of the detector's box; negative: they cut into it."""
_LEAST_SIDE = 48
"""Pixels of a random box."""


@dataclass(slots=True)
class Tally:
    """Counts and time of the pictures of one kind."""

    found: int = 0
    asked: int = 0
    seconds: float = 0.0

    def add(self, search: LandmarkSearch, image: Pixels, box: Box | None) -> None:
        """Searches for a face in a box or a whole picture, and counts the result."""
        started = time.perf_counter()
        self.found += bool(search.find(image, box).face_found)
        self.seconds += time.perf_counter() - started
        self.asked += 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status."""
    return exit_status(partial(_measure, parser().parse_args(arguments)))


def parser() -> Parser:
    """Returns the parser of the arguments."""
    parser = Parser(
        prog="python -m benchmarks.faces_refused",
        description="Measures how often a detector finds the face in photographs, and in pictures "
        "that show none.",
        examples=("--faces photos/ --count 500", "--faces photos/ --others textures/*.png"),
    )
    add = parser.add_argument
    faces, others = "folders with photographs of faces", "pictures that show no face"
    photographs = "photographs of each folder, drawn at random"
    boxes = "random boxes in each picture of --others"
    add_engines(parser)
    add_detector(parser)
    add("--faces", nargs="+", type=Path, required=True, metavar="DIR", help=faces)
    add("--count", type=count, default=500, metavar="N", help=photographs)
    add("--others", nargs="*", type=Path, default=[], metavar="FILE", help=others)
    add("--boxes", type=count, default=50, metavar="N", help=boxes)
    return parser


def _measure(parsed: argparse.Namespace) -> int:
    detector = detector_named(parsed.detector, parsed.engines)
    tallies: dict[str, Tally] = {}
    for folder in parsed.faces:
        _ask_photographs(folder, parsed.count, detector, tallies)
    _ask_others(parsed.others, parsed.boxes, detector, tallies)
    print("| picture | asked | face found | refused | ms |\n|---|--:|--:|--:|--:|")
    for name, tally in tallies.items():
        share = 100.0 * (tally.asked - tally.found) / tally.asked
        milliseconds = 1000.0 * tally.seconds / tally.asked
        print(
            f"| {name} | {tally.asked:,} | {tally.found:,} | {share:.2f} % | {milliseconds:.1f} |"
        )
    return 0


def _ask_photographs(
    folder: Path, most: int, detector: Detector, tallies: dict[str, Tally]
) -> None:
    """Searches for the faces of a folder's photographs, and for faces beside them."""
    choice, search = random.Random(0), LandmarkSearch(detector)
    paths = sorted(path for path in folder.rglob("*") if is_photograph(path))
    if not paths:
        raise ValueError(f"{printable(folder)} holds no photographs.")
    for path in choice.sample(paths, min(most, len(paths))):
        image = load_rgb(path, ImageLimits())
        tallies.setdefault(f"{folder.name}, whole", Tally()).add(search, image, None)
        faces = [face.box for face in find_faces(image, detector)]
        if not faces:
            continue
        largest = max(faces, key=area)
        tallies.setdefault("face, its box", Tally()).add(search, image, largest)
        for margin in _MARGINS:
            crop = _cropped(image, largest, margin)
            if crop is not None:
                tallies.setdefault(f"face, crop {margin:+.0%}", Tally()).add(search, crop, None)
        for box in _boxes(image, 1, choice):
            if all(shared_area(box, face) == 0.0 for face in faces):
                tallies.setdefault("beside a face, box", Tally()).add(search, image, box)
                x, y, width, height = map(int, box)
                crop = image[y : y + height, x : x + width]
                tallies.setdefault("beside a face, crop", Tally()).add(search, crop, None)


def _ask_others(
    paths: Sequence[Path], boxes: int, detector: Detector, tallies: dict[str, Tally]
) -> None:
    """Searches for faces in pictures without any."""
    choice, search = random.Random(0), LandmarkSearch(detector)
    for image in [*(load_rgb(path, ImageLimits()) for path in paths), *_samples()]:
        tallies.setdefault("no face, whole", Tally()).add(search, image, None)
        for box in _boxes(image, boxes, choice):
            tallies.setdefault("no face, box", Tally()).add(search, image, box)


def _samples() -> Iterator[Pixels]:
    """Yields the two-dimensional pictures of scikit-image that are installed with it."""
    from skimage import data

    for name in sorted(set(data.__all__) - _PEOPLE):
        try:
            picture = np.asarray(getattr(data, name)())
        except Exception:  # noqa: BLE001, S112 - no picture, or one that would be downloaded
            continue
        if picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] not in (3, 4)):
            continue
        if picture.dtype != np.uint8:
            picture = (255.0 * picture / max(float(picture.max()), 1e-9)).astype(np.uint8)
        colored = picture if picture.ndim == 3 else np.stack([picture] * 3, axis=-1)
        yield np.ascontiguousarray(colored[..., :3])


def _boxes(image: Pixels, number: int, choice: random.Random) -> Iterator[Box]:
    """Yields random boxes of a picture."""
    height, width = image.shape[:2]
    for _ in range(number if min(height, width) >= _LEAST_SIDE else 0):
        side = choice.uniform(_LEAST_SIDE, min(height, width, 8 * _LEAST_SIDE))
        yield choice.uniform(0.0, width - side), choice.uniform(0.0, height - side), side, side


def _cropped(image: Pixels, box: Box, margin: float) -> Pixels | None:
    """Returns a crop of a box with a margin; None if nothing is left."""
    x, y, width, height = box
    left, top = max(int(x - margin * width), 0), max(int(y - margin * height), 0)
    right, bottom = int(x + (1.0 + margin) * width), int(y + (1.0 + margin) * height)
    crop = image[top:bottom, left:right]
    return crop if min(crop.shape[:2]) > 0 else None


if __name__ == "__main__":
    sys.exit(main())
