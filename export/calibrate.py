"""Fits fusion tables on labeled faces and reports its held-out accuracy."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # run as a file: python export/calibrate.py
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the matrices are too small for threads

from export.calibration.command import (
    add_inputs,
    add_report,
    data_name,
    report_options,
    run_calibration,
)
from export.errors import OptionsError
from runtime.commands import Parser
from runtime.fusion import FusionTables
from runtime.fusion_file import FILE_NAME, check_fusion_fits, read_fusion, write_fusion
from runtime.manifest_file import read_manifest
from runtime.printing import printable
from runtime.program import command_line, usage_name
from runtime.progress import Progress

if TYPE_CHECKING:
    from export.calibration.fit import Calibration
    from export.calibration.inputs import LabeledData
    from export.calibration.labeled_predictions import LabeledPredictions
    from export.calibration.left_out import LeftOut


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status."""
    return run_calibration(_calibrate, parser().parse_args(arguments))


def parser() -> Parser:
    """Returns the parser of the arguments."""
    parser = Parser(
        prog=usage_name("calibrate", __file__),
        description="Fits the fusion of the experts on labeled faces: bias corrections, gate and "
        "intervals. Writes fusion.json and a report of the accuracy on held-out faces.",
        examples=(
            "--faces photos/ --output engines",
            "--predictions ages.csv --truth truth.csv --output engines --bind",
            "--predictions predictions.csv --experts vgg16 mivolo --output fused",
            "--faces photos/ --keep-fusion engines/fusion.json --output engines",
            "--published moe.pth --experts janus vgg16 mivolo resnet50 --output engines",
        ),
    )
    inputs = add_inputs(parser)
    published = "import the fusion published by AgeMoE's authors from their .pth file"
    inputs.add_argument("--published", type=Path, metavar="FILE", help=published)
    experts = "experts to fuse, with --published in the order of the file (default: all)"
    parser.add_argument("--experts", nargs="+", metavar="NAME", help=experts)
    fit = parser.add_argument_group("fit")
    forms = "form of the fusion: tables over one age, or as published; auto: by cross-validation"
    fit.add_argument("--form", choices=("auto", "tables", "agemoe"), default="auto", help=forms)
    keep = "keep this fusion.json and fit only its intervals"
    fit.add_argument("--keep-fusion", type=Path, metavar="FUSION", help=keep)
    sources = "column with the source of each picture; each is left out once (default: source)"
    fit.add_argument("--sources", metavar="COLUMN", help=sources)
    robust = "widen the intervals until they also cover each source when it is left out of the fit"
    fit.add_argument("--robust", choices=("source",), help=robust)
    bind = "with --published or --predictions: bind the tables to the experts of --engines"
    parser.add_argument("--bind", action="store_true", help=bind)
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for fusion.json and the report",
    )
    add_report(parser)
    return parser


def _calibrate(arguments: argparse.Namespace) -> None:
    options = report_options(arguments)
    _check_options(arguments)
    # Heavy imports, after the options have been validated.
    if arguments.published is not None:
        _import_published(arguments)
        return
    from export.calibration.correlation import correlation_of, correlation_text
    from export.calibration.fitted_faces import FITTED_FACES, without_fingerprints
    from export.calibration.inputs import labeled_data
    from export.calibration.left_out import Robust, check_sources, left_out_report
    from export.calibration.origin import fitted_faces, print_errors, with_origin
    from export.calibration.preface import preface
    from export.calibration.report import report_of
    from export.calibration.report_files import REPORT_PAGE, write_report
    from export.calibration.scores import scores_of_calibration

    folder: Path = arguments.output
    kept = None if arguments.keep_fusion is None else read_fusion(arguments.keep_fusion)
    names = arguments.experts if kept is None else arguments.experts or list(kept.experts)
    data = labeled_data(arguments, names, varied=kept is None)
    if arguments.robust is not None:
        check_sources(data.faces)
    folder.mkdir(parents=True, exist_ok=True)  # a fit takes minutes
    name = data_name(arguments)
    overlap = None if kept is None else fitted_faces(kept, data.faces, name)
    calibration, left_out = _fitted(arguments, data, kept)
    tables, scores = calibration.tables, scores_of_calibration(data.faces, calibration)
    robust = None
    if left_out is not None and arguments.robust is not None:
        robust = Robust.of(tables, left_out)
        tables, scores = robust.tables(tables), robust.scores(scores, tables.age_grid)
    tables = with_origin(tables, data.experts, data.detector, name, data.faces)
    if robust is not None:
        tables = replace(tables, provenance={**tables.provenance, "robust": robust.provenance})
    correlation = correlation_of(scores, name, options.resamples, options.seed)
    tables = replace(tables, correlation=correlation)  # an earlier one was of other intervals
    report, paragraphs = report_of(scores, options), preface(tables, overlap)
    if overlap is not None:
        report[FITTED_FACES] = overlap.to_dict()
    if correlation is not None:
        report["correlation"] = asdict(correlation)
        paragraphs.append(correlation_text(correlation))
    if left_out is not None:
        report["left_out"] = left_out_report(left_out, options, tables, robust)
    report["provenance"] = without_fingerprints(tables.provenance)
    write_report(folder, report, tables, "Calibration report", paragraphs)
    # Last: where there is a fusion.json, its report is there too.
    write_fusion(folder / FILE_NAME, tables)
    print_errors(tables.provenance, len(data.faces))
    written, page = printable(folder / FILE_NAME), printable(folder / REPORT_PAGE)
    print(f"Wrote {written}; the report is {page}.")


def _fitted(
    arguments: argparse.Namespace, data: LabeledData, kept: FusionTables | None
) -> tuple[Calibration, LeftOut | None]:
    """Fits the tables, and again without each source if there are sources."""
    from export.calibration.fit import fit_fusion, keep_fusion
    from export.calibration.left_out import leave_sources_out
    from export.calibration.origin import warn_of_detector

    faces, seed = data.faces, arguments.seed
    quiet = arguments.no_progress
    if kept is None:
        with Progress("fits", quiet=quiet) as progress:
            calibration = fit_fusion(faces, seed, arguments.form, report=progress.report)
    else:
        experts = {**dict.fromkeys(faces.names), **data.experts}
        check_fusion_fits(arguments.keep_fusion, kept, experts)
        warn_of_detector(kept, data.detector)
        calibration = keep_fusion(faces, kept, seed)
    if faces.sources is None:
        return calibration, None

    def refit(rest: LabeledPredictions) -> FusionTables:
        if kept is not None:
            return keep_fusion(rest, kept, seed, quiet=True).tables
        return fit_fusion(rest, seed, str(calibration.tables.provenance["form"]), quiet=True).tables

    with Progress("sources left out", quiet=quiet) as progress:
        return calibration, leave_sources_out(faces, refit, progress.report)


def _check_options(arguments: argparse.Namespace) -> None:
    """Raises OptionsError for options that contradict each other."""
    problems = []
    kept, published = arguments.keep_fusion is not None, arguments.published is not None
    given = arguments.predictions is not None
    if given and not arguments.experts and not kept and arguments.truth is None:
        problems.append("--predictions needs --experts: the columns with raw predictions")
    if published and not arguments.experts:
        problems.append(
            "--published needs --experts, in the file's order: janus vgg16 mivolo resnet50"
        )
    if published and kept:
        problems.append("--published and --keep-fusion exclude each other")
    if kept and arguments.form != "auto":
        problems.append("--keep-fusion keeps the form of the fusion: leave --form out")
    if arguments.bind and not (published or given):
        problems.append("--bind belongs to --published and --predictions; --faces always binds")
    if published and arguments.robust is not None:
        problems.append("--robust needs labeled faces: use it with --keep-fusion")
    if problems:
        raise OptionsError(problems)


def _import_published(arguments: argparse.Namespace) -> None:
    """Writes the published fusion as fusion.json, and prints what the file holds."""
    from export.calibration.origin import with_origin
    from export.calibration.published import describe_published, published_fusion

    tables = published_fusion(arguments.published, arguments.experts)
    if arguments.bind:
        experts = read_manifest(arguments.engines).experts
        check_fusion_fits(arguments.published, tables, experts)
        tables = with_origin(tables, experts, None, arguments.published.name)
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_fusion(arguments.output / FILE_NAME, tables)
    print(describe_published(arguments.published, tables))
    written = printable(arguments.output / FILE_NAME)
    print(
        f"Wrote {written}, without intervals. Fit them on labeled faces: "
        f"{command_line('calibrate')} --keep-fusion {written} --faces FOLDER …"
    )


if __name__ == "__main__":
    sys.exit(main())
