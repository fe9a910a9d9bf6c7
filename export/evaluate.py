"""Evaluates fusion tables on labeled faces they were not fitted on."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # run as a file: python export/evaluate.py
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the matrices are too small for threads

from export.calibration.command import (
    add_inputs,
    add_report,
    data_name,
    report_options,
    run_calibration,
)
from export.calibration.policy_command import add_policy, challenge_options
from export.calibration.statement_command import add_statement, check_statement
from export.errors import OptionsError
from runtime.commands import Parser
from runtime.fusion import FusionTables
from runtime.fusion_file import check_fusion_fits, read_fusion
from runtime.program import usage_name
from runtime.quality import QualityLimits
from runtime.quality_options import add_quality_options, quality_limits

if TYPE_CHECKING:
    from export.calibration.report import ReportOptions
    from export.calibration.scores import Scores


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status."""
    return run_calibration(_evaluate, parser().parse_args(arguments))


def parser() -> Parser:
    """Returns the parser of the arguments."""
    parser = Parser(
        prog=usage_name("evaluate", __file__),
        description="Evaluates fusion tables on labeled faces they were not fitted on. Prints a "
        "report; or fits a policy, or writes a statement.",
        examples=(
            "--faces new/ --fusion engines/fusion.json",
            "--predictions new.csv --fusion engines/fusion.json --groups sex",
            "--predictions new.csv --fusion a.json --compare b.json --json",
            "--predictions people.csv --fusion a.json --correlation b.json",
            "--faces new/ --fusion engines/fusion.json --policy --groups sex",
            "--faces new/ --fusion engines/fusion.json --statement statement.md",
        ),
    )
    add_inputs(parser)
    fusion = "fusion tables to evaluate"
    experts, compare = "evaluate only these experts (default: all)", "other tables to compare with"
    parser.add_argument("--fusion", type=Path, required=True, metavar="JSON", help=fusion)
    parser.add_argument("--experts", nargs="+", metavar="NAME", help=experts)
    parser.add_argument("--compare", type=Path, metavar="JSON", help=compare)
    add_quality_options(parser)
    correlation = "write the tables, with the correlation of errors on pictures of one person"
    parser.add_argument("--correlation", type=Path, metavar="JSON", help=correlation)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    output = "also write the report, with plots, into this folder"
    parser.add_argument("--output", type=Path, metavar="DIR", help=output)
    add_report(parser)
    add_policy(parser)
    add_statement(parser)
    return parser


def _evaluate(arguments: argparse.Namespace) -> None:
    options, challenge = report_options(arguments), challenge_options(arguments)
    check_statement(arguments)
    limits = _limits(arguments)
    tables = _tables(arguments.fusion, arguments.experts or ())
    # A policy and a statement are for the experts of --engines.
    arguments.bind = challenge is not None or arguments.statement is not None
    names = arguments.experts or list(tables.experts)
    other = _tables(arguments.compare, names) if arguments.compare is not None else None
    # Heavy imports, after the options have been validated.
    from export.calibration.inputs import labeled_data
    from export.calibration.origin import warn_of_detector
    from export.calibration.scores import scores_of_tables

    data = labeled_data(arguments, names, varied=False)
    check_fusion_fits(arguments.fusion, tables, data.experts)
    warn_of_detector(tables, data.detector)
    scores = scores_of_tables(data.faces, tables)
    if challenge is not None:
        from export.calibration.policy_fit import write_fitted_policy

        kept = None if limits is None else replace(limits, require_face=True)
        write_fitted_policy(arguments, challenge, data, scores, tables, kept)
    elif arguments.statement is not None:
        from export.calibration.statement_file import write_statement

        write_statement(arguments, options, data, scores, tables, limits)
    else:
        _report(arguments, options, scores, tables, other, limits)


def _report(
    arguments: argparse.Namespace,
    options: ReportOptions,
    scores: Scores,
    tables: FusionTables,
    other: FusionTables | None,
    limits: QualityLimits | None,
) -> None:
    """Prints the report and writes what the options ask for."""
    from export.calibration.comparison import comparison, comparison_text
    from export.calibration.correlation import (
        correlation_of,
        correlation_text,
        write_correlation,
    )
    from export.calibration.fitted_faces import FITTED_FACES, overlap_of
    from export.calibration.markdown import markdown
    from export.calibration.origin import fitted_faces
    from export.calibration.preface import preface_of_evaluation
    from export.calibration.quality import limits_report, quality_report
    from export.calibration.report import report_of
    from export.calibration.report_files import write_report
    from export.calibration.scores import scores_of_tables

    faces, name = scores.faces, data_name(arguments)
    report, appendix = report_of(scores, options), ""
    overlap = fitted_faces(tables, faces, name)
    report[FITTED_FACES] = overlap.to_dict()
    report["quality"] = quality_report(scores, options)
    if limits is not None:
        report["limits"] = limits_report(scores, options, limits)
    correlation = correlation_of(scores, name, options.resamples, options.seed)
    if arguments.correlation is not None:
        write_correlation(arguments.correlation, tables, correlation)
    if other is not None:
        report["comparison"] = comparison(scores, scores_of_tables(faces, other), options)
        seen = overlap_of(other.provenance, faces)
        report["comparison"][f"other_{FITTED_FACES}"] = seen.to_dict()
        titles = _titles(arguments.fusion, arguments.compare)
        appendix = f"\n{comparison_text(report['comparison'], *titles, seen)}"
    preface = preface_of_evaluation(arguments.fusion.name, name, overlap)
    if correlation is not None:
        report["correlation"] = asdict(correlation)
        preface.append(correlation_text(correlation))
    if arguments.output is not None:
        write_report(arguments.output, report, tables, "Evaluation report", preface, appendix)
    if arguments.json:
        print(json.dumps(report, indent=1, sort_keys=True, allow_nan=False))
    else:
        print(markdown(report, "Evaluation", preface, []) + appendix)


def _titles(path: Path, other: Path) -> tuple[str, str]:
    """Returns the names of two files, with their folders if the names are equal."""
    if path.name != other.name:
        return path.name, other.name
    return (
        f"{path.absolute().parent.name}/{path.name}",
        f"{other.absolute().parent.name}/{other.name}",
    )


def _limits(arguments: argparse.Namespace) -> QualityLimits | None:
    """Returns the quality limits of the options; None if there are none."""
    limits = quality_limits(arguments, require_face=False)
    return None if limits == QualityLimits(require_face=False) else limits


def _tables(path: Path, experts: Sequence[str]) -> FusionTables:
    """Reads fusion tables and checks that they have the experts."""
    tables = read_fusion(path)
    known = ", ".join(tables.experts)
    problems = [
        f"{path.name} has no expert {n!r}; it has {known}"
        for n in experts
        if n not in tables.experts
    ]
    if problems:
        raise OptionsError(problems)
    return tables


if __name__ == "__main__":
    sys.exit(main())
