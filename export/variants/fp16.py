"""FP32 to FP16 with regions that stay in FP32, and the type of every tensor of a graph.

Every node computes in one of the two types. A tensor has the type of the node that produces it and
is cast once for the nodes of the other type, so that nothing inside an FP32 region passes through
half precision. (onnxruntime's converter casts the output of every blocked node to FP16 and back,
which overflows inside a norm; and ONNX Runtime's CPU provider hides that.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.config.contract import FP32_OPERATORS
from export.errors import GraphError
from export.graph.traversal import tensors_after, tensors_before
from export.graph.weights import has_data_file, save_with_weights, weight_array
from runtime.json_reader import shown
from runtime.names import suggestion

REVISION = 1
"""Bumped whenever the files this module writes change."""
WEIGHT_OPERATORS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
LARGEST_HALF = 65504.0
"""Largest finite half-precision number."""
SMALLEST_HALF = 2.0**-24
"""Smallest positive half-precision number; an epsilon below it would become 0."""
_TYPES = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}


def fp16_from_fp32(
    source: Path,
    target: Path,
    operators: Sequence[str] = FP32_OPERATORS,
    layers: Sequence[str] = (),
) -> None:
    """Writes an FP16 variant of an FP32 graph; inputs and outputs keep their types.

    External weights are converted one at a time.

    In FP32 stay: everything before the first and after the last layer with weights (the
    normalization of pixels and the arithmetic on ages), the operators named, norms over more than
    the last axis, nodes with constants that half precision cannot represent, and nodes enclosed by
    such nodes only.

    Args:
        source: the FP32 graph.
        target: the file to write.
        operators: types of nodes that stay in FP32 everywhere.
        layers: names of tensors whose nodes stay in FP32 too.

    Raises:
        GraphError: the graph has subgraphs, quantized layers or operators that are not ONNX's, or
            lacks one of the layers.
    """
    model = onnx.load(str(source), load_external_data=False)
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or "Quantize" in node.op_type:
            raise GraphError(
                f"{source.name} has no FP16 variant: the types of node {node.name!r} "
                f"({node.domain or 'ai.onnx'}.{node.op_type}) are fixed. Build it without --fp16."
            )
    if any(a.HasField("g") for node in model.graph.node for a in node.attribute):
        raise GraphError(
            f"{source.name} has subgraphs, whose precision is not converted. Build it without "
            f"--fp16."
        )
    floats = {name for name, kind in _tensor_types(model).items() if kind == "fp32"}
    chosen = _nodes_of(model.graph, layers, source.name)
    fp32 = _fp32_nodes(model.graph, floats, source.parent, operators, chosen)
    del model.graph.value_info[:]
    weights = _Conversion(model, floats, source.parent).run(fp32)
    save_with_weights(model, weights, target, external=has_data_file(source))


def tensor_types(path: Path) -> dict[str, str]:
    """Returns `fp32` or `fp16` for every floating-point weight and activation, by name."""
    return _tensor_types(onnx.load(str(path), load_external_data=False))


def fp16_share(path: Path) -> float:
    """Returns the share of a graph's floating-point tensors that are FP16."""
    types = tensor_types(path).values()
    return round(float(np.mean([kind == "fp16" for kind in types])), 4)


def _tensor_types(model: onnx.ModelProto) -> dict[str, str]:
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {tensor.name: tensor.data_type for tensor in inferred.graph.initializer}
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return {name: _TYPES[kind] for name, kind in types.items() if kind in _TYPES}


class _Conversion:
    """Rewrites one graph node by node, in the order of computing."""

    def __init__(self, model: onnx.ModelProto, floats: set[str], folder: Path) -> None:
        self._graph = model.graph
        self._floats = floats
        self._folder = folder
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._outputs = {value.name for value in model.graph.output}
        self._fp16_weights: dict[str, str] = {}  # names of FP16 weights and of their sources
        self._fp16_activations: set[str] = set()
        self._casts: dict[tuple[str, TensorProto.DataType], str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._taken = {name for node in self._graph.node for name in (*node.input, *node.output)}

    def run(self, fp32: set[str]) -> Iterator[tuple[str, NDArray[np.generic]]]:
        """Converts all nodes but those named; returns the weights that the new graph reads."""
        for node in list(self._graph.node):
            kind = TensorProto.FLOAT if node.name in fp32 else TensorProto.FLOAT16
            for position, name in enumerate(node.input):
                if name in self._floats:
                    node.input[position] = self._as(name, kind)
            self._nodes.append(node)
            if kind == TensorProto.FLOAT16:
                self._convert(node)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        names = [name for name in (*self._weights, *self._fp16_weights) if name in used]
        return ((name, self._weight(name)) for name in names)

    def _weight(self, name: str) -> NDArray[np.generic]:
        source = self._fp16_weights.get(name, name)
        array = weight_array(self._weights[source], self._folder)
        return array.astype(np.float16) if name in self._fp16_weights else array

    def _as(self, name: str, kind: TensorProto.DataType) -> str:
        """Returns the name of a tensor in a type; adds a cast or a converted weight if needed."""
        present = TensorProto.FLOAT16 if name in self._fp16_activations else TensorProto.FLOAT
        if present == kind:
            return name
        if (name, kind) not in self._casts:
            cast = self._casts[name, kind] = self._free(f"{name}.{_TYPES[kind]}")
            if name in self._weights:
                self._fp16_weights[cast] = name
            else:
                self._nodes.append(helper.make_node("Cast", [name], [cast], cast, to=kind))
        return self._casts[name, kind]

    def _free(self, name: str) -> str:
        """Returns a name that no tensor of the graph has: this one, or a longer one."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def _convert(self, node: onnx.NodeProto) -> None:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
            if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
                half = numpy_helper.to_array(attribute.t).astype(np.float16)
                attribute.t.CopyFrom(numpy_helper.from_array(half, attribute.t.name))
        for position, name in enumerate(node.output):
            if name not in self._floats:
                continue
            if name in self._outputs:  # keeps its name and its type
                made = node.output[position] = self._free(f"{name}.made")
                self._nodes.append(
                    helper.make_node("Cast", [made], [name], name, to=TensorProto.FLOAT)
                )
            else:
                self._fp16_activations.add(name)


def _fp32_nodes(
    graph: onnx.GraphProto,
    floats: set[str],
    folder: Path,
    operators: Sequence[str],
    chosen: set[str],
) -> set[str]:
    """Returns the names of the nodes that stay in FP32."""
    constants = {t.name for t in graph.initializer if not _fits_half(t, folder)}
    fp32 = (
        chosen
        | _outer_nodes(graph.node)
        | {
            node.name
            for node in graph.node
            if node.op_type in operators
            or _is_wide_norm(node)
            or constants.intersection(node.input)
        }
    )
    return fp32 | _enclosed_nodes(graph.node, fp32, floats)


def _nodes_of(graph: onnx.GraphProto, layers: Sequence[str], name: str) -> set[str]:
    """Returns the names of the nodes that compute some tensors."""
    makers = {tensor: node.name for node in graph.node for tensor in node.output}
    for layer in layers:
        if layer not in makers:
            raise GraphError(
                f"keep_fp32 names {shown(layer)}, which is no layer of {name}."
                f"{suggestion(layer, list(makers))} `diagnose --all` lists them."
            )
    return {makers[layer] for layer in layers}


def _is_wide_norm(node: onnx.NodeProto) -> bool:
    """Returns whether a norm sums over more than the last axis, which overflows in FP16."""
    norm = node.op_type == "LayerNormalization"
    return norm and any(a.name == "axis" and a.i != -1 for a in node.attribute)


def _fits_half(tensor: TensorProto, folder: Path) -> bool:
    """Returns whether half precision can represent a constant.

    Underflow counts in scalars only; in the weights of layers, parity is the judge of it.
    """
    if tensor.data_type != TensorProto.FLOAT:
        return True
    sizes = np.abs(np.asarray(weight_array(tensor, folder), np.float32))
    if not (sizes <= LARGEST_HALF).all():
        return False
    return sizes.size > 1 or bool((sizes == 0).all() or (sizes >= SMALLEST_HALF).all())


def _outer_nodes(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """Returns the names of the nodes before the first and after the last layer with weights."""
    layers = _layers(nodes)
    after, before = tensors_after(nodes, layers), tensors_before(nodes, layers)
    outer = {n.name for n in nodes if not (after & {*n.output} and before & {*n.output})}
    return outer - layers


def _layers(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """Returns the names of the layers with weights."""
    return {node.name for node in nodes if node.op_type in WEIGHT_OPERATORS}


def _enclosed_nodes(nodes: Sequence[onnx.NodeProto], fp32: set[str], floats: set[str]) -> set[str]:
    """Returns the connected regions of nodes without weights whose neighbors all stay in FP32."""
    neighbors = _neighbors(nodes, floats)
    layers = _layers(nodes)
    enclosed: set[str] = set()
    seen = set(fp32)
    for node in nodes:
        region, waiting = set(), [node.name]
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                region.add(name)
                waiting.extend(neighbors[name])
        if not region & layers:
            enclosed |= region
    return enclosed


def _neighbors(nodes: Sequence[onnx.NodeProto], floats: set[str]) -> dict[str, set[str]]:
    """Returns, by node, the nodes that it shares a floating-point activation with."""
    producers = {name: node.name for node in nodes for name in node.output if name in floats}
    neighbors: dict[str, set[str]] = defaultdict(set)
    for node in nodes:
        for name in node.input:
            if name in producers:
                neighbors[node.name].add(producers[name])
                neighbors[producers[name]].add(node.name)
    return neighbors
