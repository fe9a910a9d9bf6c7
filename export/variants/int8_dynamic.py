"""FP32 to dynamic INT8 for ONNX Runtime on CPUs: weights once, activations at run time.

Every product with a constant matrix is rewritten as ONNX Runtime's own dynamic quantization does,
and fused when the file is loaded: DynamicQuantizeLinear, MatMulInteger and two multiplications.
Weights are quantized one at a time, so that memory does not grow with the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.graph.weights import has_data_file, save_with_weights, weight_array

REVISION = 1
"""Bumped whenever the files this module writes change."""
_LARGEST = 63
"""Weights take 7 of the 8 bits: x86 CPUs without VNNI add two products in 16 bits and saturate."""


def int8_from_fp32(source: Path, target: Path) -> None:
    """Writes a variant of an FP32 graph whose MatMul weights are INT8, with a scale per column."""
    model = onnx.load(str(source), load_external_data=False)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    quantized: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "MatMul" and _is_matrix(weights.get(node.input[1])):
            nodes += _integer_product(node, quantized)
        else:
            nodes.append(node)
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    stored = _stored(weights, used, source.parent)
    save_with_weights(model, stored, target, external=has_data_file(source))


def _stored(
    weights: Mapping[str, TensorProto], used: set[str], folder: Path
) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Yields the weights that the new graph reads, as they are or quantized."""
    for name, tensor in weights.items():
        array = weight_array(tensor, folder)
        if name in used:
            yield name, array
        if f"{name}.int8" in used:
            integers, scales = _quantized(np.asarray(array, np.float32))
            yield f"{name}.int8", integers
            yield f"{name}.scales", scales


def _is_matrix(tensor: TensorProto | None) -> bool:
    return tensor is not None and len(tensor.dims) == 2 and tensor.data_type == TensorProto.FLOAT


def _integer_product(node: onnx.NodeProto, quantized: set[str]) -> list[onnx.NodeProto]:
    """Returns the replacement of a product; products of the same input share its quantization."""
    left, right = node.input
    out = node.output[0]
    rounded = [f"{left}.uint8", f"{left}.scale", f"{left}.zero"]
    nodes = []
    if left not in quantized:
        quantized.add(left)
        nodes.append(helper.make_node("DynamicQuantizeLinear", [left], rounded, f"{left}.rounded"))
    factors = [rounded[0], f"{right}.int8", rounded[2]]
    sums, real, scales = f"{out}.sums", f"{out}.real", f"{out}.scales"
    return [
        *nodes,
        helper.make_node("MatMulInteger", factors, [sums], f"{out}.product"),
        helper.make_node("Cast", [sums], [real], f"{out}.cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [rounded[1], f"{right}.scales"], [scales], f"{out}.scaling"),
        helper.make_node("Mul", [real, scales], [out], f"{out}.scaled"),
    ]


def _quantized(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Returns integers (K, N) and the scale of each column, (N,)."""
    largest = np.abs(weight).max(axis=0)
    scales = np.where(largest > 0, largest / _LARGEST, 1.0).astype(np.float32)
    return np.rint(weight / scales).astype(np.int8), scales
