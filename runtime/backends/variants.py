"""Which form of an expert each step of the ladder runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runtime.errors import BackendError
from runtime.manifest import ENGINE_BACKENDS, REBUILD, Artifact, Expert

BACKEND_NAMES = {
    "tensorrt": "TensorRT",
    "cuda": "ONNX Runtime on CUDA",
    "cpu": "the CPU",
}
_RUNS: Mapping[str, Sequence[str]] = {
    "tensorrt": ENGINE_BACKENDS,
    "cuda": ("onnx",),
    "cpu": ("onnx", "openvino"),
}
"""By rung: the backends of what it can run."""
_PREFERENCES: Mapping[str, Sequence[str]] = {
    "tensorrt": ("fp16", "fp32"),
    "cuda": ("fp16", "fp32"),
    "cpu": ("fp32", "fp16"),  # CPUs compute FP16 graphs through FP32, so FP32 is faster
}
_FOR_SOME = ("bf16", "int8")
"""Precisions for CPUs, which not every expert has a form in."""


def choose_artifact(name: str, expert: Expert, rung: str, precision: str) -> Artifact:
    """The artifact of an expert to run.

    Args:
        name: of the expert.
        expert: its manifest entry.
        rung: `tensorrt`, `cuda` or `cpu`.
        precision: `auto`, exactly the one wanted, or `bf16` or `int8` where it was built and the
            rung's own preference elsewhere.

    Raises:
        BackendError: there is none of the precision wanted.
    """
    native = {a.precision: a for a in expert.artifacts if a.backend in _RUNS[rung]}
    wanted = _PREFERENCES[rung] if precision == "auto" else (precision,)
    if precision in _FOR_SOME:
        wanted = (precision, *_PREFERENCES[rung]) if rung == "cpu" else _PREFERENCES[rung]
    for candidate in wanted:
        if candidate in native:
            return native[candidate]
    raise BackendError(
        f"precision={precision!r} was requested; expert {name!r} was built in "
        f"{', '.join(native) or 'none'} for {BACKEND_NAMES[rung]}. {REBUILD} --only {name}"
    )
