"""Removal of shape arithmetic: only the batch varies, so that -1 in a constant shape suffices.

The exporter computes the target of every reshape from the input's shape. In TensorRT such
arithmetic becomes separate layers whose input is uint8, which only a Cast may read.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from export.graph.traversal import names_read


def fix_reshapes(model: onnx.ModelProto) -> None:
    """Gives every Reshape a constant target, in place, and removes the nodes that computed it.

    A Reshape is left unchanged if shape inference leaves more than its batch unknown.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    shapes = known_shapes(model)
    for node in model.graph.node:
        if node.op_type != "Reshape" or node.input[1] in constants:
            continue
        target = shapes.get(node.output[0])
        if target is not None:
            name = f"{node.output[0]}.shape"
            value = numpy_helper.from_array(np.array(target, np.int64), name)
            model.graph.initializer.append(value)
            node.input[1] = name
    remove_unused(model)


def remove_unused(model: onnx.ModelProto) -> None:
    """Removes, in place, the nodes and weights that no output depends on."""
    needed = {value.name for value in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(names_read(node))
            kept.append(node)
    weights = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(reversed(kept))
    model.graph.initializer.extend(weights)


def known_shapes(model: onnx.ModelProto) -> Mapping[str, list[int]]:
    """Returns the shapes in which at most one dimension is unknown, as -1, by tensor."""
    known = {}
    for value in (*model.graph.value_info, *model.graph.output):
        axes = value.type.tensor_type.shape.dim
        shape = [axis.dim_value if axis.HasField("dim_value") else -1 for axis in axes]
        if shape.count(-1) <= 1:
            known[value.name] = shape
    return known
