"""Views of a face: the graph also computes the mirrored picture, and averages the two results.

One mechanism for every architecture: the nodes are added to a finished graph. Right after the cast
of each input its mirror image is appended along the batch, so that one pass computes both; at each
output the two halves of the batch are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.config.contract import BuiltExpert, Images, Outputs, Signature
from export.errors import GraphError
from export.graph.shapes import remove_unused
from runtime.manifest import OUTPUT_RANKS

REVISION = 1
"""Bumped whenever the nodes that this module adds change."""
_WIDTH_AXIS = 2
"""Of the inputs, (N, H, W, 3)."""


class MirroredExpert:
    """An expert whose outputs are the means over a face and its mirror image.

    `age_probs`, `gender_probs`, `answer_mass` and the ages of a regression are averaged. Ages in
    whole years are rounded after the mean: the expectation of the averaged `age_probs`. All inputs
    are mirrored, the person's too.
    """

    def __init__(self, expert: BuiltExpert) -> None:
        """Wraps an expert.

        Raises:
            GraphError: it may give no answer, and then there is no mean.
        """
        plain = expert.signature
        if plain.no_answer is not None:
            raise GraphError(f"views: there is no mean of answers where {plain.no_answer}.")
        self._expert = expert
        self.signature = replace(plain, details={**plain.details, "views": ["flip"]})

    def write_onnx(self, path: Path) -> None:
        """Writes the graph of both views."""
        self._expert.write_onnx(path)
        model = onnx.load(str(path), load_external_data=False)
        onnx.save(mirrored(model, self.signature), path)

    def reference(self, images: Images) -> Outputs:
        """Runs the reference model on each view by itself, and averages with NumPy."""
        flipped = {name: np.ascontiguousarray(views[:, :, ::-1]) for name, views in images.items()}
        views = [self._expert.reference(pictures) for pictures in (images, flipped)]
        means = {name: (views[0][name] + views[1][name]) / np.float32(2.0) for name in views[0]}
        if self.signature.whole_years:
            grid = np.array(self.signature.age_grid, np.float32)
            means["age_years"] = np.rint(means["age_probs"] @ grid)
        return means


def mirrored(model: onnx.ModelProto, signature: Signature) -> onnx.ModelProto:
    """Returns a graph that averages over each face and its mirror image.

    Args:
        model: a graph of the contract, with or without its external data; it is consumed.
        signature: its inputs and outputs.
    """
    graph = model.graph
    constants: dict[str, NDArray[Any]] = {}
    nodes = _both_views(graph, constants)
    _rename_outputs(nodes, {name: _both(name) for name in signature.outputs})
    nodes += _averages(signature, constants)
    del graph.node[:], graph.value_info[:]  # the shapes were those of one view
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in constants.items())
    remove_unused(model)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _both(name: str) -> str:
    return f"views/{name}"


def _both_views(graph: onnx.GraphProto, constants: dict[str, NDArray[Any]]) -> list[onnx.NodeProto]:
    """Returns the graph's nodes on batches that hold all faces, then all their mirror images."""
    widths = {v.name: v.type.tensor_type.shape.dim[_WIDTH_AXIS].dim_value for v in graph.input}
    nodes: list[onnx.NodeProto] = []
    renamed: dict[str, str] = {}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        nodes.append(node)
        if node.op_type == "Cast" and node.input[0] in widths:
            pixels = node.output[0]
            renamed[pixels] = _both(pixels)
            nodes += _with_mirror_image(pixels, widths[node.input[0]], constants)
    return nodes


def _with_mirror_image(
    pixels: str, width: int, constants: dict[str, NDArray[Any]]
) -> list[onnx.NodeProto]:
    """Returns nodes that append the mirror images of float32 (N, H, W, 3) along the batch."""
    # A Gather with constant positions, since TensorRT turns a Slice into shape arithmetic.
    positions = _both(f"{pixels}/positions")
    constants[positions] = np.arange(width - 1, -1, -1, dtype=np.int64)
    flipped = _both(f"{pixels}/flipped")
    return [
        helper.make_node("Gather", [pixels, positions], [flipped], flipped, axis=_WIDTH_AXIS),
        helper.make_node("Concat", [pixels, flipped], [_both(pixels)], _both(pixels), axis=0),
    ]


def _rename_outputs(nodes: list[onnx.NodeProto], names: Mapping[str, str]) -> None:
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def _averages(signature: Signature, constants: dict[str, NDArray[Any]]) -> list[onnx.NodeProto]:
    """Returns nodes that average each output over the two halves of its batch."""
    recomputed = ("age_years",) if signature.whole_years else ()
    columns = {"age_probs": len(signature.age_grid or ()), "gender_probs": 2}
    nodes: list[onnx.NodeProto] = []
    for name in signature.outputs:
        if name not in recomputed:
            row = [columns[name]] if OUTPUT_RANKS[name] == 2 else []
            constants[_both(f"{name}/shape")] = np.array([2, -1, *row], np.int64)
            nodes += _average(name, constants)
    if recomputed:
        constants[_both("ages")] = np.array(signature.age_grid, np.float32)
        constants[_both("columns")] = np.array([1], np.int64)
        nodes += _rounded_expectation()
    return nodes


def _average(name: str, constants: dict[str, NDArray[Any]]) -> list[onnx.NodeProto]:
    """Returns nodes for the mean; halved before the sum, which stays within FP16's range."""
    constants |= {
        _both("half"): np.array(0.5, np.float32),
        _both("view_axis"): np.array([0], np.int64),
    }
    shape, rows, halves = (_both(f"{name}/{part}") for part in ("shape", "rows", "halves"))
    axis, mean = _both("view_axis"), _both(f"{name}/mean")
    return [
        helper.make_node("Reshape", [_both(name), shape], [rows], rows),
        helper.make_node("Mul", [rows, _both("half")], [halves], halves),
        helper.make_node("ReduceSum", [halves, axis], [name], mean, keepdims=0),
    ]


def _rounded_expectation() -> list[onnx.NodeProto]:
    weighted, years = _both("weighted"), _both("expectation")
    return [
        helper.make_node("Mul", ["age_probs", _both("ages")], [weighted], weighted),
        helper.make_node("ReduceSum", [weighted, _both("columns")], [years], years, keepdims=0),
        helper.make_node("Round", [years], ["age_years"], _both("whole_years")),
    ]
