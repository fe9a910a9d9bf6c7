"""What reducing products does to ages, predicted by gradients and compared with doing it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.config.contract import Images
from export.errors import GraphError
from export.graph.differentiable import DifferentiableGraph
from export.variants.bf16 import Bf16Graph, rounded_to_bfloat16
from export.variants.first_order import squared_effects
from export.variants.int8_static import Int8Graph

F = np.float32
IMAGE = np.random.default_rng(0).normal(size=(2, 4, 8, 8)).astype(F)
FACES: Images = {"x": np.random.default_rng(4).normal(size=(6, 4, 8, 8)).astype(F)}
KERNELS = np.random.default_rng(1).normal(size=(6, 2, 3, 3)).astype(F)
FOUR = np.random.default_rng(2).uniform(0.5, 2.0, 4).astype(F)
SLOPES = FOUR.reshape(4, 1, 1)
SQUARE = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 1, 1]}


def _bfloat16(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rounds to the nearest bfloat16 by its bits, ties to even."""
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def test_one_dense_layer_moves_the_age_by_the_error_of_its_rounding() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 8)).astype(np.float32)
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((8, 8), (8, 1)))
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"], "first"),
        helper.make_node("MatMul", ["p", "b"], ["q"], "last"),
        helper.make_node("ReduceSum", ["q", "one"], ["age_years"], "sum", keepdims=0),
    ]
    model = _model(nodes, x, {"a": a, "b": b, "one": np.array([1])})
    faces: Any = {"x": x}
    found = squared_effects(model, faces, rounded_to_bfloat16)
    first = (_bfloat16(_bfloat16(x) @ _bfloat16(a)) - x @ a) @ b
    last = _bfloat16(_bfloat16(x @ a) @ _bfloat16(b)) - x @ a @ b
    assert found == {
        "first": pytest.approx(np.square(first).mean(), rel=1e-3),
        "last": pytest.approx(np.square(last).mean(), rel=1e-3),
    }


def test_products_of_bf16_are_predicted_by_the_names_that_openvino_gives_them(
    tmp_path: Path,
) -> None:
    onnx.save(_network(), tmp_path / "network.onnx")
    graph = Bf16Graph(tmp_path / "network.onnx", tmp_path / "network.bf16.xml", FACES)
    assert len(graph.products) == 6
    assert list(graph.predicted()) == list(graph.products)


def test_products_of_int8_move_ages_as_far_as_predicted() -> None:
    graph = Int8Graph(_network(), FACES)
    predicted = graph.predicted()
    assert len(graph.products) == 4  # all but the first and the last
    assert list(predicted) == list(graph.products)
    for product, expected in predicted.items():
        moved = graph.ages_reducing([product], FACES) - graph.ages_years
        assert np.square(moved).mean() == pytest.approx(expected, rel=0.1)


def test_without_pytorch_nothing_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "export.graph.differentiable", None)
    assert squared_effects(_network(), FACES, rounded_to_bfloat16) == {}


@pytest.mark.parametrize("operator", ["LpNormalization", "Round"])
def test_unknown_operators_and_ages_that_no_product_moves_are_not_predicted(operator: str) -> None:
    nodes = [
        helper.make_node(operator, ["x"], ["y"]),
        helper.make_node("ReduceMean", ["y", "axes"], ["age_years"], keepdims=0),
    ]
    model = _model(nodes, IMAGE, {"axes": np.array([1, 2, 3])})
    assert squared_effects(model, FACES, rounded_to_bfloat16) == {}


def _network() -> onnx.ModelProto:
    """Five convolutions with bias, a dense layer and the sum of its columns."""
    rng = np.random.default_rng(3)
    weights: dict[str, NDArray[np.generic]] = {"one": np.array([1])}
    nodes, last = [], "x"
    for index in range(5):
        w, b, y = (f"{letter}{index}" for letter in "wby")
        weights[w] = (rng.normal(size=(4, 4, 3, 3)) / 4).astype(F)
        weights[b] = rng.normal(size=4).astype(F)
        nodes.append(helper.make_node("Conv", [last, w, b], [y], f"conv{index}"))
        nodes[-1].attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))
        last = f"r{index}"
        nodes.append(helper.make_node("Relu", [y], [last], f"relu{index}"))
    weights |= {"w": rng.normal(size=(4, 16)).astype(F), "b": rng.normal(size=16).astype(F)}
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["mean"], "mean"),
        helper.make_node("Flatten", ["mean"], ["flat"], "flat"),
        helper.make_node("Gemm", ["flat", "w", "b"], ["parts"], "dense"),
        helper.make_node("ReduceSum", ["parts", "one"], ["age_years"], "sum", keepdims=0),
    ]
    return _model(nodes, IMAGE, weights)


def _model(
    nodes: list[onnx.NodeProto],
    x: NDArray[np.float32],
    weights: dict[str, NDArray[np.generic]],
    opset: int = 20,
) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "tiny",
        [value("x", TensorProto.FLOAT, ["N", *x.shape[1:]])],
        [value(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, key) for key, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


OPERATORS = [
    ("Conv", {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}, [KERNELS]),
    ("MaxPool", SQUARE, []),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, []),
    ("AveragePool", SQUARE, []),
    ("AveragePool", {**SQUARE, "count_include_pad": 1}, []),
    ("GlobalAveragePool", {}, []),
    ("BatchNormalization", {"epsilon": 0.1}, [FOUR, FOUR, FOUR, FOUR]),
    ("LayerNormalization", {"axis": -2, "epsilon": 0.1}, [np.ones((8, 8), F) * 2]),
    ("Softmax", {"axis": 1}, []),
    ("PRelu", {}, [SLOPES]),
    ("LeakyRelu", {"alpha": 0.3}, []),
    ("Elu", {"alpha": 0.3}, []),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}, []),
    ("HardSwish", {}, []),
    ("Gelu", {}, []),
    ("Gelu", {"approximate": "tanh"}, []),
    ("Clip", {}, [np.array(-0.5, F), np.array(0.75, F)]),
    ("Max", {}, [SLOPES]),
    ("ReduceMax", {"keepdims": 0}, [np.array([1, -1])]),
    ("ReduceSum", {}, []),
    ("Reshape", {}, [np.array([0, 8, -1])]),
    ("Transpose", {"perm": [2, 0, 3, 1]}, []),
    ("Flatten", {"axis": 3}, []),
    ("Unsqueeze", {}, [np.array([-1, 0])]),
    ("Concat", {"axis": 2}, [IMAGE]),
    ("Slice", {}, [np.array([6, 1]), np.array([-99, 3]), np.array([2, 1]), np.array([-2, 1])]),
    ("Split", {"axis": 1}, [np.array([1, 3])]),
    ("Gather", {"axis": -2}, [np.array([[0, -1], [2, 3]])]),
    ("Pad", {}, [np.array([0, 0, 1, 2, 0, 0, 3, 0]), np.array(0.5, F)]),
    ("Softmax", {"axis": 1, "opset": 12}, []),
    ("Clip", {"max": 0.5, "opset": 10}, []),
    ("ReduceMean", {"axes": [2], "opset": 12}, []),
    ("Pad", {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "value": 0.5, "opset": 10}, []),
]


@pytest.mark.parametrize(("operator", "facts", "others"), OPERATORS)
def test_operators_compute_what_onnx_runtime_computes(
    operator: str, facts: dict[str, Any], others: list[NDArray[np.generic]]
) -> None:
    attributes = dict(facts)
    opset = attributes.pop("opset", 20)
    names = [f"w{index}" for index in range(len(others))]
    results = ["y", "z"] if operator == "Split" else ["y"]
    node = helper.make_node(operator, ["x", *names], results, **attributes)
    model = _model([node], IMAGE, dict(zip(names, others, strict=True)), opset=opset)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (wanted,) = session.run(["y"], {"x": IMAGE})
    graph = DifferentiableGraph(model)
    with torch.no_grad():
        found = graph.run({"x": IMAGE}, "y", lambda _, given, compute: compute(given))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("operator", "facts"),
    [
        ("MaxPool", {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"}),
        ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ],
)
def test_forms_of_operators_that_would_be_computed_differently_are_refused(
    operator: str, facts: dict[str, Any]
) -> None:
    graph = DifferentiableGraph(
        _model([helper.make_node(operator, ["x"], ["y"], **facts)], IMAGE, {})
    )
    with pytest.raises(GraphError, match=f"{operator} in this form"):
        graph.run({"x": IMAGE}, "y", lambda _, given, compute: compute(given))
