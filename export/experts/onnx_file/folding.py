"""Arithmetic on constants in given graphs, done once: exporters write shapes as such arithmetic."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.experts.onnx_file.nodes import depend_on
from export.graph.sessions import open_session

_OPERATORS = """
    Add Cast Ceil Concat ConstantOfShape Div Equal Expand Floor Gather Identity Mod Mul Neg Range
    Reshape Shape Size Slice Squeeze Sub Tile Transpose Unsqueeze Where
""".split()  # noqa: SIM905 - names of operators read better as text
"""Operators on shapes and on small constants. Others, such as those of quantized weights, stay."""
_LARGEST_PROTOBUF = (1 << 31) - 1


def fold_constants(model: onnx.ModelProto, value: onnx.ValueInfoProto) -> None:
    """Replaces arithmetic on constants by its results, in place.

    Args:
        model: in its normal form.
        value: its input, with the shape that it is run on; shapes of what depends on it stay.
    """
    graph = model.graph
    varying = depend_on(graph, value.name, shapes=True)
    known = {tensor.name for tensor in graph.initializer}
    folded = []
    for node in graph.node:
        constant = node.op_type == "Constant"
        if constant or (node.op_type in _OPERATORS and known.issuperset(filter(None, node.input))):
            known.update(node.output)
            folded += [] if constant else [node]
    names = [name for node in folded for name in node.output if name not in varying]
    if not names or model.ByteSize() > _LARGEST_PROTOBUF:
        return
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:], copy.graph.input[:]
    copy.graph.input.append(value)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    image = value.type.tensor_type
    shape = [axis.dim_value for axis in image.shape.dim]
    black = np.zeros(shape, helper.tensor_dtype_to_np_dtype(image.elem_type))
    session = open_session(copy.SerializeToString(), frugal=True)
    results = session.run(names, {value.name: black})
    kept = [node for node in graph.node if node not in folded]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(result), name)
        for name, result in zip(names, results, strict=True)
    )
