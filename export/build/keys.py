"""Build keys: what a built file depends on, so that only what changed is built again.

A key holds one fingerprint per cause of change. The exporter's own part is made of the revisions of
the producers involved, integers that stand next to them and are raised when their output changes.
"""

from __future__ import annotations

from collections.abc import Mapping

from export.build import parity, tensorrt
from export.build.options import BuildOptions
from export.build.tensorrt_target import EngineOptions
from export.config.architecture import ExpertConfig
from export.config.detector import DetectorConfig
from export.config.fingerprints import (
    fingerprint,
    long_fingerprint,
    tool_versions,
    without_defaults,
)
from export.experts.registry import ARCHITECTURES
from export.faces import quantization, verification
from export.graph import conversion, detector, views
from export.variants import bf16, fp16, int8_dynamic, int8_static
from runtime.manifest import Artifact, BatchProfile

_VARIANTS = {
    ("onnx", "fp16"): fp16,
    ("onnx", "int8"): int8_dynamic,
    ("openvino", "int8"): int8_static,
    ("openvino", "bf16"): bf16,
}
"""Modules that write variants, by backend and precision."""

_NO_MATTER = ("name", "checkpoint", "sha256", "license", "keep_fp32")
"""Options of an expert that its predictions do not depend on."""


def build_key(
    config: ExpertConfig, options: BuildOptions, precision: str, weights_sha256: str | None
) -> dict[str, str]:
    """Returns what a graph depends on: 16 hex digits by cause of change, named as shown to users.

    `weights_sha256` is that of the checkpoint; None for random weights.
    """
    backend = ARCHITECTURES[config.architecture].variants[precision]
    tools = tool_versions()
    unused = None if backend == "openvino" else "openvino"
    used: dict[str, object] = {name: tools[name] for name in tools if name != unused}
    kept = [config.keep_fp32] if precision == "fp16" and config.keep_fp32 else []
    shape = [config.described(), options.weights, precision, options.max_batch, *kept]
    missing = verification.missing_photographs()  # files are verified, or quantized, without them
    return {
        "checkpoint": fingerprint(weights_sha256),
        "options": fingerprint(shape),
        "tools": fingerprint(used | ({"photographs": missing} if missing else {})),
        "exporter": fingerprint(graph_revisions(config, precision)),
    }


def detector_key(config: DetectorConfig, weights_sha256: str | None) -> dict[str, str]:
    """Returns what the detector's file depends on, one fingerprint per cause of change."""
    return {
        "checkpoint": fingerprint(weights_sha256),
        "options": fingerprint(config.kind),
        "tools": fingerprint({name: tool_versions()[name] for name in ("onnx", "onnxruntime")}),
        "exporter": fingerprint(detector.REVISION),
    }


def expert_fingerprint(config: ExpertConfig, weights_sha256: str | None) -> str:
    """Returns `runtime.manifest.Expert.fingerprint`: 64 hex digits.

    They stand for the weights, the architecture and every option of the expert, as its geometry,
    that differs from its default; not for its name, where its weights are from, or their licence.
    """
    described = without_defaults(config)
    for key in _NO_MATTER:
        described.pop(key, None)
    return long_fingerprint({"weights": weights_sha256, "expert": described})


def graph_revisions(config: ExpertConfig, precision: str) -> list[int]:
    """Returns the revisions of all producers that a graph depends on."""
    record = ARCHITECTURES[config.architecture]
    backend = record.variants[precision]
    revisions = [record.revision, conversion.REVISION, verification.REVISION, parity.REVISION]
    if precision != "fp32":
        revisions.append(_VARIANTS[backend, precision].REVISION)
    if backend == "openvino":
        revisions.append(quantization.REVISION)
    if config.views:
        revisions.append(views.REVISION)
    return revisions


def engine_key(source: Artifact, profile: BatchProfile, engines: EngineOptions) -> dict[str, str]:
    """Returns what an engine depends on, one fingerprint per cause of change."""
    revisions = [tensorrt.REVISION, parity.REVISION, verification.REVISION]
    return origin_key(source, profile) | {
        "TensorRT": fingerprint(engines.target.version),
        "GPU": fingerprint(engines.target.compute_capability),
        "flags": fingerprint(dict(engines.flags)),
        "exporter": fingerprint(revisions),
    }


def origin_key(source: Artifact, profile: BatchProfile) -> dict[str, str]:
    """Returns the part of an engine's key without which it belongs to another expert.

    It covers the ONNX file with its external data, and the batch sizes.
    """
    return {
        "ONNX": fingerprint([file.sha256 for file in source.files]),
        "batches": fingerprint([profile.smallest, profile.best, profile.largest]),
    }


def changed_since(built: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Returns the causes for which a built file has to be built again."""
    return [cause for cause, value in wanted.items() if built.get(cause) != value]
