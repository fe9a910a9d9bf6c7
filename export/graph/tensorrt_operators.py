"""A static check for nodes that TensorRT's ONNX parser rejects, without a GPU.

Source: onnx/onnx-tensorrt, docs/operators.md, release 10.1, and the parser of TensorRT 11.4 for
operators added since. The check covers the common cases; the parser itself decides when engines
are built.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

_UNSUPPORTED = """
    AffineGrid Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow
    Col2Im CenterCropPad Compress ConcatFromSequence ConvInteger DFT Det DynamicQuantizeLinear
    HammingWindow HannWindow ImageDecoder MatMulInteger MaxRoiPool MaxUnpool MelWeightMatrix
    Multinomial NegativeLogLikelihoodLoss Optional OptionalGetElement OptionalHasElement
    QLinearConv QLinearMatMul RegexFullMatch STFT SequenceAt SequenceConstruct SequenceEmpty
    SequenceErase SequenceInsert SequenceLength SequenceMap SoftmaxCrossEntropyLoss
    SplitToSequence StringConcat StringNormalizer StringSplit TfIdfVectorizer Unique
"""
_AXES_INPUT = {
    **dict.fromkeys(("Squeeze", "Unsqueeze", "CumSum"), 1),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"), 1),
    **dict.fromkeys(("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"), 1),
    "Slice": 3,
    "Pad": 3,
}
"""Operators whose axes must be constant, with the index of that input."""


def tensorrt_problems(model: onnx.ModelProto) -> list[str]:
    """Returns one line per node that TensorRT does not support.

    Args:
        model: with or without its external data.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {
        output for n in model.graph.node if n.op_type == "Constant" for output in n.output
    }
    problems = [
        f"TensorRT does not support node {node.name!r}: {reason}"
        for node in model.graph.node
        for reason in _reasons(node, constants)
    ]
    return [*problems, *_uint8_problems(model)]


def _reasons(node: onnx.NodeProto, constants: set[str]) -> Iterator[str]:
    if node.op_type in _UNSUPPORTED.split() or node.domain not in ("", "ai.onnx"):
        yield f"operator {node.domain or 'ai.onnx'}.{node.op_type} is not supported"
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Resize":
        mode = attributes["mode"].s.decode() if "mode" in attributes else "nearest"
        if mode == "cubic" or ("antialias" in attributes and attributes["antialias"].i):
            yield "cubic and antialiased Resize are not supported"
    if node.op_type == "Cast" and attributes["to"].i == onnx.TensorProto.UINT8:
        yield "it makes UINT8, and TensorRT has UINT8 only as a network's input"
    if node.op_type == "MaxPool" and len([name for name in node.output if name]) > 1:
        yield "the indices output of MaxPool is not supported"
    position = _AXES_INPUT.get(node.op_type)
    if position is not None and len(node.input) > position:
        axes = node.input[position]
        if axes and axes not in constants:
            yield f"the axes of {node.op_type} must be constant"


def _uint8_problems(model: onnx.ModelProto) -> Iterator[str]:
    uint8 = {
        value.name
        for value in model.graph.input
        if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    }
    for node in model.graph.node:
        for name in uint8.intersection(node.input):
            if node.op_type != "Cast":
                yield (
                    f"TensorRT supports the UINT8 input {name!r} only in a Cast, "
                    f"node {node.name!r} is {node.op_type}"
                )
