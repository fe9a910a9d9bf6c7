"""What TensorRT's ONNX parser refuses, told before a GPU is at hand.

Source: onnx/onnx-tensorrt, docs/operators.md, release 10.1, and the parser of TensorRT 11.4 for
the operators it has learned since. A static check names the usual culprits; the parser itself has
the last word, when engines are built.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

_REFUSED = frozenset(
    (
        "AffineGrid",
        "Bernoulli",
        "BitShift",
        "BitwiseAnd",
        "BitwiseNot",
        "BitwiseOr",
        "BitwiseXor",
        "BlackmanWindow",
        "Col2Im",
        "CenterCropPad",
        "Compress",
        "ConcatFromSequence",
        "ConvInteger",
        "DFT",
        "Det",
        "DynamicQuantizeLinear",
        "HammingWindow",
        "HannWindow",
        "ImageDecoder",
        "MatMulInteger",
        "MaxRoiPool",
        "MaxUnpool",
        "MelWeightMatrix",
        "Multinomial",
        "NegativeLogLikelihoodLoss",
        "Optional",
        "OptionalGetElement",
        "OptionalHasElement",
        "QLinearConv",
        "QLinearMatMul",
        "RegexFullMatch",
        "STFT",
        "SequenceAt",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceLength",
        "SequenceMap",
        "SoftmaxCrossEntropyLoss",
        "SplitToSequence",
        "StringConcat",
        "StringNormalizer",
        "StringSplit",
        "TfIdfVectorizer",
        "Unique",
    )
)
_AXES_INPUT = {
    **dict.fromkeys(("Squeeze", "Unsqueeze", "CumSum"), 1),
    **dict.fromkeys(
        ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"), 1
    ),
    "Slice": 3,
    "Pad": 3,
}
"""Operators whose axes have to be constant, and which input those are; reductions by suffix."""


def tensorrt_problems(model: onnx.ModelProto) -> list[str]:
    """One line per node that TensorRT cannot take; empty when it should take them all.

    Args:
        model: with or without its external data.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {
        output for n in model.graph.node if n.op_type == "Constant" for output in n.output
    }
    problems = [
        f"TensorRT cannot take node {node.name!r}: {reason}"
        for node in model.graph.node
        for reason in _reasons(node, constants)
    ]
    return [*problems, *_uint8_problems(model)]


def _reasons(node: onnx.NodeProto, constants: set[str]) -> Iterator[str]:
    if node.op_type in _REFUSED or node.domain not in ("", "ai.onnx"):
        yield f"operator {node.domain or 'ai.onnx'}.{node.op_type} is not supported"
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Resize":
        mode = attributes["mode"].s.decode() if "mode" in attributes else "nearest"
        if mode == "cubic" or ("antialias" in attributes and attributes["antialias"].i):
            yield "Resize is supported neither cubic nor antialiased"
    if node.op_type == "MaxPool" and len([name for name in node.output if name]) > 1:
        yield "MaxPool's output of indices is not supported"
    position = _AXES_INPUT.get(node.op_type.removeprefix("Reduce"))
    if position is not None and len(node.input) > position:
        axes = node.input[position]
        if axes and axes not in constants:
            yield f"the axes of {node.op_type} have to be constant"


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
                    f"TensorRT takes the UINT8 input {name!r} only into a Cast, "
                    f"node {node.name!r} is {node.op_type}"
                )
