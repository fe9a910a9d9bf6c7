"""Writes a model repository for Triton Inference Server from an engines folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

if __package__ in (None, ""):  # run as a file: python export/triton_repository.py
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from export.triton.config import Scheduling
from export.triton.repository import write_repository
from runtime.commands import Parser, count, run_command, whole
from runtime.files import resolved
from runtime.manifest import Artifact
from runtime.printing import printable
from runtime.program import usage_name
from runtime.shared_options import add_engines

DEVICES = ("auto", "tensorrt", "cuda", "cpu")
_MOST_DELAY_US = 1_000_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 1 on an error."""
    return run_command(partial(_write, parser().parse_args(arguments)))


def _write(parsed: argparse.Namespace) -> int:
    models = write_repository(
        parsed.engines,
        parsed.output,
        device=parsed.device,
        precision=parsed.precision,
        scheduling=Scheduling(parsed.instances, parsed.queue_delay_us),
    )
    for name, model in models.items():
        print(f"{printable(name)}: {_description(model.artifact)}, {model.kind}")
    print(f"Next: tritonserver --model-repository={printable(resolved(parsed.output))}")
    return 0


def _description(artifact: Artifact) -> str:
    if artifact.binding is None:
        return f"{artifact.backend} {artifact.precision}"
    capability = artifact.binding.compute_capability
    return (
        f"{artifact.backend} {artifact.precision}, which requires a Triton with TensorRT "
        f"{artifact.binding.tensorrt} and a GPU of compute capability {capability}"
    )


def parser() -> Parser:
    """Returns the parser of the arguments."""
    parser = Parser(
        prog=usage_name("triton", __file__),
        description="Writes a model repository for Triton Inference Server from an engines folder.",
        examples=("--device tensorrt --precision fp16", "--output triton_models --instances 2"),
    )
    add, models = parser.add_argument, Path("triton_models")
    device = "device to run the experts on; auto: TensorRT if engines were built, else CUDA"
    delay = "maximum batching delay in microseconds"
    copies = "instances of each expert per device"
    add_engines(parser)
    add("--output", type=Path, default=models, metavar="DIR", help="new folder to write")
    add("--device", choices=DEVICES, default="auto", help=device)
    precisions = ("auto", "fp32", "fp16", "int8")
    add("--precision", choices=precisions, default="auto", help="precision of the experts")
    add("--instances", type=count, default=1, metavar="N", help=copies)
    add("--queue-delay-us", type=whole(0, _MOST_DELAY_US), default=2000, metavar="US", help=delay)
    return parser


if __name__ == "__main__":
    sys.exit(main())
