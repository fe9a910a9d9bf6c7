"""Labeled faces in, `fusion.json` and a report out.

python export/calibrate.py --predictions predictions.csv --experts a b c --output engines
python export/calibrate.py --faces photos/ --engines engines --output engines
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from runtime.fusion_file import FILE_NAME, write_fusion


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status."""
    return run_command(_calibrate, _parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python export/calibrate.py",
        description="Fits bias tables, gate and intervals on labeled faces.",
    )
    add_inputs(parser)
    parser.add_argument("--experts", nargs="+", metavar="NAME", help="whose readings to fuse")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="for all files")
    add_report(parser)
    return parser


def _calibrate(arguments: argparse.Namespace) -> None:
    if arguments.predictions is not None and not arguments.experts:
        raise OptionsError(["--predictions needs --experts: the columns that hold readings"])
    # Heavy imports come after the options are known to be in order: --help is instant.
    from export.calibration.fit import fit_fusion
    from export.calibration.markdown import markdown
    from export.calibration.plots import pictures
    from export.calibration.report import report_of
    from export.calibration.scores import scores_of_calibration

    options = report_options(arguments)
    faces, sources = labeled_data(arguments, arguments.experts, arguments.output, varied=True)
    calibration = fit_fusion(faces, arguments.seed)
    tables = _signed(calibration.tables, sources, arguments)
    report = report_of(scores_of_calibration(faces, calibration), options)
    report["provenance"] = dict(tables.provenance)
    images = pictures(tables, faces.names, report)
    page = markdown(report, "Calibration report", _preface(tables), list(images))
    write_report(arguments.output, report, page, images)
    # Last, so that whoever finds fusion.json finds the report that belongs to it.
    write_fusion(arguments.output / FILE_NAME, tables)
    _say(report, tables, arguments.output)


def _signed(
    tables: FusionTables, sources: Mapping[str, str | None], arguments: argparse.Namespace
) -> FusionTables:
    """The tables with the checkpoints and the data they were fitted for."""
    experts = {
        name: replace(table, source_sha256=sources.get(name))
        for name, table in tables.experts.items()
    }
    data = (arguments.predictions or arguments.faces).name
    return replace(tables, experts=experts, provenance={**tables.provenance, "data": data})


def _preface(tables: FusionTables) -> list[str]:
    found: Mapping[str, Any] = tables.provenance
    bias = "; ".join(f"{name}: {form}" for name, form in found["bias"].items())
    paragraphs = [
        (
            f"From {found['faces']} labeled faces of {found['people']} people in {found['data']}. "
            "Every figure on this page is of faces held out of the fit, choices included (nested "
            "cross-validation); the tables themselves were then fitted on all faces."
        ),
        f"Chosen by cross-validation: bias {bias}. Gate: {found['gate']}.",
    ]
    if found["fell_back"]:
        paragraphs.append(
            "**Fusing did worse than the best corrected expert, so the tables fall back to that "
            "expert alone.** More labeled faces, or other experts, may help."
        )
    return paragraphs


def _say(report: Mapping[str, object], tables: FusionTables, folder: Path) -> None:
    provenance: Mapping[str, Any] = tables.provenance
    errors = provenance["cross_validated_mae_years"]
    width = max(len(name) for name in errors)
    print(f"Held-out mean absolute error on {report['faces']} faces, in years:")
    for name, error in errors.items():
        print(f"  {name:<{width}}  {error:6.2f}")
    print(f"Wrote {folder / FILE_NAME}; read {folder / 'report.md'}.")


if __name__ == "__main__":
    sys.exit(main())
