"""FP16 as a GPU computes it, on the CPU: every half-precision tensor is rounded to half precision.

ONNX Runtime's CPU provider computes FP16 in FP32 from one node to the next, which hides overflow.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import TensorProto, helper

_TYPED_BY_ATTRIBUTE = ("Cast", "CastLike", "Constant", "ConstantOfShape")


def round_to_half(graph: onnx.GraphProto, halves: Collection[str]) -> None:
    """Rewrites a graph so that nodes compute in FP32 and round their results to half precision.

    Sums within a node are exact to FP32, as tensor cores compute them. Weights are widened as they
    are read, one node at a time, so that memory does not grow with the model.

    Args:
        graph: changed in place.
        halves: names of the half-precision tensors; they keep their names, values and type.
    """
    wide: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in list(graph.node):
        if node.op_type in _TYPED_BY_ATTRIBUTE:
            nodes.append(node)
            continue
        for position, name in enumerate(node.input):
            if name in halves:
                if name not in wide:
                    wide[name] = own_name(name, "wide")
                    nodes.append(_cast(name, wide[name], TensorProto.FLOAT))
                node.input[position] = wide[name]
        nodes.append(node)
        for position, name in enumerate(node.output):
            if name in halves:
                node.output[position] = own_name(name, "unrounded")
                nodes.append(_cast(node.output[position], name, TensorProto.FLOAT16))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)


def own_name(name: str, kind: str) -> str:
    """Returns the name of a tensor that a diagnosis adds to a graph beside one of its own."""
    return f"agemoe diagnosis/{kind} of {name}"


def _cast(source: str, target: str, kind: TensorProto.DataType) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], f"to {target}", to=kind)
