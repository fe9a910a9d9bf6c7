"""Layer-by-layer diagnosis of an expert's variants and of their TensorRT engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from export.build.differences import compared, whole_years_of
from export.build.parity import OPENVINO_TOLERANCE, TOLERANCES
from export.build.tensorrt_target import EngineOptions
from export.config.contract import Images
from export.diagnosis.compare import MEMORY_BYTES, Sides
from export.diagnosis.layers import LayerValues, OnnxLayers
from export.diagnosis.openvino import OpenVinoLayers
from export.diagnosis.report import Comparison, Diagnosis, diagnose, report_lines, summary_lines
from export.diagnosis.tensorrt import TensorRtLayers
from export.errors import ExportError, ParityError
from export.faces.verification import verification_images
from export.graph.weights import is_large
from runtime.backends import ExpertVariant
from runtime.errors import AgeMoEError
from runtime.manifest import ENGINE_BACKENDS
from runtime.progress import Report, unreported

_REMEDIES = {
    "fp16": "Remedy: keep_fp32 = {layers} in the expert's table of experts.toml keeps them in "
    "FP32. Then build again.",
    "bf16": "Remedy: build again with --force, which searches anew what stays in FP32; or without "
    "--bf16.",
    "int8": "Remedy: build again with --force, which measures ranges and searches anew what stays "
    "in FP32; or without --int8.",
    "fp32": "Remedy: none; its weights or its arithmetic differ. Report it with this table.",
}
"""By precision."""
_INNOCENT_ENGINE = (
    "The difference is within the tolerance: no layer is to blame. If an engine fails "
    "nevertheless, a fusion or a kernel is at fault, which reading the layers prevents: build it "
    "with another --optimization-level."
)


@dataclass(frozen=True, slots=True)
class Effort:
    """Memory and progress reports of a diagnosis."""

    memory_bytes: int = MEMORY_BYTES
    """For the values of a group of layers."""
    report: Report = unreported
    """Called with the number of layers compared, and of all."""


def diagnose_variant(
    variant: ExpertVariant, fp32: Path, images: Images, effort: Effort, *, failed: bool = False
) -> Diagnosis:
    """Compares an ONNX or OpenVINO file with the FP32 graph on this CPU.

    Args:
        variant: the file.
        fp32: the FP32 graph.
        images: the verification faces.
        effort: memory and progress.
        failed: whether the parity check has failed.

    Raises:
        GraphError: the two have no layer in common.
        BackendError: OpenVINO is not installed, or cannot show the layers.
    """
    artifact = variant.artifact

    def opened(faces: Images) -> LayerValues:
        if artifact.backend == "openvino":
            return OpenVinoLayers(variant.path, faces, artifact.precision)
        return OnnxLayers(variant.path, faces)

    comparison = _comparison(variant, artifact.backend, failed=failed)
    sides = Sides(partial(OnnxLayers, fp32), opened, is_large(fp32))
    return diagnose(comparison, sides, images, effort.memory_bytes, effort.report)


def diagnose_tensorrt(
    variant: ExpertVariant,
    backend: str,
    level: int,
    images: Images,
    effort: Effort,
) -> Diagnosis:
    """Compares TensorRT on an ONNX file with the FP32 graph in ONNX Runtime; needs the GPU.

    Args:
        variant: the ONNX file.
        backend: `tensorrt` or `tensorrt_rtx`.
        level: TensorRT's optimization level, 0 to 5.
        images: the verification faces.
        effort: memory and progress.

    Raises:
        GraphError: the two have no layer in common.
        ExportError: Polygraphy is missing, or TensorRT cannot show the layers.
    """
    records = variant.expert.artifacts
    exact = next(a for a in records if (a.backend, a.precision) == ("onnx", "fp32"))
    fp32 = variant.folder / exact.files[0].path
    sides = Sides(
        partial(OnnxLayers, fp32),
        lambda faces: TensorRtLayers(variant.path, faces, backend, level),
        is_large(fp32),
    )
    comparison = _comparison(variant, backend)
    return diagnose(comparison, sides, images, effort.memory_bytes, effort.report)


def explained(
    error: ParityError, variant: ExpertVariant, fp32: Path, images: Images, *, full: bool
) -> ParityError:
    """Returns the error of a variant that failed parity, with the layer that is to blame.

    Args:
        error: of the parity check.
        variant: what failed.
        fp32: the FP32 graph.
        images: the verification faces.
        full: the whole report, however large the network is, and not just the verdict.
    """
    if not full and is_large(fp32):
        return error
    return _explained(
        error, partial(diagnose_variant, variant, fp32, images, Effort(), failed=True), full=full
    )


def engine_explained(
    error: ParityError, variant: ExpertVariant, options: EngineOptions
) -> ParityError:
    """Returns the error of an engine that failed parity, with the layer that is to blame.

    `variant` is the ONNX file that the engine was built from.
    """
    backend, level = options.target.backend, options.optimization_level
    images = verification_images(variant.expert.inputs)
    make = partial(diagnose_tensorrt, variant, backend, level, images, Effort())
    return _explained(error, make, full=True)


def _explained(error: ParityError, make: Callable[[], Diagnosis], *, full: bool) -> ParityError:
    try:
        diagnosis = make()
    except (ExportError, AgeMoEError) as problem:
        return ParityError(*error.args, f"Its layers could not be compared: {problem}")
    return ParityError(
        *error.args, *(report_lines(diagnosis) if full else summary_lines(diagnosis))
    )


def _comparison(variant: ExpertVariant, backend: str, *, failed: bool = False) -> Comparison:
    precision = variant.artifact.precision
    tolerance = OPENVINO_TOLERANCE if backend == "openvino" else TOLERANCES[precision]
    few = replace(tolerance, mean_years=tolerance.max_years)
    grid = whole_years_of(variant.expert)
    return Comparison(
        subject=f"{variant.name} {precision} ({backend})",
        precision=precision,
        outputs=variant.expert.outputs,
        judge=lambda found, exact: compared(found, exact, tolerance, grid),
        judge_few=lambda found, exact: compared(found, exact, few, grid),
        remedy=_REMEDIES[precision],
        failed=failed,
        **({} if backend not in ENGINE_BACKENDS else {"innocent": _INNOCENT_ENGINE}),
    )
