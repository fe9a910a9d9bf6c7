"""Made-up ONNX files with the inputs and outputs of published ones, without PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Axis = int | str


def write_classifier(
    path: Path,
    outputs: dict[str, int],
    *,
    batch: Axis = 1,
    side: Axis = 224,
    opset: int = 18,
    softmax: bool = False,
    seed: int = 0,
    spread: float = 1.0,
) -> Path:
    """Writes a network: a strided convolution, ReLU, the mean, a linear layer per output.

    Args:
        path: of the file.
        outputs: number of columns by name.
        batch: declared for input and outputs, a number or a symbol.
        side: declared height and width.
        opset: of the file.
        softmax: outputs are probabilities.
        seed: of the weights.
        spread: of the last layer's weights.
    """
    rng = np.random.default_rng(seed)
    weights = {"conv": rng.normal(0.0, 0.1, (8, 3, 7, 7))}
    nodes = [
        helper.make_node("Conv", ["pixels", "conv"], ["maps"], strides=[16, 16]),
        helper.make_node("Relu", ["maps"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["features"]),
    ]
    for name, count in outputs.items():
        weights[f"{name}.weight"] = rng.normal(0.0, spread, (8, count))
        last = f"{name}.logits" if softmax else name
        nodes.append(helper.make_node("MatMul", ["features", f"{name}.weight"], [last]))
        if softmax:
            nodes.append(helper.make_node("Softmax", [last], [name], axis=1))
    return _save(
        path,
        nodes,
        weights,
        [batch, 3, side, side],
        {n: [batch, c] for n, c in outputs.items()},
        opset,
    )


def write_centerface(
    path: Path, *, sizes: tuple[int, int, int] = (10, 32, 32), channels: int = 10, seed: int = 0
) -> Path:
    """Writes a network with the input and outputs of CenterFace, and none of its knowledge.

    Args:
        path: of the file.
        sizes: declared batch, height and width.
        channels: of the landmarks; CenterFace has 10.
        seed: of the weights.
    """
    rng = np.random.default_rng(seed)
    columns = {"537": 1, "538": 2, "539": 2, "540": channels}
    weights = {f"w{name}": rng.normal(0.0, 1e-3, (c, 3, 4, 4)) for name, c in columns.items()}
    nodes = [
        helper.make_node("Conv", ["pixels", f"w{name}"], [f"c{name}"], strides=[4, 4])
        for name in columns
    ]
    nodes += [
        helper.make_node("Sigmoid" if name == "537" else "Identity", [f"c{name}"], [name])
        for name in columns
    ]
    batch, height, width = sizes
    shapes: dict[str, list[Axis]] = {
        name: [batch, count, height // 4, width // 4] for name, count in columns.items()
    }
    return _save(path, nodes, weights, [batch, 3, height, width], shapes, 9)


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    image: list[Axis],
    outputs: dict[str, list[Axis]],
    opset: int,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "published",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, image)],
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, shape)
            for n, shape in outputs.items()
        ],
        [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path
