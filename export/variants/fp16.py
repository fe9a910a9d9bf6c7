"""FP32 to FP16 with FP32 islands, and proof of what ended up in which type.

Every node computes in one of the two types. A tensor has the type of the node that makes it, and
is cast once where a node of the other type wants it; so nothing inside an island ever passes
through half precision. (onnxruntime's converter casts the output of every blocked node to FP16 and
back, which overflows inside a norm; and ONNX Runtime's CPU provider hides that.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.config.contract import FP32_OPERATORS
from export.errors import GraphError
from export.graph.weights import has_data_file, save_with_weights, weight_array

REVISION = 1
"""Bumped whenever the files this module writes change."""
WEIGHT_OPERATORS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
LARGEST_HALF = 65504.0
"""Largest finite half-precision number."""
SMALLEST_HALF = 2.0**-24
"""Smallest positive half-precision number; an epsilon below it would become 0."""
_TYPES = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}


def fp16_from_fp32(source: Path, target: Path, operators: Sequence[str] = FP32_OPERATORS) -> None:
    """Writes an FP16 form of an FP32 graph; inputs and outputs keep their types.

    Weights that lie beside the graph are converted one by one.

    In FP32 stay: everything before the first and after the last layer with weights (the
    normalization of pixels and the arithmetic of ages), the operators named, norms over more than
    the last axis, what has constants that half precision cannot hold, and what lies between such
    nodes only.

    Args:
        source: the FP32 graph.
        target: the file to write.
        operators: that stay in FP32 wherever they stand.

    Raises:
        GraphError: the graph has subgraphs or floating-point inputs.
    """
    model = onnx.load(str(source), load_external_data=False)
    if any(a.HasField("g") for node in model.graph.node for a in node.attribute):
        raise GraphError(f"{source.name} has subgraphs; their precision is not converted.")
    floats = {name for name, kind in _tensor_types(model).items() if kind == "fp32"}
    unholdable = {t.name for t in model.graph.initializer if not _holdable(t, source.parent)}
    single = _single_nodes(model.graph, floats, unholdable, operators)
    del model.graph.value_info[:]
    weights = _Halving(model, floats, source.parent).run(single)
    save_with_weights(model, weights, target, external=has_data_file(source))


def tensor_types(path: Path) -> dict[str, str]:
    """`fp32` or `fp16` for every floating-point weight and activation of a graph, by name."""
    return _tensor_types(onnx.load(str(path), load_external_data=False))


def fp16_share(path: Path) -> float:
    """Share of a graph's floating-point weights and activations that are half precision."""
    types = tensor_types(path).values()
    return round(float(np.mean([kind == "fp16" for kind in types])), 4)


def _tensor_types(model: onnx.ModelProto) -> dict[str, str]:
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {tensor.name: tensor.data_type for tensor in inferred.graph.initializer}
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return {name: _TYPES[kind] for name, kind in types.items() if kind in _TYPES}


class _Halving:
    """Rewrites one graph, node by node, in the order of computing."""

    def __init__(self, model: onnx.ModelProto, floats: set[str], folder: Path) -> None:
        self._graph = model.graph
        self._floats = floats
        self._folder = folder
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._outputs = {value.name for value in model.graph.output}
        self._halved: dict[str, str] = {}  # names of half-precision weights, and of their originals
        self._halves: set[str] = set()  # activations made in half precision
        self._casts: dict[tuple[str, TensorProto.DataType], str] = {}
        self._nodes: list[onnx.NodeProto] = []

    def run(self, single: set[str]) -> Iterator[tuple[str, NDArray[np.generic]]]:
        """Converts all nodes but those named; returns the weights that the graph now reads."""
        for node in list(self._graph.node):
            kind = TensorProto.FLOAT if node.name in single else TensorProto.FLOAT16
            for place, name in enumerate(node.input):
                if name in self._floats:
                    node.input[place] = self._as(name, kind)
            self._nodes.append(node)
            if kind == TensorProto.FLOAT16:
                self._make_half(node)
        used = {name for node in self._nodes for name in node.input}
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        names = [name for name in (*self._weights, *self._halved) if name in used]
        return ((name, self._weight(name)) for name in names)

    def _weight(self, name: str) -> NDArray[np.generic]:
        array = weight_array(self._weights[self._halved.get(name, name)], self._folder)
        return array.astype(np.float16) if name in self._halved else array

    def _as(self, name: str, kind: TensorProto.DataType) -> str:
        """Name of a tensor in a type; a cast or a converted weight is made where there is none."""
        has = TensorProto.FLOAT16 if name in self._halves else TensorProto.FLOAT
        if has == kind:
            return name
        cast = f"{name}.{_TYPES[kind]}"
        if (name, kind) not in self._casts:
            self._casts[name, kind] = cast
            if name in self._weights:
                self._halved[cast] = name
            else:
                self._nodes.append(helper.make_node("Cast", [name], [cast], cast, to=kind))
        return cast

    def _make_half(self, node: onnx.NodeProto) -> None:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
            if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
                half = numpy_helper.to_array(attribute.t).astype(np.float16)
                attribute.t.CopyFrom(numpy_helper.from_array(half, attribute.t.name))
        for place, name in enumerate(node.output):
            if name not in self._floats:
                continue
            if name in self._outputs:  # keeps its name and its type
                node.output[place] = f"{name}.made"
                self._nodes.append(
                    helper.make_node("Cast", [f"{name}.made"], [name], name, to=TensorProto.FLOAT)
                )
            else:
                self._halves.add(name)


def _single_nodes(
    graph: onnx.GraphProto, floats: set[str], unholdable: set[str], operators: Sequence[str]
) -> set[str]:
    """Names of the nodes that stay in FP32."""
    single = _outer_nodes(graph.node) | {
        node.name
        for node in graph.node
        if node.op_type in operators or _is_wide_norm(node) or unholdable.intersection(node.input)
    }
    return single | _enclosed_nodes(graph.node, single, floats)


def _is_wide_norm(node: onnx.NodeProto) -> bool:
    """Whether a norm sums over more than the last axis, where half precision would overflow."""
    norm = node.op_type == "LayerNormalization"
    return norm and any(a.name == "axis" and a.i != -1 for a in node.attribute)


def _holdable(tensor: TensorProto, folder: Path) -> bool:
    """Whether half precision can hold a constant; layers' weights are judged by parity instead."""
    if tensor.data_type != TensorProto.FLOAT:
        return True
    sizes = np.abs(np.asarray(weight_array(tensor, folder), np.float32))
    if not (sizes <= LARGEST_HALF).all():
        return False
    return sizes.size > 1 or bool((sizes == 0).all() or (sizes >= SMALLEST_HALF).all())


def _outer_nodes(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """Nodes that do not lie between two layers with weights, nor are one."""
    after = _reached((node.name, node.op_type, node.input, node.output) for node in nodes)
    before = _reached((n.name, n.op_type, n.output, n.input) for n in reversed(nodes))
    return {node.name for node in nodes} - (after & before)


def _reached(nodes: Iterable[tuple[str, str, Iterable[str], Iterable[str]]]) -> set[str]:
    """Names of the layers with weights and of all that follow them, in the order given."""
    tensors: set[str] = set()
    names = set()
    for name, operator, sources, targets in nodes:
        if operator in WEIGHT_OPERATORS or tensors.intersection(sources):
            names.add(name)
            tensors.update(targets)
    return names


def _enclosed_nodes(
    nodes: Sequence[onnx.NodeProto], single: set[str], floats: set[str]
) -> set[str]:
    """Connected stretches of nodes without weights whose neighbors all stay in FP32."""
    neighbors = _neighbors(nodes, floats)
    heavy = {node.name for node in nodes if node.op_type in WEIGHT_OPERATORS}
    enclosed: set[str] = set()
    seen = set(single)
    for node in nodes:
        stretch, waiting = set(), [node.name]
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                stretch.add(name)
                waiting.extend(neighbors[name])
        if not stretch & heavy:
            enclosed |= stretch
    return enclosed


def _neighbors(nodes: Sequence[onnx.NodeProto], floats: set[str]) -> dict[str, set[str]]:
    """By node: the nodes it shares a floating-point activation with."""
    makers = {name: node.name for node in nodes for name in node.output if name in floats}
    neighbors: dict[str, set[str]] = defaultdict(set)
    for node in nodes:
        for name in node.input:
            if name in makers:
                neighbors[node.name].add(makers[name])
                neighbors[makers[name]].add(node.name)
    return neighbors
