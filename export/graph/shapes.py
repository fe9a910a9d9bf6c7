"""Takes the arithmetic on shapes out of a graph: only the batch varies, so -1 says it all.

The exporter computes the target of every reshape from the input's shape. In TensorRT such
arithmetic becomes layers of its own, and its inputs are uint8, which it takes only into a Cast.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper


def fix_reshapes(model: onnx.ModelProto) -> None:
    """Gives every Reshape a constant target, in place, and removes what computed it.

    A reshape is left alone where shape inference does not know its target but for the batch.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    shapes = _known_shapes(model)
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
    """Removes nodes and weights, in place, that no output depends on."""
    needed = {value.name for value in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    weights = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(reversed(kept))
    model.graph.initializer.extend(weights)


def _known_shapes(model: onnx.ModelProto) -> Mapping[str, list[int]]:
    """By tensor: its shape with -1 for the batch, where nothing else of it is unknown."""
    known = {}
    for value in (*model.graph.value_info, *model.graph.output):
        axes = value.type.tensor_type.shape.dim
        shape = [axis.dim_value if axis.HasField("dim_value") else -1 for axis in axes]
        if shape.count(-1) <= 1:
            known[value.name] = shape
    return known
