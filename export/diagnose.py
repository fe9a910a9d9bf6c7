"""Compares variants with FP32 layer by layer, and names the first layer that diverges."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

if __package__ in (None, ""):  # run as a file: python export/diagnose.py
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from export.build.layerwise import Effort, diagnose_tensorrt, diagnose_variant
from export.build.tensorrt_target import find_target
from export.diagnosis.report import Diagnosis, report_lines
from export.errors import OptionsError
from export.faces.verification import verification_images
from runtime.backends import ExpertVariant
from runtime.commands import Parser, positive, run_command, whole
from runtime.errors import BackendError
from runtime.manifest import ENGINE_BACKENDS, PRECISIONS, Artifact, Expert, verify_files
from runtime.manifest_file import read_manifest
from runtime.names import suggestion
from runtime.program import usage_name
from runtime.progress import Progress
from runtime.shared_options import add_engines

_BYTES_PER_GIB = 1 << 30
_OF_TENSORRT = ("fp32", "fp16")
"""Precisions of the ONNX files that engines are built from."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        The exit status: 0; 1 where a variant is beyond its tolerance, on an error, and where no
        variant can be compared here.
    """
    return run_command(partial(_run, parser().parse_args(arguments)))


def _run(parsed: argparse.Namespace) -> int:
    experts = read_manifest(parsed.engines).experts
    variants = list(_variants(parsed, experts))
    backend = _tensorrt(parsed.target) if parsed.target else None
    failed: list[bool] = []
    for number, variant in enumerate(variants):
        if number:
            print()
        try:
            diagnosis = _diagnosis(variant, backend, parsed)
        except BackendError as error:
            if parsed.precision or backend or (variant is variants[-1] and not failed):
                raise
            print(f"{variant.name} {variant.artifact.precision} was not compared: {error}")
            continue
        print("\n".join(report_lines(diagnosis, every=parsed.all)))
        failed.append(bool(diagnosis.problem))
    return int(any(failed))


def _diagnosis(
    variant: ExpertVariant, backend: str | None, parsed: argparse.Namespace
) -> Diagnosis:
    records = variant.expert.artifacts
    fp32 = next(a for a in records if (a.backend, a.precision) == ("onnx", "fp32"))
    for artifact in (fp32, variant.artifact):
        verify_files(variant.folder, variant.name, artifact)
    images = verification_images(variant.expert.inputs)
    path = variant.folder / fp32.files[0].path
    with Progress(f"layers of {variant.name} {variant.artifact.precision}") as progress:
        effort = Effort(int(parsed.memory_gib * _BYTES_PER_GIB), progress.report)
        if backend is not None:
            return diagnose_tensorrt(variant, backend, parsed.optimization_level, images, effort)
        return diagnose_variant(variant, path, images, effort)


def _variants(parsed: argparse.Namespace, experts: Mapping[str, Expert]) -> Iterator[ExpertVariant]:
    """Yields the files to compare.

    Raises:
        OptionsError: an expert or a precision is not among those built.
    """
    problems = [
        f"{name}: no such expert; there are {', '.join(experts)}.{suggestion(name, experts)}"
        for name in parsed.experts
        if name not in experts
    ]
    if problems:
        raise OptionsError(problems)
    found = [
        ExpertVariant(name, experts[name], artifact, parsed.engines)
        for name in dict.fromkeys(parsed.experts or experts)
        for artifact in experts[name].artifacts
        if _is_wanted(artifact, parsed)
    ]
    if not found:
        wanted = f"{parsed.precision} variant" if parsed.precision else "variant beside FP32"
        problem = f"{parsed.engines}: there is no {wanted} to compare with FP32; build it first"
        if parsed.precision == "fp32":
            problem = "--precision fp32: on the CPU, FP32 is what the others are compared with"
        raise OptionsError([problem])
    yield from found


def _is_wanted(artifact: Artifact, parsed: argparse.Namespace) -> bool:
    if parsed.precision and artifact.precision != parsed.precision:
        return False
    if parsed.target:
        return artifact.backend == "onnx" and artifact.precision in _OF_TENSORRT
    return artifact.backend not in ENGINE_BACKENDS and artifact.precision != "fp32"


def _tensorrt(wanted: str) -> str:
    """Returns the backend of a TensorRT that runs here; raises `OptionsError` if there is none."""
    target, reason = find_target(wanted)
    if target is None:
        raise OptionsError([f"--target {wanted}: {reason}, or leave --target out"])
    if not target.can_run:
        raise OptionsError([f"--target {wanted}: its engines do not run on this machine"])
    return target.backend


def parser() -> Parser:
    """Returns the parser of the arguments."""
    parser = Parser(
        prog=usage_name("diagnose", __file__),
        description="Compares FP16, bf16 and INT8 variants with FP32 layer by layer, on the "
        "verification faces, and names the first layer that diverges. Runs on the CPU; with "
        "--target, TensorRT on the GPU is compared with ONNX Runtime on the CPU.",
        examples=("", "vgg16 --precision fp16 --all", "vgg16 --target tensorrt --precision fp16"),
    )
    add = parser.add_argument
    memory = "memory for the values of the layers compared in one run, in GiB; less takes longer"
    target = "compare TensorRT on the ONNX files; it builds engines, and needs Polygraphy"
    level = "effort of TensorRT's search for the fastest kernels"
    add("experts", nargs="*", metavar="EXPERT", help="experts to compare (default: all)")
    add_engines(parser)
    add("--precision", choices=PRECISIONS, help="compare only this precision (default: all)")
    add("--target", choices=("tensorrt", "rtx"), help=target)
    add("--optimization-level", type=whole(0, 5), default=3, metavar="0..5", help=level)
    add("--memory-gib", type=positive, default=1.0, metavar="GIB", help=memory)
    add("--all", action="store_true", help="print all layers")
    return parser


if __name__ == "__main__":
    sys.exit(main())
