"""Small dense networks with faults planted in them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

LAYERS = 6
WIDTH = 16
FACES = 3
OVERFLOWING = 2
"""Number of the layer that exceeds half precision in `overflowing`."""


def weights(seed: int = 0) -> list[NDArray[np.float32]]:
    """Weights of the layers: (8, WIDTH), then (WIDTH, WIDTH), then (WIDTH, 1)."""
    rng = np.random.default_rng(seed)
    sizes = [8, *[WIDTH] * LAYERS, 1]
    return [(rng.uniform(0.2, 1.0, pair) / pair[0]).astype(np.float32) for pair in pairwise(sizes)]


def overflowing() -> list[NDArray[np.float32]]:
    """Weights that make a layer about 3e5; the next makes it small again."""
    found = weights()
    found[OVERFLOWING] *= np.float32(5e3)
    found[OVERFLOWING + 1] /= np.float32(5e3)
    return found


def write(path: Path, layers: list[NDArray[np.float32]]) -> Path:
    """Writes pixels → (product, ReLU) … → product → `age_years`; layers are `p0`, `r0`, `p1`, …"""
    nodes = [helper.make_node("Cast", ["face"], ["r"], "cast", to=TensorProto.FLOAT)]
    last = "r"
    for index in range(len(layers) - 1):
        nodes.append(helper.make_node("MatMul", [last, f"w{index}"], [f"p{index}"], f"m{index}"))
        last = f"r{index}"
        nodes.append(helper.make_node("Relu", [f"p{index}"], [last], f"relu{index}"))
    nodes.append(helper.make_node("MatMul", [last, f"w{len(layers) - 1}"], ["age"], "last"))
    nodes.append(helper.make_node("Squeeze", ["age", "one"], ["age_years"], "squeeze"))
    tensors = [numpy_helper.from_array(array, f"w{index}") for index, array in enumerate(layers)]
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("face", TensorProto.UINT8, ["batch", 8])],
        [helper.make_tensor_value_info("age_years", TensorProto.FLOAT, ["batch"])],
        [*tensors, numpy_helper.from_array(np.array([1], np.int64), "one")],
    )
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def faces(count: int = FACES) -> dict[str, NDArray[np.uint8]]:
    return {"face": np.random.default_rng(1).integers(100, 256, (count, 8), np.uint8)}


def change_weight(path: Path, name: str, factor: Any) -> None:
    """Multiplies a weight of a file, of its own type."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array((array * factor).astype(array.dtype), name))
    onnx.save(model, path)
