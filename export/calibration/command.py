"""Options and exit status that `agemoe calibrate` and `agemoe evaluate` share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from export.calibration.labels import LAYOUTS
from export.calibration.metrics import FEWEST_RESAMPLES
from export.calibration.report import ReportOptions
from export.errors import OptionsError
from runtime.commands import run_command, seed, start_logging
from runtime.detectors.names import NAMES
from runtime.json_reader import shown
from runtime.progress import add_progress_option
from runtime.shared_options import add_backend, add_engines

_MOST_RESAMPLES = 100_000
CACHE = Path("build/calibration")
"""Raw predictions are kept there: outside the engines folder, which is deployed."""


def add_inputs(parser: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """Adds the options for the source of labeled faces; returns the group of sources."""
    inputs = parser.add_argument_group("labeled faces, from one of these sources")
    one = inputs.add_mutually_exclusive_group(required=True)
    predictions = (
        "table with the column age and one column of predictions per expert; with --truth: a table "
        "written by label"
    )
    one.add_argument("--predictions", type=Path, metavar="CSV", help=predictions)
    labeled = "labeled pictures: a folder, or a CSV with the columns path and age"
    one.add_argument("--faces", type=Path, metavar="FOLDER|CSV", help=labeled)
    truth = "true ages in years for a table written by label: columns path and age"
    inputs.add_argument("--truth", type=Path, metavar="CSV", help=truth)
    columns = (
        "column names of your CSV where they differ, such as age=years; the keys are path, age, "
        "subject, source and those of the face's position"
    )
    inputs.add_argument("--columns", nargs="+", default=[], metavar="KEY=NAME", help=columns)
    faces = parser.add_argument_group("with --faces")
    add_engines(faces)
    add_backend(faces)
    layout = "layout of the labels: a CSV, or the file names of a public data set"
    faces.add_argument("--layout", choices=LAYOUTS, default="auto", help=layout)
    detector = (
        f"face detector for pictures whose labels give no box: {NAMES} (default: auto). With "
        "--predictions: the detector that found the faces, for the record"
    )
    faces.add_argument("--detector", metavar="NAME", help=detector)
    whole = "treat each picture as one cropped face, unless its labels give a box"
    faces.add_argument("--whole", action="store_true", help=whole)
    cache = "folder that keeps the raw predictions and the paths of the pictures"
    faces.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help=cache)
    return one


def data_name(arguments: argparse.Namespace) -> str:
    """Returns the name of the labeled data: that of the file or folder."""
    source: Path = arguments.predictions or arguments.faces
    return source.name


def add_report(parser: argparse.ArgumentParser) -> None:
    """Adds the options for the content of the report."""
    report = parser.add_argument_group("report")
    groups = "columns, such as sex, whose values are reported separately"
    report.add_argument("--groups", nargs="+", default=[], metavar="COLUMN", help=groups)
    thresholds = "required ages in years"
    report.add_argument(
        "--thresholds", nargs="+", type=float, default=[18.0], metavar="YEARS", help=thresholds
    )
    challenge = "estimated ages in years required to pass (default: a few above each threshold)"
    report.add_argument(
        "--challenge", nargs="+", type=float, default=[], metavar="YEARS", help=challenge
    )
    resamples = (
        f"bootstrap resamples for confidence intervals, {FEWEST_RESAMPLES}..{_MOST_RESAMPLES}"
    )
    report.add_argument("--bootstrap", type=int, default=1000, metavar="N", help=resamples)
    report.add_argument("--seed", type=seed, default=0, metavar="N", help="random seed")
    add_progress_option(parser)


def report_options(arguments: argparse.Namespace) -> ReportOptions:
    """Validates the options of the report.

    Raises:
        OptionsError: a value is out of range.
    """
    problems = [
        f"--{name} {value:g} must lie within 1..100 years"
        for name in ("thresholds", "challenge")
        for value in getattr(arguments, name)
        if not 1.0 <= value <= 100.0
    ]
    if arguments.truth is not None and arguments.predictions is None:
        problems.append("--truth belongs to --predictions TABLE, a table of runtime label")
    if arguments.whole and arguments.faces is None:
        problems.append("--whole belongs to --faces")
    if not FEWEST_RESAMPLES <= (resamples := arguments.bootstrap) <= _MOST_RESAMPLES:
        limits = f"{FEWEST_RESAMPLES}..{_MOST_RESAMPLES}"
        problems.append(f"--bootstrap must lie within {limits}, got {shown(resamples)}")
    if problems:
        raise OptionsError(problems)
    thresholds, challenges = tuple(arguments.thresholds), tuple(arguments.challenge)
    return ReportOptions(thresholds, challenges, resamples, arguments.seed)


def run_calibration(
    command: Callable[[argparse.Namespace], None], arguments: argparse.Namespace
) -> int:
    """Runs a command and returns its exit status: 2, with the error on stderr, if it refuses."""
    start_logging("%(message)s")

    def run() -> int:
        command(arguments)
        return 0

    return run_command(run, refused=2)
