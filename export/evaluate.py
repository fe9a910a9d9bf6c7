"""How good finished fusion tables are, on labeled faces they were not fitted on.

python export/evaluate.py --predictions new.csv --fusion engines/fusion.json --groups sex
python export/evaluate.py --predictions new.csv --fusion a.json --compare b.json --json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

if __package__ in (None, ""):
    # Run as a script: export/ itself must not be on the path, its parent must.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    # Thousands of tiny matrices: more threads would only wait for one another.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from export.calibration.command import (
    add_inputs,
    add_report,
    labeled_data,
    report_options,
    run_command,
    write_report,
)
from export.errors import OptionsError
from runtime.fusion import FusionTables
from runtime.fusion_file import check_fusion_fits, read_fusion


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status."""
    return run_command(_evaluate, _parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python export/evaluate.py",
        description="Judges fusion tables on labeled faces they were not fitted on.",
    )
    add_inputs(parser)
    parser.add_argument("--fusion", type=Path, required=True, metavar="JSON", help="the tables")
    parser.add_argument("--experts", nargs="+", metavar="NAME", help="only these; default: all")
    parser.add_argument("--compare", type=Path, metavar="JSON", help="other tables to compare with")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write the report there, too")
    add_report(parser)
    return parser


def _evaluate(arguments: argparse.Namespace) -> None:
    tables = read_fusion(arguments.fusion)
    other = None if arguments.compare is None else read_fusion(arguments.compare)
    names = arguments.experts or list(tables.experts)
    _check_experts(arguments.fusion, tables, names)
    if other is not None:
        _check_experts(arguments.compare, other, names)
    if arguments.output is not None:
        _judge(arguments, tables, other, names, arguments.output)
        return
    with tempfile.TemporaryDirectory() as folder:
        _judge(arguments, tables, other, names, Path(folder))


def _check_experts(path: Path, tables: FusionTables, names: Sequence[str]) -> None:
    known = ", ".join(tables.experts)
    problems = [
        f"{path.name} has no expert {n!r}; it has {known}" for n in names if n not in tables.experts
    ]
    if problems:
        raise OptionsError(problems)


def _judge(
    arguments: argparse.Namespace,
    tables: FusionTables,
    other: FusionTables | None,
    names: Sequence[str],
    folder: Path,
) -> None:
    """Reports on the tables; readings of pictures are kept in the folder."""
    from export.calibration.compare import comparison, comparison_text
    from export.calibration.markdown import markdown
    from export.calibration.report import report_of
    from export.calibration.scores import scores_of_tables

    options = report_options(arguments)
    faces, sources = labeled_data(arguments, names, folder, varied=False)
    check_fusion_fits(arguments.fusion, tables, sources)
    scores = scores_of_tables(faces, tables)
    report = report_of(scores, options)
    extra = ""
    if other is not None:
        report["comparison"] = comparison(scores, scores_of_tables(faces, other), options)
        titles = arguments.fusion.name, arguments.compare.name
        extra = f"\n{comparison_text(report['comparison'], *titles)}"
    preface = [
        (
            f"Tables of {arguments.fusion.name} on {len(faces)} labeled faces. The figures hold "
            "for new faces only if the tables were fitted on others."
        )
    ]
    if arguments.output is not None:
        from export.calibration.plots import pictures

        images = pictures(tables, faces.names, report)
        page = markdown(report, "Evaluation report", preface, list(images)) + extra
        write_report(folder, report, page, images)
    _show(report, markdown(report, "Evaluation", preface, []) + extra, as_json=arguments.json)


def _show(report: Mapping[str, object], page: str, *, as_json: bool) -> None:
    print(json.dumps(report, indent=1, sort_keys=True, allow_nan=False) if as_json else page)


if __name__ == "__main__":
    sys.exit(main())
