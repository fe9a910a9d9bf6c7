"""What `calibrate.py` and `evaluate.py` have in common: where faces come from, what is reported."""

from __future__ import annotations

import argparse
import csv
import logging
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from export.calibration.labeled_predictions import LabeledPredictions, read_predictions
from export.calibration.labels import LAYOUTS, read_faces
from export.calibration.raw_predictions import write_predictions
from export.calibration.report import Report, ReportOptions
from export.errors import ExportError, OptionsError
from runtime.errors import AgeMoEError
from runtime.files import write_json, write_whole

_LOGGER = logging.getLogger("agemoe")
_FEWEST_RESAMPLES = 100
REPORT_JSON, REPORT_PAGE = "report.json", "report.md"


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Options that say where labeled faces come from."""
    inputs = parser.add_argument_group("labeled data, one of")
    one = inputs.add_mutually_exclusive_group(required=True)
    one.add_argument("--predictions", type=Path, metavar="CSV", help="age, one column per expert")
    one.add_argument("--faces", type=Path, metavar="FOLDER|CSV", help="labeled pictures")
    asked = parser.add_argument_group("with --faces")
    asked.add_argument("--engines", type=Path, default=Path("engines"), help="default: engines")
    asked.add_argument("--device", default="auto", help="as for AgeMoE; default: auto")
    asked.add_argument("--precision", default="auto", help="as for AgeMoE; default: auto")
    asked.add_argument("--layout", choices=LAYOUTS, default="auto", help="how pictures are labeled")
    asked.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="KEY=NAME",
        help="names of a CSV's own columns for image, age and subject",
    )


def add_report(parser: argparse.ArgumentParser) -> None:
    """Options that say what is reported."""
    report = parser.add_argument_group("report")
    report.add_argument("--groups", nargs="+", default=[], metavar="COLUMN", help="told apart")
    report.add_argument("--thresholds", nargs="+", type=float, default=[18.0], metavar="YEARS")
    report.add_argument("--challenge", nargs="+", type=float, default=[], metavar="YEARS")
    report.add_argument("--bootstrap", type=int, default=1000, metavar="RESAMPLES")
    report.add_argument("--seed", type=int, default=0)


def report_options(arguments: argparse.Namespace) -> ReportOptions:
    """The report's options.

    Raises:
        OptionsError: something is out of range.
    """
    problems = [
        f"--{name} {value:g} must lie within 1..100 years"
        for name in ("thresholds", "challenge")
        for value in getattr(arguments, name)
        if not 1.0 <= value <= 100.0
    ]
    if arguments.bootstrap < _FEWEST_RESAMPLES:
        fewest = _FEWEST_RESAMPLES
        problems.append(f"--bootstrap must be {fewest} or more, got {arguments.bootstrap}")
    if problems:
        raise OptionsError(problems)
    return ReportOptions(
        tuple(arguments.thresholds), tuple(arguments.challenge), arguments.bootstrap, arguments.seed
    )


def labeled_data(
    arguments: argparse.Namespace, experts: Sequence[str] | None, folder: Path, *, varied: bool
) -> tuple[LabeledPredictions, Mapping[str, str | None]]:
    """The labeled predictions that the options name, and the experts' checkpoints.

    Args:
        arguments: as `add_inputs` and `add_report` define them.
        experts: whose readings; None means all that the engines folder holds.
        folder: where readings of pictures are kept.
        varied: refuse an expert that gives every face the same age.

    Returns:
        The predictions; and the SHA-256 of each expert's checkpoint, where it is known.
    """
    if arguments.predictions is not None:
        path, names = arguments.predictions, tuple(experts or ())
        return read_predictions(path, names, arguments.groups, varied=varied), {}
    path, sources = _ask(arguments, experts, folder)
    return read_predictions(
        path, tuple(sources), _all_groups(path, sources), varied=varied
    ), sources


def _ask(
    arguments: argparse.Namespace, experts: Sequence[str] | None, folder: Path
) -> tuple[Path, Mapping[str, str | None]]:
    from runtime import AgeMoE

    columns = dict(pair.partition("=")[::2] for pair in arguments.columns)
    unknown = sorted(set(columns) - {"image", "age", "subject"})
    if unknown:
        raise OptionsError([f"--columns knows image, age and subject, not {', '.join(unknown)}"])
    faces = read_faces(arguments.faces, arguments.layout, columns)
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        moe = AgeMoE(
            arguments.engines,
            device=arguments.device,
            precision=arguments.precision,
            experts=experts,
            fusion=None,
        )
    for warning in caught:
        _LOGGER.warning("%s", warning.message)
    with moe:
        run_as = f"{arguments.device}, {arguments.precision}"
        return write_predictions(moe, faces, folder, _progress, run_as=run_as), moe.sources


def _all_groups(path: Path, experts: Mapping[str, object]) -> list[str]:
    """Every label that came with the pictures is a group."""
    with path.open(encoding="utf-8") as file:
        header = next(csv.reader(file))
    return [name for name in header if name not in {"id", "age", "subject", *experts}]


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{done} of {total} faces", end=end, file=sys.stderr, flush=True)


def write_report(folder: Path, report: Report, page: str, images: Mapping[str, bytes]) -> None:
    """Writes pictures, page and figures, each of them whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in images.items():
        write_whole(folder / name, data)
    write_whole(folder / REPORT_PAGE, page.encode())
    write_json(folder / REPORT_JSON, report)


def run_command(
    command: Callable[[argparse.Namespace], None], arguments: argparse.Namespace
) -> int:
    """Runs a command; what it refuses on purpose goes to stderr and makes exit status 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        command(arguments)
    except (ExportError, AgeMoEError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
