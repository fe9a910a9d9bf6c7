"""Names, nodes and constants of ONNX graphs that are given, not written by this project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.graph.traversal import all_graphs, names_read

OWN = "agemoe/"
"""Prefix of the names of everything that is added to a given graph."""
TAKEN = ("face", "age_years", "age_probs")
"""Names of the inputs and outputs around it."""


class Nodes:
    """Nodes and constants to be added to a graph."""

    def __init__(self, opset: int) -> None:
        """Starts without any; `opset` is the graph's."""
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, label: str, value: NDArray[Any]) -> str:
        """Adds a constant; returns its name."""
        name = OWN + label
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def add(
        self,
        operator: str,
        inputs: Sequence[str],
        label: str,
        output: str | None = None,
        **attributes: Any,  # noqa: ANN401 - of any type
    ) -> str:
        """Adds a node with one output; returns the output's name."""
        output = output or f"{OWN}{label}"
        node = helper.make_node(operator, list(inputs), [output], OWN + label, **attributes)
        self.nodes.append(node)
        return output


def rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Renames tensors, in place, in a graph and in the graphs within it."""
    for part in all_graphs(graph):
        for node in part.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        for tensor in (*part.initializer, *part.input, *part.output, *part.value_info):
            tensor.name = names.get(tensor.name, tensor.name)


def depend_on(graph: onnx.GraphProto, name: str, *, shapes: bool) -> set[str]:
    """Returns a tensor and all that depend on it; with `shapes` also on its shape alone."""
    reached = {name}
    for node in graph.node:
        if (shapes or node.op_type not in ("Shape", "Size")) and reached & names_read(node):
            reached.update(node.output)
    return reached


def constants_of(graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    """Returns the constants of integers and the small ones of other types, by name."""
    tensors = [*graph.initializer]
    found: dict[str, NDArray[Any]] = {}
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            for attribute in node.attribute:
                if attribute.name == "value":
                    tensor = TensorProto()
                    tensor.CopyFrom(attribute.t)
                    tensor.name = node.output[0]
                    tensors.append(tensor)
                elif attribute.name in ("value_int", "value_ints"):
                    value = helper.get_attribute_value(attribute)
                    found[node.output[0]] = np.array(value, np.int64)
    for tensor in tensors:
        if tensor.data_type in (TensorProto.INT64, TensorProto.INT32):
            found[tensor.name] = numpy_helper.to_array(tensor)
    return found


def attribute_of(node: onnx.NodeProto, name: str, default: object = None) -> Any:  # noqa: ANN401
    """Returns the value of a node's attribute, or the default where it has none."""
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


def opset_of(model: onnx.ModelProto) -> int:
    """Returns the version of ONNX's own operators that a model uses; 0 where it names none."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
