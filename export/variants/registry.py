"""The precision variants of an expert beside FP32, each made from its FP32 graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from export.config.contract import Signature
from export.errors import GraphError
from export.faces.quantization import quantization_faces
from export.graph.checks import check_graph
from export.graph.weights import is_large, model_files
from export.variants import bf16, fp16, int8_dynamic, int8_static


def write_variant(
    precision: str,
    backend: str,
    source: Path,
    path: Path,
    signature: Signature,
    *,
    tensorrt: bool = True,
    keep_fp32: Sequence[str] = (),
) -> float:
    """Writes a variant of an FP32 graph and runs the checks that need no inference.

    Args:
        precision: `fp16`, `bf16` or `int8`.
        backend: `onnx` or `openvino`.
        source: the FP32 graph.
        path: of the file to write; more files may be written beside it, see `variant_files`.
        signature: of the expert.
        tensorrt: whether TensorRT must support the operators of an FP16 variant.
        keep_fp32: names of layers that stay in FP32 in an FP16 variant.

    Returns:
        The variant's `reduced_share`, as in the manifest.

    Raises:
        GraphError: the graph has no such variant.
    """
    if backend == "openvino" and is_large(source):
        raise GraphError(
            f"{source.name} has over 1 GiB of weights. Such networks have no {precision} variant; "
            f"build it without --{precision}."
        )
    if (backend, precision) == ("onnx", "fp16"):
        fp16.fp16_from_fp32(source, path, signature.fp32_operators, keep_fp32)
        check_graph(path, signature, tensorrt=tensorrt)
        return fp16.fp16_share(path)
    return _WRITERS[backend, precision](source, path, signature)


def variant_files(path: Path) -> list[Path]:
    """Returns the files of a variant, the graph first."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else model_files(path)


def _write_int8_dynamic(source: Path, path: Path, signature: Signature) -> float:
    int8_dynamic.int8_from_fp32(source, path)
    check_graph(path, signature, tensorrt=False)
    return fp16.fp16_share(path)


def _write_int8_static(source: Path, path: Path, signature: Signature) -> float:
    faces = quantization_faces(signature.inputs)
    share = int8_static.int8_from_fp32(source, path, faces).share
    check_graph(path, signature, tensorrt=False)
    return share


def _write_bf16(source: Path, path: Path, signature: Signature) -> float:
    return bf16.bf16_from_fp32(source, path, quantization_faces(signature.inputs)).share


_WRITERS: Mapping[tuple[str, str], Callable[[Path, Path, Signature], float]] = {
    ("onnx", "int8"): _write_int8_dynamic,
    ("openvino", "int8"): _write_int8_static,
    ("openvino", "bf16"): _write_bf16,
}
