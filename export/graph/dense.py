"""Convolutions over a whole map as dense layers, which they are: VGG16's first ones in timm.

ONNX Runtime copies the weights of convolutions into another order when it opens a graph, and those
of VGG16's first dense layer are three quarters of the network; as a `Gemm` they are used in place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.graph.shapes import known_shapes
from export.graph.traversal import names_read


def dense_from_convolutions(model: onnx.ModelProto) -> None:
    """Replaces every convolution whose kernel is as large as its map, in place.

    Args:
        model: with or without its external data, which stay as they are.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    reads = Counter(name for node in graph.node for name in names_read(node))
    shapes = known_shapes(model)
    nodes: list[onnx.NodeProto] = []
    changed = set()
    for node in graph.node:
        weight = weights.get(node.input[1]) if node.op_type == "Conv" else None
        if weight is None or reads[weight.name] > 1 or not _is_dense(node, weight.dims, shapes):
            nodes.append(node)
            continue
        outputs, inputs = weight.dims[0], int(np.prod(weight.dims[1:]))
        del weight.dims[:]
        weight.dims.extend([outputs, inputs])
        changed.add(weight.name)
        (output,) = node.output
        flat, dense = f"{output}.flat", f"{output}.dense"
        nodes += [
            _reshape(graph, node.input[0], flat, (-1, inputs)),
            helper.make_node("Gemm", [flat, *node.input[1:]], [dense], node.name, transB=1),
            _reshape(graph, dense, output, (-1, outputs, 1, 1)),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    kept = [value for value in graph.value_info if value.name not in changed]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _reshape(
    graph: onnx.GraphProto, source: str, target: str, sizes: Sequence[int]
) -> onnx.NodeProto:
    """Returns a Reshape to constant sizes; of a Flatten, TensorRT computes them in INT64 layers."""
    shape = f"{target}.shape"
    graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), shape))
    return helper.make_node("Reshape", [source, shape], [target], f"{target}.reshape")


def _is_dense(
    node: onnx.NodeProto, kernel: Sequence[int], shapes: Mapping[str, Sequence[int]]
) -> bool:
    """Returns whether each output of a convolution depends on its whole input."""
    options = {
        attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute
    }
    padded = options.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"") or any(
        options.get("pads", ())
    )
    whole = list(shapes.get(node.input[0], ()))[1:] == list(kernel[1:])
    return whole and not padded and options.get("group", 1) == 1
