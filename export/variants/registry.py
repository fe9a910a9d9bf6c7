"""The forms of an expert beside FP32, each made of its FP32 graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from export.config.contract import Signature
from export.faces.quantization import quantization_faces
from export.graph import checks, weights
from export.variants import bf16, fp16, int8_dynamic, int8_static


def write_variant(kind: str, backend: str, single: Path, path: Path, signature: Signature) -> float:
    """Makes a form of an FP32 graph and checks what can be checked without running it.

    Args:
        kind: its precision, `fp16`, `bf16` or `int8`.
        backend: what it is for, `onnx` or `openvino`.
        single: the FP32 graph.
        path: of the file to write; more may be written beside it, see `variant_files`.
        signature: of the expert.

    Returns:
        Its `reduced_share`, as in the manifest.

    Raises:
        GraphError: there is no such form of this graph.
    """
    return _WRITERS[backend, kind](single, path, signature)


def variant_files(path: Path) -> list[Path]:
    """The files of a form, the graph first."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else weights.model_files(path)


def _write_half(single: Path, path: Path, signature: Signature) -> float:
    fp16.fp16_from_fp32(single, path, signature.fp32_operators)
    checks.check_graph(path, signature)
    return fp16.fp16_share(path)


def _write_dynamic_int8(single: Path, path: Path, signature: Signature) -> float:
    int8_dynamic.int8_from_fp32(single, path)
    checks.check_graph(path, signature, tensorrt=False)
    return fp16.fp16_share(path)


def _write_static_int8(single: Path, path: Path, signature: Signature) -> float:
    faces = quantization_faces(signature.inputs)
    share = int8_static.int8_from_fp32(single, path, faces).share
    checks.check_graph(path, signature, tensorrt=False)
    return share


def _write_bfloat16(single: Path, path: Path, signature: Signature) -> float:
    faces = quantization_faces(signature.inputs)
    return bf16.bf16_from_fp32(single, path, faces).share


_Writer = Callable[[Path, Path, Signature], float]
_WRITERS: Mapping[tuple[str, str], _Writer] = {
    ("onnx", "fp16"): _write_half,
    ("onnx", "int8"): _write_dynamic_int8,
    ("openvino", "int8"): _write_static_int8,
    ("openvino", "bf16"): _write_bfloat16,
}
