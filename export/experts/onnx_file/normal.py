"""Given ONNX graphs in one form: no functions, sparse weights, old opsets or taken names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from export.errors import GraphError
from export.experts.onnx_file.nodes import (
    OWN,
    TAKEN,
    opset_of,
    rename,
)
from export.graph.conversion import OPSET
from export.graph.traversal import all_graphs, name_nodes, names_read

_CONVERTED_BELOW = 13
"""Older opsets are converted: later steps expect the operators of this one."""
_OLDEST_IR = 8
"""From 4 on, weights are not among the inputs."""
_LARGEST_DENSE_BYTES = 1 << 31
"""Limit for a sparse weight as an ordinary one."""


def normal_form(path: Path, given: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a copy of a given model in which only the opset still is the file's own.

    Functions are inlined, sparse weights filled, nodes sorted, weights removed from the inputs, and
    nodes named. Tensors keep their names unless they are needed outside.

    Raises:
        GraphError: that is not possible.
    """
    model = onnx.ModelProto()
    model.CopyFrom(given)
    if model.functions:
        model = _inlined(path, model)
    for graph in all_graphs(model.graph):
        _fill_sparse(path, graph)
        _sort(path, graph)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, _OLDEST_IR)
    _keep_used_domains(model)
    taken = {name: f"{name}.given" for name in _tensor_names(model.graph) if _is_taken(name)}
    rename(model.graph, taken)
    for graph in all_graphs(model.graph):
        for node in graph.node:
            node.name += ".given" if _is_taken(node.name) else ""
    name_nodes(model)
    return model


def given_name(name: str) -> str:
    """Returns the name in the normal form of a tensor of the given file."""
    return f"{name}.given" if _is_taken(name) else name


def in_newest_opset(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a model of an old opset converted to the newest, others unchanged.

    Raises:
        GraphError: an operator cannot be converted.
    """
    opset = opset_of(model)
    if opset >= _CONVERTED_BELOW:
        return model
    try:
        converted = onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter's own exceptions have no common base
        raise GraphError(
            f"{path} uses opset {opset}, which cannot be converted to {OPSET}: "
            f"{str(error).strip().splitlines()[-1]}. Export it again with opset {OPSET}."
        ) from error
    name_nodes(converted)
    return converted


def _inlined(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    from onnx.inliner import inline_local_functions

    try:
        return inline_local_functions(model, convert_version=True)
    except Exception as error:  # the inliner's own exceptions have no common base
        raise GraphError(
            f"{path} has functions that cannot be inlined: {error}. Export it without functions."
        ) from error


def _is_taken(name: str) -> bool:
    return name in TAKEN or name.startswith(OWN)


def _tensor_names(graph: onnx.GraphProto) -> set[str]:
    names = set()
    for part in all_graphs(graph):
        names |= {value.name for value in (*part.input, *part.output, *part.initializer)}
        names |= {name for node in part.node for name in node.output}
    return names


def _fill_sparse(path: Path, graph: onnx.GraphProto) -> None:
    """Replaces sparse weights and constants by ordinary ones, in place."""
    for sparse in graph.sparse_initializer:
        graph.initializer.append(_filled(path, sparse, sparse.values.name))
    del graph.sparse_initializer[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
                tensor = _filled(path, attribute.sparse_tensor, node.output[0])
                del node.attribute[:]
                node.attribute.append(onnx.helper.make_attribute("value", tensor))
                break


def _filled(path: Path, sparse: onnx.SparseTensorProto, name: str) -> TensorProto:
    values = numpy_helper.to_array(sparse.values)
    indices = numpy_helper.to_array(sparse.indices)
    size = math.prod(sparse.dims)
    if size * values.itemsize > _LARGEST_DENSE_BYTES:
        raise GraphError(f"{path}: sparse weight {name!r} would take {size * values.itemsize:,} B.")
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    try:
        if indices.ndim == 1:  # places in the flattened weight
            dense.reshape(-1)[indices] = values
        else:  # one row of coordinates per value
            dense[tuple(indices.T)] = values
    except (IndexError, ValueError) as error:
        raise GraphError(f"{path}: sparse weight {name!r} is damaged: {error}.") from error
    return numpy_helper.from_array(dense, name)


def _sort(path: Path, graph: onnx.GraphProto) -> None:
    """Puts nodes in the order of computing, in place; those in order already stay as they are."""
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needs = [{makers[name] for name in names_read(node) if name in makers} for node in graph.node]
    if all(max(before, default=-1) < index for index, before in enumerate(needs)):
        return
    order = _in_order(needs)
    if len(order) < len(needs):
        rest = sorted(set(range(len(needs))) - set(order))
        node = graph.node[rest[0]]
        raise GraphError(
            f"{path}: node {node.name or node.output[0]!r} ({node.op_type}) depends on its own "
            f"output. Export the network again."
        )
    nodes = [graph.node[index] for index in order]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _in_order(needs: Sequence[set[int]]) -> list[int]:
    """Sorts numbers behind all that they need; leaves out those in a cycle."""
    waiting = [len(before) for before in needs]
    readers: list[list[int]] = [[] for _ in needs]
    for index, before in enumerate(needs):
        for maker in before:
            readers[maker].append(index)
    order = [index for index, count in enumerate(waiting) if not count]
    for index in order:
        for reader in readers[index]:
            waiting[reader] -= 1
            if not waiting[reader]:
                order.append(reader)
    return order


def _keep_used_domains(model: onnx.ModelProto) -> None:
    """Removes the domains of operators that no node uses, such as those of functions."""
    used = {node.domain for graph in all_graphs(model.graph) for node in graph.node}
    used |= {"" if domain == "ai.onnx" else domain for domain in used} | {""}
    kept = [o for o in model.opset_import if o.domain in used or o.domain == "ai.onnx"]
    copies = [onnx.helper.make_opsetid(o.domain, o.version) for o in kept]
    del model.opset_import[:]
    model.opset_import.extend(copies)
