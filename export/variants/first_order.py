"""What reducing each product does to ages, to first order: one pass forward and one backward.

The change of a product's output, computed by itself from exact inputs, times the derivative of the
age with respect to that output.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any

import onnx

from export.config.contract import Images
from export.errors import GraphError

Tensor = Any
"""PyTorch's, which is imported lazily: given ONNX files are converted without it."""
Compute = Callable[[list[Tensor]], Tensor]
Reduce = Callable[[onnx.NodeProto, list[Tensor], Compute], Tensor]
"""Computes a product in a variant's precision from its inputs and the FP32 function of them."""


def squared_effects(model: onnx.ModelProto, faces: Images, reduce: Reduce) -> dict[str, float]:
    """Returns the mean squared years by which each product, reduced alone, moves ages; by node.

    The dictionary is empty where PyTorch is not installed or cannot differentiate the graph.
    """
    try:
        from export.graph.differentiable import DifferentiableGraph
    except ImportError:
        return {}
    try:
        graph = DifferentiableGraph(model)
        rows = [_effects(graph, face, reduce) for face in one_by_one(faces)]
    except GraphError:
        return {}
    return {name: fmean(row[name] ** 2 for row in rows) for name in rows[0]}


def _effects(graph: Any, face: Images, reduce: Reduce) -> dict[str, float]:  # noqa: ANN401
    """Returns the years by which each product, reduced alone, moves one face's age."""
    import torch

    outputs: dict[str, Tensor] = {}
    changes: dict[str, Tensor] = {}

    def watched(node: onnx.NodeProto, given: list[Tensor], compute: Compute) -> Tensor:
        output = compute(given)
        if output.is_floating_point() and node.input[1] in graph.weights:
            with torch.no_grad():
                exact = [value if value is None else value.detach() for value in given]
                changes[node.name] = reduce(node, exact, compute) - output.detach()
            outputs[node.name] = output if output.requires_grad else output.requires_grad_()
        return output

    age = graph.ages(face, watched)
    if not age.requires_grad:
        raise GraphError("Ages do not depend on the products in a way that can be differentiated.")
    slopes = torch.autograd.grad(age.sum(), list(outputs.values()), allow_unused=True)
    return {
        name: 0.0 if slope is None else (slope * changes[name]).sum().item()
        for name, slope in zip(outputs, slopes, strict=True)
    }


def one_by_one(faces: Images) -> list[Images]:
    """Returns batches of one face."""
    count = min(map(len, faces.values()))
    return [{name: array[i : i + 1] for name, array in faces.items()} for i in range(count)]
