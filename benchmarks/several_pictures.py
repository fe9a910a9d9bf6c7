"""Several pictures of one person: error, coverage and width of intervals by number of pictures.

The first needs labeled predictions with a column `subject`, as `agemoe evaluate --faces` leaves
them in its cache. In a span of so many years of a person's life, pictures are drawn at random; the
true age is the mean of theirs. All numbers of pictures are drawn from the same people and spans.
The correlation is fitted on one half of the people, and its upper end used for the other half.

The second measures the correlation of errors on copies of a photograph, as on frames of one
sitting: with another brightness, compression and crop.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    # Run as a script: the repository's root must be on the path, benchmarks/ must not.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from benchmarks.options import exit_status
from export.calibration.correlation import correlation_of
from export.calibration.labeled_predictions import LabeledPredictions, read_predictions
from export.calibration.labels import read_faces
from export.calibration.scores import scores_of_tables
from runtime import AgeEstimate, AgeMoE, ExpertAge, Face, combine
from runtime.commands import Parser, count, seed
from runtime.fusion import Floats, FusionTables
from runtime.fusion_file import read_fusion
from runtime.geometry import Pixels
from runtime.images import ImageLimits, load_rgb
from runtime.printing import printable
from runtime.program import command_line
from runtime.results import Box
from runtime.shared_options import add_engines

SPANS = ((2.0, (1, 2)), (4.0, (1, 2, 4)), (10.0, (1, 2, 4, 8)))
"""Years of a person's life, and numbers of pictures of them."""
_RESAMPLES = 1000
_THRESHOLD, _CHALLENGE = 18.0, 25.0
_COPIES = 6


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status: 0 measured, 2 refused, 130 interrupted."""
    options = parser().parse_args(arguments)
    return exit_status(lambda: _copies(options) if options.copies else _pictures(options))


def parser() -> Parser:
    """Returns the parser of the arguments."""
    parser = Parser(
        prog="python benchmarks/several_pictures.py",
        description="Measures the accuracy of estimates from several pictures of a person.",
        examples=(
            "--predictions people.csv --fusion engines/fusion.json",
            "--copies photos/ --engines engines --limit 120",
        ),
    )
    source = parser.add_mutually_exclusive_group(required=True)
    predictions = "predictions of the experts, with a column subject that names the person"
    copies = "labeled photographs; altered copies stand for several pictures of a person"
    fusion, tables = "fusion tables, for --predictions", Path("engines/fusion.json")
    draws = "draws of pictures of each person, for --predictions"
    source.add_argument("--predictions", type=Path, metavar="CSV", help=predictions)
    source.add_argument("--copies", type=Path, metavar="DIR", help=copies)
    add = parser.add_argument
    add("--fusion", type=Path, default=tables, metavar="JSON", help=fusion)
    add_engines(parser)
    add("--draws", type=count, default=60, metavar="N", help=draws)
    add("--limit", type=count, default=120, metavar="N", help="photographs to copy")
    add("--seed", type=seed, default=0, metavar="N", help="random seed of the draws")
    return parser


@dataclass(frozen=True, slots=True)
class Draw:
    """Some pictures of one person."""

    person: int
    half: int
    age_years: float
    estimates: tuple[AgeEstimate, ...]


def _pictures(options: argparse.Namespace) -> int:
    tables = read_fusion(options.fusion)
    faces = read_predictions(options.predictions, list(tables.experts), varied=False)
    halves = faces.people % 2
    correlations = [_fitted(tables, faces.take(halves != half), options.seed) for half in (0, 1)]
    print(
        f"{len(faces)} pictures of {len(set(faces.people.tolist()))} people. Upper ends of the "
        f"correlation, fitted on the other half of the people: {correlations[0]:.2f} and "
        f"{correlations[1]:.2f}.\n"
    )
    print(
        "| span | people | pictures | MAE | one sitting: coverage, width | separate: coverage, "
        f"width | 1/√N: coverage, width | under {_THRESHOLD:g}: pass at {_CHALLENGE:g} |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    estimates = _estimates(tables, faces)
    for years, counts in SPANS:
        for pictures in counts:
            draws = list(
                _draws(faces, estimates, years, pictures, max(counts), options.draws, options.seed)
            )
            empty = f"| {years:g} years | 0 | {pictures} |" + " – |" * 5
            print(_row(draws, correlations, years, pictures) if draws else empty, flush=True)
    return 0


def _fitted(tables: FusionTables, faces: LabeledPredictions, number: int) -> float:
    found = correlation_of(scores_of_tables(faces, tables), "half", _RESAMPLES, number)
    if found is None:
        raise ValueError("There are too few people with two pictures, or no intervals.")
    return found.high


def _estimates(tables: FusionTables, faces: LabeledPredictions) -> list[AgeEstimate]:
    names = frozenset(faces.names)
    ages = map(float, tables.fuse(faces.names, faces.predictions_years).age_years)
    return [
        AgeEstimate(
            age,
            {name: ExpertAge(age, age, 1.0 / len(names)) for name in faces.names},
            age_range=(float(tables.age_grid[0]), float(tables.age_grid[-1])),
            residuals=tables.residuals_at(names, age),
        )
        for age in ages
    ]


def _draws(
    faces: LabeledPredictions,
    estimates: Sequence[AgeEstimate],
    years: float,
    pictures: int,
    needed: int,
    draws: int,
    number: int,
) -> Iterator[Draw]:
    """Yields draws of pictures from spans that hold at least `needed` of one person."""
    generator = np.random.default_rng(number)
    for person in np.unique(faces.people):
        rows = np.flatnonzero(faces.people == person)
        ages = faces.age_years[rows]
        spans = [rows[(ages >= first) & (ages <= first + years)] for first in np.unique(ages)]
        spans = [span for span in spans if len(span) >= needed]
        for _ in range(draws if spans else 0):
            span = spans[int(generator.integers(len(spans)))]
            chosen = generator.choice(span, pictures, replace=False)
            yield Draw(
                int(person),
                int(person) % 2,
                float(faces.age_years[chosen].mean()),
                tuple(estimates[row] for row in chosen),
            )


def _row(draws: Sequence[Draw], correlations: Sequence[float], years: float, pictures: int) -> str:
    errors, younger = [], []
    for draw in draws:
        age = combine(draw.estimates).age_years
        errors.append(abs(age - draw.age_years))
        younger.append(age >= _CHALLENGE if draw.age_years < _THRESHOLD else np.nan)
    people = np.array([draw.person for draw in draws])
    cells = [f"{years:g} years", f"{len(set(people.tolist()))}", f"{pictures}"]
    cells.append(f"{_by_person(np.array(errors), people):.2f}")
    for kind in ("sitting", "separate", "independent"):
        found = np.array([_covered(draw, kind, correlations) for draw in draws])
        covered, width = (_by_person(column, people) for column in found.T)
        cells.append(f"{covered:.1%}, {width:.1f}")
    cells.append(f"{_by_person(np.array(younger), people):.1%}")
    return f"| {' | '.join(cells)} |"


def _covered(draw: Draw, kind: str, correlations: Sequence[float]) -> tuple[float, float]:
    by_kind = {"sitting": None, "separate": correlations[draw.half], "independent": 0.0}
    low, high = combine(draw.estimates, by_kind[kind]).interval(0.9)
    return float(low <= draw.age_years <= high), high - low


def _by_person(values: Floats, people: NDArray[np.intp]) -> float:
    """Returns the mean over people of the mean over their draws; NaN does not count."""
    known = ~np.isnan(values.astype(np.float64))
    numbers = np.unique(people[known])
    return float(np.mean([values[known & (people == person)].mean() for person in numbers]))


def _copies(options: argparse.Namespace) -> int:
    generator = random.Random(options.seed)
    labeled = sorted(read_faces(options.copies, "auto"), key=lambda face: face.name)
    chosen = generator.sample(labeled, min(options.limit, len(labeled)))
    errors, spreads = [], []
    with AgeMoE(options.engines) as moe:
        for face in chosen:
            pixels = load_rgb(face.path, ImageLimits())
            found = [one for one in moe.predict_photo(pixels) if one.turn == 0]
            if len(found) != 1:
                continue
            box = found[0].box
            faces = [Face(pixels, box), *(_copy(pixels, box, generator) for _ in range(_COPIES))]
            results = [r for r in moe.predict(faces) if isinstance(r, AgeEstimate)]
            if len(results) == len(faces):
                errors.append([_error(result, face.age_years) for result in results])
                spreads.append(np.std([result.age_years for result in results], ddof=1))
    if not errors:
        folder = printable(options.copies)
        raise ValueError(f"No photograph in {folder} has exactly one face that can be found.")
    table = np.array(errors)
    squares, sums = (table**2).sum(), table.sum(axis=1)
    size = table.shape[1]
    correlation = ((sums**2).sum() - squares) / (size - 1) / squares
    print(
        f"{len(table)} photographs, {_COPIES} copies of each: the errors correlate by "
        f"{correlation:.2f}; the ages of one photograph have a standard deviation of "
        f"{np.mean(spreads):.1f} years."
    )
    return 0


def _copy(pixels: Pixels, box: Box, generator: random.Random) -> Face:
    """Returns a copy up to 20 % darker or brighter, as a JPEG, with a box moved by 5 %."""
    image = ImageEnhance.Brightness(Image.fromarray(pixels)).enhance(generator.uniform(0.8, 1.2))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=generator.randint(40, 90))
    (x, y, width, height), scale = box, generator.uniform(0.95, 1.05)
    moved_x = x + width * (generator.uniform(-0.05, 0.05) + (1.0 - scale) / 2.0)
    moved_y = y + height * (generator.uniform(-0.05, 0.05) + (1.0 - scale) / 2.0)
    return Face(buffer.getvalue(), (moved_x, moved_y, width * scale, height * scale))


def _error(result: AgeEstimate, age_years: float) -> float:
    """Returns the error, relative to half the 90 % interval, as for the correlation."""
    if result.residuals is None:
        raise ValueError(
            f"The engines have no intervals: fit them with {command_line('calibrate')}."
        )
    half = (result.residuals.at(0.95) - result.residuals.at(0.05)) / 2.0
    return (age_years - result.age_years - result.residuals.at(0.5)) / half


if __name__ == "__main__":
    sys.exit(main())
