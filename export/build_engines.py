"""The command line: options in, the pipeline, a table of what was built out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: python export/build_engines.py
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rich.console import Console

from export.build.console import BuildDisplay, built_table, make_console, plan_table
from export.build.options import WEIGHTS, BuildOptions, resolve_options
from export.build.pipeline import build
from export.build.plan import plan
from export.build.tensorrt_target import TARGETS
from export.errors import ExportError
from runtime.errors import AgeMoEError

_DEMO_NOTICE = (
    "[bold yellow]DEMO EXPERTS[/]: no checkpoint was given, so the experts are small networks "
    "fitted on drawn faces. They show that everything works and are useless on photographs. For "
    "real ones: --checkpoint vgg16=PATH …, or --experts FILE "
    "(see export/config/experts.example.toml)."
)
_RANDOM_NOTICE = "[bold yellow]RANDOM WEIGHTS[/]: for measuring speed; the ages mean nothing."
_NOTICES = {"demo": _DEMO_NOTICE, "random": _RANDOM_NOTICE}


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds engines.

    Returns:
        The exit status: 0; 1 on an error or where a form was refused; 130 when interrupted.
    """
    parsed = _parser().parse_args(arguments)
    console = make_console()
    try:
        options = resolve_options(
            output=parsed.output,
            experts_file=parsed.experts,
            weights=parsed.weights,
            checkpoints=parsed.checkpoint,
            only=parsed.only,
            fp16=parsed.fp16,
            bf16=parsed.bf16,
            int8=parsed.int8,
            max_batch=parsed.max_batch,
            force=parsed.force,
            target=parsed.target,
            workspace_gib=parsed.workspace_gib,
            optimization_level=parsed.optimization_level,
        )
        if options.weights in _NOTICES:
            console.print(_NOTICES[options.weights], soft_wrap=True)
        if parsed.plan:
            console.print(plan_table(plan(options)))
            return 0
        refused = _build(options, console)
    except (ExportError, AgeMoEError) as error:
        _print_error(str(error))
        return 1
    except KeyboardInterrupt:
        console.print(
            "Interrupted. What was published before is whole; a rerun goes on from there."
        )
        return 130
    for reason in refused:
        _print_error(reason)
    return 1 if refused else 0


def _print_error(what: str) -> None:
    Console(stderr=True, highlight=False).print(
        f"error: {what}", style="red", markup=False, soft_wrap=True
    )


def _build(options: BuildOptions, console: Console) -> list[str]:
    """Builds and tells what was built; returns why forms for CPUs were refused."""
    with BuildDisplay(console) as display:
        rows = build(options, display)
    console.print(built_table(rows))
    if all(row.reused for row in rows):
        console.print("Everything was up to date: nothing was built.")
    if options.engines is not None:
        console.print(f"Engines: {options.engines.target}.", soft_wrap=True)
    else:
        console.print(f"ONNX files only: {options.no_engines}.", markup=False, soft_wrap=True)
    console.print(
        f"Next: python -m runtime predict PHOTO --engines {options.output}", soft_wrap=True
    )
    return [reason for row in rows for reason in row.refused]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python export/build_engines.py",
        description="Turns checkpoints into verified engines for runtime.AgeMoE.",
    )
    parser.add_argument("--fp16", action="store_true", help="build half precision too")
    parser.add_argument(
        "--bf16",
        action="store_true",
        help="build bfloat16 too, for CPUs that multiply it; all experts but Janus; needs OpenVINO",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="build INT8 too, for CPUs; needs OpenVINO for all experts but Janus",
    )
    parser.add_argument(
        "--experts", type=Path, metavar="FILE", help="experts.toml; default: the built-in experts"
    )
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=PATH",
        help="weights of an expert: a path or hf://owner/repo[/file]@revision",
    )
    parser.add_argument(
        "--only", nargs="+", action="extend", default=[], metavar="NAME", help="build only these"
    )
    parser.add_argument("--output", type=Path, default=Path("engines"), help="the engines folder")
    parser.add_argument(
        "--max-batch", type=int, default=32, metavar="N", help="largest batch (default 32)"
    )
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        help="default: checkpoint if any is given, else demo; random is for measuring speed",
    )
    parser.add_argument(
        "--target",
        choices=TARGETS,
        default="auto",
        help="engines to go on to; default: TensorRT's where it is installed and there is a GPU, "
        "else those of TensorRT for RTX if only that is installed, else none",
    )
    parser.add_argument(
        "--workspace-gib", type=float, metavar="GIB", help="limit on TensorRT's workspace"
    )
    parser.add_argument(
        "--optimization-level",
        type=int,
        default=3,
        metavar="0..5",
        help="how long TensorRT looks for the fastest kernels (default 3)",
    )
    parser.add_argument("--force", action="store_true", help="rebuild what is up to date")
    parser.add_argument("--plan", action="store_true", help="show what would be built and why")
    return parser


if __name__ == "__main__":
    sys.exit(main())
