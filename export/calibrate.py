"""Fits `fusion.json` on labeled faces and reports its held-out accuracy.

python export/calibrate.py --predictions predictions.csv --experts a b c --output engines
python export/calibrate.py --faces photos/ --engines engines --output engines
python export/calibrate.py --published moe.pth --experts janus vgg16 mivolo resnet50 --output …
python export/calibrate.py --faces photos/ --keep-fusion engines/fusion.json --output engines
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
from runtime.fusion_file import FILE_NAME, check_fusion_fits, read_fusion, write_fusion
from runtime.manifest_file import read_manifest


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status."""
    return run_command(_calibrate, _parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python export/calibrate.py",
        description="Fits bias tables, gate and intervals on labeled faces.",
    )
    sources = add_inputs(parser)
    published = "import the fusion that AgeMoE's authors published: their .pth file"
    sources.add_argument("--published", type=Path, metavar="FILE", help=published)
    parser.add_argument("--experts", nargs="+", metavar="NAME", help="the experts to fuse")
    fit = parser.add_argument_group("fit")
    forms = "tables over one age, or the published form; default: by cross-validation"
    fit.add_argument("--form", choices=("auto", "tables", "agemoe"), default="auto", help=forms)
    keep = "fit only the intervals of this fusion; its other tables stay as they are"
    fit.add_argument("--keep-fusion", type=Path, metavar="FUSION", help=keep)
    bind = "with --published: bind the tables to the checkpoints in --engines"
    parser.add_argument("--bind", action="store_true", help=bind)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="for all files")
    add_report(parser)
    return parser


def _calibrate(arguments: argparse.Namespace) -> None:
    options = report_options(arguments)
    _check_options(arguments)
    # Heavy imports, after the options have been validated.
    if arguments.published is not None:
        _import_published(arguments)
        return
    from export.calibration.fit import fit_fusion, keep_fusion
    from export.calibration.inputs import labeled_data
    from export.calibration.report import report_of
    from export.calibration.report_files import REPORT_PAGE, write_report
    from export.calibration.scores import scores_of_calibration

    folder: Path = arguments.output
    kept = None if arguments.keep_fusion is None else read_fusion(arguments.keep_fusion)
    names = arguments.experts if kept is None else arguments.experts or list(kept.experts)
    faces, sources = labeled_data(arguments, names, folder, varied=kept is None)
    if kept is None:
        calibration = fit_fusion(faces, arguments.seed, arguments.form)
    else:
        check_fusion_fits(arguments.keep_fusion, kept, {**dict.fromkeys(faces.names), **sources})
        calibration = keep_fusion(faces, kept, arguments.seed)
    data = (arguments.predictions or arguments.faces).name
    tables = _with_origin(calibration.tables, sources, data)
    report = report_of(scores_of_calibration(faces, calibration), options)
    report["provenance"] = dict(tables.provenance)
    write_report(folder, report, tables, "Calibration report", _preface(tables.provenance))
    # Last: where there is a fusion.json, its report is there too.
    write_fusion(folder / FILE_NAME, tables)
    _print_errors(tables.provenance, len(faces))
    print(f"Wrote {folder / FILE_NAME}; the report is {folder / REPORT_PAGE}.")


def _check_options(arguments: argparse.Namespace) -> None:
    """Raises OptionsError for options that contradict each other."""
    problems = []
    kept, published = arguments.keep_fusion is not None, arguments.published is not None
    if arguments.predictions is not None and not arguments.experts and not kept:
        problems.append("--predictions needs --experts: the columns with raw predictions")
    if published and not arguments.experts:
        problems.append(
            "--published needs --experts, in the file's order: janus vgg16 mivolo resnet50"
        )
    if published and kept:
        problems.append("--published and --keep-fusion exclude each other")
    if kept and arguments.form != "auto":
        problems.append("--keep-fusion keeps the form of the fusion: leave --form out")
    if arguments.bind and not published:
        problems.append("--bind belongs to --published; a fit is always bound where it can be")
    if problems:
        raise OptionsError(problems)


def _import_published(arguments: argparse.Namespace) -> None:
    """Writes the published fusion as fusion.json, and prints what the file holds."""
    from export.calibration.published import describe_published, published_fusion

    tables = published_fusion(arguments.published, arguments.experts)
    if arguments.bind:
        experts = read_manifest(arguments.engines).experts
        sources = {name: expert.source.sha256 for name, expert in experts.items()}
        check_fusion_fits(arguments.published, tables, sources)
        tables = _with_origin(tables, sources, arguments.published.name)
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_fusion(arguments.output / FILE_NAME, tables)
    print(describe_published(arguments.published, tables))
    print(
        f"Wrote {arguments.output / FILE_NAME}, without intervals. Fit them on labeled faces: "
        f"python export/calibrate.py --keep-fusion {arguments.output / FILE_NAME} --faces FOLDER …"
    )


def _print_errors(provenance: Mapping[str, Any], faces: int) -> None:
    errors = _of_faces(provenance)["cross_validated_mae_years"]
    width = max(len(name) for name in errors)
    print(f"Held-out mean absolute error on {faces} faces, in years:")
    for name, error in errors.items():
        print(f"  {name:<{width}}  {error:6.2f}")
    compared = provenance.get("form_mae_years", {})
    if len(compared) > 1:
        listed = ", ".join(f"{name} {error:.2f}" for name, error in compared.items())
        print(f"Form: {provenance['form']} (fused error by form: {listed}).")


def _of_faces(provenance: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the figures of the labeled faces: those of the intervals for a kept fusion."""
    found: Mapping[str, Any] = provenance.get("intervals", provenance)
    return found


def _with_origin(
    tables: FusionTables, sources: Mapping[str, str | None], data: str
) -> FusionTables:
    """Adds the checkpoints and the name of the data for which the tables were fitted."""
    experts = {
        name: replace(table, source_sha256=sources.get(name) or table.source_sha256)
        for name, table in tables.experts.items()
    }
    provenance = {**tables.provenance, "data": tables.provenance.get("data", data)}
    if "intervals" in provenance:
        provenance["intervals"] = {**_of_faces(provenance), "data": data}
    return replace(tables, experts=experts, provenance=provenance)


def _preface(provenance: Mapping[str, Any]) -> list[str]:
    faces = _of_faces(provenance)
    origin = f"From {faces['faces']} labeled faces of {faces['people']} people in {faces['data']}. "
    if "intervals" in provenance:
        kept = (
            "Bias and gate are those of a fusion that was given; only the intervals were fitted. "
            "The figures hold for new faces if the fusion was not fitted on these ones; the "
            "intervals are verified on faces held out of their fit."
        )
        return [origin + kept]
    bias = "; ".join(f"{name}: {model}" for name, model in provenance["bias"].items())
    paragraphs = [
        (
            f"{origin}Every figure on this page is of faces held out of the fit, including the "
            "choice of models (nested cross-validation); the tables themselves were then fitted "
            "on all faces."
        ),
        f"Models chosen by cross-validation: bias {bias}. Gate: {provenance['gate']}.",
    ]
    compared = provenance["form_mae_years"]
    if len(compared) > 1:
        listed = ", ".join(f"{name} {error:.2f} years" for name, error in compared.items())
        paragraphs.append(
            f"Form of the fusion: {provenance['form']}, chosen by the fused error on held-out "
            f"faces ({listed}). `tables`: bias and gate are tables over one age. `agemoe`: the "
            "form that AgeMoE's authors published, in which the gate is a linear function of all "
            "raw predictions. `tables` is preferred unless the other is better by more than one "
            "standard error. The choice between the two used the same held-out faces."
        )
    if provenance["fell_back"]:
        paragraphs.append(
            "**Fusing was worse than the best corrected expert, so the tables fall back to that "
            "expert alone.** More labeled faces, or other experts, may help."
        )
    return paragraphs


if __name__ == "__main__":
    sys.exit(main())
