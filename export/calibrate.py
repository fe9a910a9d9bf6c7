"""Fits `fusion.json` on labeled faces and reports its held-out accuracy.

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

if __package__ in (None, ""):  # run as a file: python export/calibrate.py
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the matrices are too small for threads

from export.calibration.command import add_inputs, add_report, report_options, run_command
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
    parser.add_argument("--experts", nargs="+", metavar="NAME", help="the experts to fuse")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="for all files")
    add_report(parser)
    return parser


def _calibrate(arguments: argparse.Namespace) -> None:
    options = report_options(arguments)
    if arguments.predictions is not None and not arguments.experts:
        raise OptionsError(["--predictions needs --experts: the columns with raw predictions"])
    # Heavy imports, after the options have been validated.
    from export.calibration.fit import fit_fusion
    from export.calibration.inputs import labeled_data
    from export.calibration.report import report_of
    from export.calibration.report_files import REPORT_PAGE, write_report
    from export.calibration.scores import scores_of_calibration

    folder: Path = arguments.output
    faces, sources = labeled_data(arguments, arguments.experts, folder, varied=True)
    calibration = fit_fusion(faces, arguments.seed)
    data = (arguments.predictions or arguments.faces).name
    tables = _with_origin(calibration.tables, sources, data)
    report = report_of(scores_of_calibration(faces, calibration), options)
    report["provenance"] = dict(tables.provenance)
    write_report(folder, report, tables, "Calibration report", _preface(tables.provenance))
    # Last: where there is a fusion.json, its report is there too.
    write_fusion(folder / FILE_NAME, tables)
    errors = report["provenance"]["cross_validated_mae_years"]
    width = max(len(name) for name in errors)
    print(f"Held-out mean absolute error on {len(faces)} faces, in years:")
    for name, error in errors.items():
        print(f"  {name:<{width}}  {error:6.2f}")
    print(f"Wrote {folder / FILE_NAME}; the report is {folder / REPORT_PAGE}.")


def _with_origin(
    tables: FusionTables, sources: Mapping[str, str | None], data: str
) -> FusionTables:
    """Adds the checkpoints and the name of the data for which the tables were fitted."""
    experts = {
        name: replace(table, source_sha256=sources.get(name))
        for name, table in tables.experts.items()
    }
    return replace(tables, experts=experts, provenance={**tables.provenance, "data": data})


def _preface(provenance: Mapping[str, Any]) -> list[str]:
    bias = "; ".join(f"{name}: {model}" for name, model in provenance["bias"].items())
    paragraphs = [
        (
            f"From {provenance['faces']} labeled faces of {provenance['people']} people in "
            f"{provenance['data']}. Every figure on this page is of faces held out of the fit, "
            "including the choice of models (nested cross-validation); the tables themselves were "
            "then fitted on all faces."
        ),
        f"Models chosen by cross-validation: bias {bias}. Gate: {provenance['gate']}.",
    ]
    if provenance["fell_back"]:
        paragraphs.append(
            "**Fusing was worse than the best corrected expert, so the tables fall back to that "
            "expert alone.** More labeled faces, or other experts, may help."
        )
    return paragraphs


if __name__ == "__main__":
    sys.exit(main())
