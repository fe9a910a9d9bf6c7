"""What a built file depends on, so that only what changed is built again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from export.build.options import BuildOptions, ExpertConfig, backend_of
from export.build.tensorrt_target import EngineOptions
from runtime.manifest import Artifact, BatchProfile

TOOLS = ("numpy", "onnx", "onnxruntime", "onnxscript", "openvino", "timm", "tokenizers", "torch")
"""Packages whose versions may change what is built."""
_HERE = Path(__file__).resolve().parent
_SOURCES = (
    "experts/*.py",
    "onnx_*.py",
    "parity.py",
    "settings.py",
    "verification.py",
    "../runtime/geometry.py",
)
"""Of the exporter, what every graph depends on."""
_ON_FACES = ("quantization_faces.py", "demo/*.py")
_FORM_SOURCES = {
    "fp32": (),
    "fp16": ("precision.py",),
    "bf16": ("bfloat16.py", *_ON_FACES),
    "int8": ("quantization.py", "static_quantization.py", *_ON_FACES),
}
"""What else, by precision."""
_ENGINE_SOURCES = ("trt_engine.py", "parity.py", "verification.py")
"""Of the exporter, what an engine depends on beside its ONNX file."""


@cache
def tool_versions() -> Mapping[str, str]:
    """Installed versions of the tools, by package; absent ones are left out."""
    found = {}
    for package in TOOLS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def build_key(
    config: ExpertConfig, options: BuildOptions, precision: str, weights_sha256: str | None
) -> dict[str, str]:
    """What a graph depends on, one fingerprint per cause of change.

    Args:
        config: the expert.
        options: of the build.
        precision: one of `runtime.manifest.PRECISIONS`.
        weights_sha256: of the checkpoint; None for random weights.

    Returns:
        By cause, in words a person understands: 16 hex digits each.
    """
    tools = tool_versions()
    unused = None if backend_of(config, precision) == "openvino" else "openvino"
    described = {key: value for key, value in asdict(config).items() if key != "checkpoint"}
    return {
        "checkpoint": fingerprint(weights_sha256),
        "options": fingerprint([described, options.weights, precision, options.max_batch]),
        "tools": fingerprint({name: tools[name] for name in tools if name != unused}),
        "exporter": sources_fingerprint(*_SOURCES, *_FORM_SOURCES[precision]),
    }


def engine_key(source: Artifact, profile: BatchProfile, engines: EngineOptions) -> dict[str, str]:
    """What an engine depends on, one fingerprint per cause of change.

    Args:
        source: the ONNX file it is built from.
        profile: batch sizes.
        engines: how it is built.
    """
    return origin_key(source, profile) | {
        "TensorRT": fingerprint(engines.target.version),
        "GPU": fingerprint(engines.target.compute_capability),
        "flags": fingerprint(dict(engines.flags)),
        "exporter": sources_fingerprint(*_ENGINE_SOURCES),
    }


def origin_key(source: Artifact, profile: BatchProfile) -> dict[str, str]:
    """The part of an engine's key without which it would be another expert's engine.

    Args:
        source: the ONNX file it is built from; external data counts too.
        profile: batch sizes.
    """
    return {
        "ONNX": fingerprint([file.sha256 for file in source.files]),
        "batches": fingerprint([profile.smallest, profile.best, profile.largest]),
    }


def changed_since(built: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """The causes for which something that was built has to be built again."""
    return [cause for cause, value in wanted.items() if built.get(cause) != value]


def fingerprint(value: object) -> str:
    """16 hex digits of anything that can be written as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@cache
def sources_fingerprint(*patterns: str) -> str:
    """16 hex digits of the exporter's own source files that match the patterns."""
    paths = sorted(path for pattern in patterns for path in _HERE.glob(pattern))
    return fingerprint([path.read_text(encoding="utf-8") for path in paths])
