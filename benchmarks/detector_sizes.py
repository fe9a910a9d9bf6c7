"""The size of CenterFace's first pass: faces found, their places, the ages, and small faces.

Every photograph is searched at each size; a pass at 640 pixels alone says where its face is. With
`--tables`, ages are compared: fit the tables of every size on photographs that are not measured.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import reports
from benchmarks.options import exit_status
from benchmarks.pasted_faces import HEIGHTS, CutFace, crowd, cut, found_of
from benchmarks.photograph_sets import (
    Exclusion,
    Photograph,
    add_sources,
    read_exclusion,
    read_sources,
)
from runtime import AgeMoE, commands
from runtime.commands import Parser
from runtime.detection import AnyWayUp, Detection, Found, overlap
from runtime.detectors.centerface import LONGEST_SIDES, CenterFaceDetector
from runtime.detectors.names import SURE_UPRIGHT
from runtime.fusion import FusionTables
from runtime.fusion_file import read_fusion
from runtime.geometry import Pixels
from runtime.images import ImageLimits, load_rgb
from runtime.photographs import predict_photo
from runtime.shared_options import add_engines

REFERENCE = 640
"""Longest side, in pixels, of the pass that says where a face is."""
_SAME = 0.4
"""Intersection over union from which two boxes are those of one face."""
_DRAWS = 2000
"""Of the bootstrap."""


@dataclass(frozen=True, slots=True)
class Look:
    """Faces found in a photograph with a first pass of one size, and their cost."""

    found: tuple[Detection, ...]
    again: bool
    """Whether a larger pass followed the first one."""
    seconds: float
    """Of processor time."""
    raw_years: Mapping[str, float] | None
    """Of the largest face, by expert; None if there is none."""


class Size:
    """CenterFace with a first pass of one size; counts further passes."""

    def __init__(self, model: Path, sides: Sequence[int]) -> None:
        """Opens the detector as the runtime does, on one thread."""
        inner = _Counting(model, longest_sides=sides)
        self._inner = inner
        self.detector = AnyWayUp(inner, SURE_UPRIGHT, quick=inner.at_first_size())

    def look(self, image: Pixels, moe: AgeMoE | None = None) -> Look:
        """Searches a picture; with an `AgeMoE`, also predicts the ages."""
        before, started = self._inner.further, time.process_time()
        found = tuple(self.detector.detect(image))
        seconds = time.process_time() - started
        again = self._inner.further > before
        raw = None if moe is None else _raw_years(moe, image, found)
        return Look(found, again, seconds, raw)


class _Counting(CenterFaceDetector):
    """Counts the searches in which the first size was not enough."""

    further = 0

    def _may_miss(self, faces: Sequence[Detection]) -> bool:
        missing = super()._may_miss(faces)
        self.further += missing
        return missing


def _raw_years(
    moe: AgeMoE, image: Pixels, found: Sequence[Detection]
) -> Mapping[str, float] | None:
    results = predict_photo(moe, image, detector=Found(found))
    answered = [(face.box[2] * face.box[3], face.estimate) for face in results if face.estimate]
    if not answered:
        return None
    _, largest = max(answered, key=lambda one: one[0])
    return {name: expert.age_years for name, expert in largest.experts.items()}


def measure(
    photographs: Sequence[Photograph], sizes: Mapping[int, Size], moe: AgeMoE | None
) -> list[dict[int, Look]]:
    """Returns the faces found with each size, the reference among them, by photograph."""
    looks = []
    for photograph in photographs:
        image = load_rgb(photograph.face.path, ImageLimits())
        looks.append(
            {
                side: size.look(image, None if side == REFERENCE else moe)
                for side, size in sizes.items()
            }
        )
    return looks


def places(looks: Sequence[Mapping[int, Look]], side: int) -> list[str]:
    """Returns a row of the first table: faces found at one size, compared with the reference."""
    right = other = none = wrong = 0
    shared, apart = [], []
    for look in looks:
        found, reference = look[side].found, look[REFERENCE].found
        none += not found
        if not found or not reference:
            continue
        near = max(found, key=lambda one: overlap(one.box, reference[0].box))
        share = overlap(near.box, reference[0].box)
        right, wrong = right + (share > _SAME), wrong + (share <= _SAME)
        if share > _SAME:
            other += len(found) > 1
            shared.append(share)
            apart.append(_distance(near, reference[0]))
    again = np.mean([look[side].again for look in looks])
    spent = 1e3 * np.median([look[side].seconds for look in looks])
    means = [f"{np.mean(values):.3f}" if values else "-" for values in (shared, apart)]
    return [*map(str, (side, right, other, none, wrong)), f"{again:.1%}", *means, f"{spent:.1f}"]


def _distance(one: Detection, other: Detection) -> float:
    """Returns the mean distance of the landmarks, as a share of the distance of the eyes."""
    points, wanted = np.array(one.landmarks), np.array(other.landmarks)
    eyes = np.linalg.norm(wanted[0] - wanted[1])
    return float(np.linalg.norm(points - wanted, axis=1).mean() / eyes)


def errors(
    photographs: Sequence[Photograph],
    looks: Sequence[Mapping[int, Look]],
    tables: Mapping[int, FusionTables],
    seed: int,
) -> list[list[str]]:
    """Returns the rows of the second table: mean errors, and differences from the last size.

    Photographs count in which every size found a face. Intervals are 95 % by a paired bootstrap
    over people.
    """
    sides = list(tables)
    kept = [k for k, look in enumerate(looks) if all(look[side].raw_years for side in sides)]
    true = np.array([photographs[k].face.age_years for k in kept], np.float64)
    off = {}
    for side in sides:
        raw = [look.raw_years or {} for look in (looks[k][side] for k in kept)]
        names = list(tables[side].experts)
        years = np.array([[one.get(name, np.nan) for name in names] for one in raw])
        off[side] = np.abs(tables[side].fuse(names, years).age_years - true)
    people = [photographs[k].person for k in kept]
    rows = []
    for side in sides:
        gap = off[side] - off[sides[-1]]
        low, high = np.quantile(_bootstrapped(gap, people, seed), (0.025, 0.975))
        gained = "-" if side == sides[-1] else f"{gap.mean():+.2f} ({low:+.2f}…{high:+.2f})"
        rows.append([str(side), str(len(kept)), f"{off[side].mean():.2f}", gained])
    return rows


def _bootstrapped(values: np.ndarray, people: Sequence[str], seed: int) -> np.ndarray:
    """Returns means of draws of the people, each with all photographs of a person."""
    _, person = np.unique(people, return_inverse=True)
    sums, counts = np.bincount(person, values), np.bincount(person)
    draws = np.random.default_rng(seed).integers(len(sums), size=(_DRAWS, len(sums)))
    return np.asarray(sums[draws].sum(1) / counts[draws].sum(1))


def pasted(
    faces: Sequence[CutFace], sizes: Mapping[int, Size], pictures: int, seed: int
) -> list[list[str]]:
    """Returns the rows of the third table: shares found of small faces, alone and beside one."""
    rows = []
    for large in (False, True):
        for heights in HEIGHTS:
            rng = np.random.default_rng(seed)
            crowds = [crowd(faces, heights, rng, large=large) for _ in range(pictures)]
            number = sum(len(boxes) for _, boxes in crowds)
            shares = [
                sum(found_of(size.detector, *one) for one in crowds) / number
                for size in sizes.values()
            ]
            low, high = heights
            place = "beside a large one" if large else "alone"
            rows.append([f"{low}-{high}", place, str(number), *(f"{s:.0%}" for s in shares)])
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status."""
    return exit_status(partial(_run, parser().parse_args(arguments)))


def _run(options: argparse.Namespace) -> int:
    exclusion = Exclusion() if options.exclude is None else read_exclusion(options.exclude)
    sources = read_sources(options.sources, exclusion, options.limit, options.seed)
    if unknown := {side for side, _ in options.tables} - set(options.sizes):
        raise ValueError(f"--tables: size {min(unknown)} is not one of --sizes. Add it there.")
    tables = {side: read_fusion(path) for side, path in sorted(options.tables)}
    model = options.engines / "detector" / "centerface.onnx"
    sizes = {side: Size(model, (side, *LONGEST_SIDES[1:])) for side in sorted(options.sizes)}
    title = ["size", "right", "another, too", "none", "wrong", "again", "overlap", "landmarks"]
    small: list[CutFace] = []
    with AgeMoE(options.engines, threads=1, fusion=None) as moe:
        for name, source in sources.items():
            looks = measure(
                source.photographs,
                {**sizes, REFERENCE: Size(model, (REFERENCE,))},
                moe if tables else None,
            )
            print(f"\n{name}: {len(looks)} photographs\n")
            rows = [places(looks, side) for side in sizes]
            print("\n".join(reports.table([*title, "CPU ms"], rows)))
            if tables:
                rows = errors(source.photographs, looks, tables, options.seed)
                print("\n".join(["", *reports.table(["size", "faces", "MAE", "more by"], rows)]))
            small += [
                cut(load_rgb(one.face.path, ImageLimits()), look[REFERENCE].found[0].box)
                for one, look in zip(source.photographs, looks, strict=True)
                if len(look[REFERENCE].found) == 1
            ][: options.pasted * 10]
    if options.pasted:
        title = ["height", "place", "faces", *map(str, sizes)]
        large = [face for face in small if face.box[3] > max(max(HEIGHTS))]
        rows = pasted(large, sizes, options.pasted, options.seed)
        print("\n".join(["", *reports.table(title, rows, left=2)]))
    return 0


def _table_argument(text: str) -> tuple[int, Path]:
    """Parses SIZE=FILE."""
    side, mark, path = text.partition("=")
    if not (side.isdecimal() and mark and path):
        raise argparse.ArgumentTypeError(f"must be SIZE=FILE, got {text!r}")
    return int(side), Path(path)


def parser() -> Parser:
    """Returns the parser of the arguments."""
    parser = Parser(
        prog="python -m benchmarks.detector_sizes",
        description="Compares sizes of CenterFace's first pass on labeled photographs.",
        examples=(
            "--sources fgnet=FGNET utkface=UTKFACE --limit 450",
            "--sources fgnet=FGNET --tables 160=a/fusion.json 224=b/fusion.json --pasted 8",
        ),
    )
    add = parser.add_argument
    tables = "fusion tables fitted with a first pass of this size; the largest is compared with"
    add_sources(parser)
    add(
        "--sizes",
        type=commands.count,
        nargs="+",
        default=[160, 192, 224],
        metavar="PIXELS",
        help="longest sides of the first pass",
    )
    add("--tables", type=_table_argument, nargs="+", default=[], metavar="SIZE=FILE", help=tables)
    add(
        "--pasted",
        type=commands.count,
        default=0,
        metavar="N",
        help="pictures of small faces per row",
    )
    add_engines(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
