"""Choice of an expert's artifact, and so of its precision, for each kind of backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from runtime.backends import ExpertVariant
from runtime.errors import BackendError
from runtime.manifest import ENGINE_BACKENDS, Expert
from runtime.program import build_command

BACKEND_NAMES = {"tensorrt": "TensorRT", "cuda": "ONNX Runtime on CUDA", "cpu": "the CPU"}
"""By kind of backend: its name in messages."""
_LOADS: Mapping[str, Sequence[str]] = {
    "tensorrt": ENGINE_BACKENDS,
    "cuda": ("onnx",),
    "cpu": ("onnx", "openvino"),
}
"""By kind of backend: `Artifact.backend` of the artifacts that it can load."""
_PREFERENCES: Mapping[str, Sequence[str]] = {
    "tensorrt": ("fp16", "fp32"),
    "cuda": ("fp16", "fp32"),
    "cpu": ("fp32", "fp16"),  # CPUs compute FP16 graphs through FP32, so FP32 is faster
}
_CPU_ONLY = ("bf16", "int8")
"""Precisions for CPUs; not every expert has a variant in them."""


def choose_variant(
    folder: Path, name: str, expert: Expert, kind: str, precision: str
) -> ExpertVariant:
    """Returns an expert of an engines folder with the artifact to run.

    The kind of backend is `tensorrt`, `cuda` or `cpu`. The precision is `auto`, exactly the one
    wanted, or `bf16` or `int8` where it was built and the backend's own preference elsewhere.

    Raises:
        BackendError: there is no artifact of this precision.
    """
    native = {a.precision: a for a in expert.artifacts if a.backend in _LOADS[kind]}
    wanted = _PREFERENCES[kind] if precision == "auto" else (precision,)
    if precision in _CPU_ONLY:
        wanted = (precision, *_PREFERENCES[kind]) if kind == "cpu" else _PREFERENCES[kind]
    for candidate in wanted:
        if candidate in native:
            return ExpertVariant(name, expert, native[candidate], folder)
    built = f"was built in {', '.join(native)}" if native else "has no file"
    rebuild = build_command(folder, only=name, precision=precision)
    raise BackendError(
        f"precision={precision!r} was requested; expert {name!r} {built} for "
        f"{BACKEND_NAMES[kind]}. Rebuild: {rebuild}"
    )
