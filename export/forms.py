"""The forms of an expert beside FP32, each made of its FP32 graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from export import bfloat16, onnx_graph, precision, quantisation, static_quantisation
from export.experts.contract import Signature
from export.quantisation_faces import quantisation_faces


def write_form(kind: str, backend: str, single: Path, path: Path, signature: Signature) -> float:
    """Makes a form of an FP32 graph and checks what can be checked without running it.

    Args:
        kind: its precision, `fp16`, `bf16` or `int8`.
        backend: what it is for, `onnx` or `openvino`.
        single: the FP32 graph.
        path: of the file to write; more may be written beside it, see `form_files`.
        signature: of the expert.

    Returns:
        Its `reduced_share`, as in the manifest.

    Raises:
        GraphError: there is no such form of this graph.
    """
    return _WRITERS[backend, kind](single, path, signature)


def form_files(path: Path) -> list[Path]:
    """The files of a form, the graph first."""
    return (
        [path, path.with_suffix(".bin")] if path.suffix == ".xml" else onnx_graph.model_files(path)
    )


def _write_half(single: Path, path: Path, signature: Signature) -> float:
    precision.half_from_single(single, path, signature.fp32_operators)
    onnx_graph.check_graph(path, signature)
    return precision.half_share(path)


def _write_dynamic_int8(single: Path, path: Path, signature: Signature) -> float:
    quantisation.int8_from_single(single, path)
    onnx_graph.check_graph(path, signature, tensorrt=False)
    return precision.half_share(path)


def _write_static_int8(single: Path, path: Path, signature: Signature) -> float:
    faces = quantisation_faces(signature.inputs)
    share = static_quantisation.int8_from_single(single, path, faces).share
    onnx_graph.check_graph(path, signature, tensorrt=False)
    return share


def _write_bfloat16(single: Path, path: Path, signature: Signature) -> float:
    faces = quantisation_faces(signature.inputs)
    return bfloat16.bf16_from_single(single, path, faces).share


_Writer = Callable[[Path, Path, Signature], float]
_WRITERS: Mapping[tuple[str, str], _Writer] = {
    ("onnx", "fp16"): _write_half,
    ("onnx", "int8"): _write_dynamic_int8,
    ("openvino", "int8"): _write_static_int8,
    ("openvino", "bf16"): _write_bfloat16,
}
