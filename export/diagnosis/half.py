"""FP16 as a GPU computes it, on the CPU: every half-precision tensor is rounded to half precision.

ONNX Runtime's CPU provider computes FP16 in FP32 from one node to the next, which hides overflow.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

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


def kept_wide(nodes: Sequence[onnx.NodeProto], kept: Collection[str]) -> list[onnx.NodeProto]:
    """Returns the nodes of a rounded graph as they would be with some layers in FP32.

    The nodes that compute these layers read each other's results, and what is FP32 already, without
    rounding. Their weights stay as they are.

    Args:
        nodes: of a graph that `round_to_half` has rewritten; unchanged.
        kept: names of the layers.
    """
    made = {name for layer in kept for name in (layer, own_name(layer, "unrounded"))}
    exact = {
        own_name(half, "wide"): node.input[0]
        for node in nodes
        if node.op_type == "Cast"
        for half in node.output
        if half in kept or node.input[0] != own_name(half, "unrounded")
    }
    found = []
    for node in nodes:
        if not made.isdisjoint(node.output):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [exact.get(name, name) for name in node.input]
            node = copy  # noqa: PLW2901 - the same node, reading others
        found.append(node)
    return found


def own_name(name: str, kind: str) -> str:
    """Returns the name of a tensor that a diagnosis adds to a graph beside one of its own."""
    return f"agemoe diagnosis/{kind} of {name}"


def _cast(source: str, target: str, kind: TensorProto.DataType) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], f"to {target}", to=kind)
