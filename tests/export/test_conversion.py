"""Conversion to ONNX, the checks of ONNX files, and saved models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import ExternalDataInfo

from export.config.contract import Signature
from export.errors import GraphError
from export.experts.cnn.network import cnn_expert
from export.graph.checks import check_graph
from export.graph.dense import dense_from_convolutions
from export.graph.shapes import fix_reshapes
from export.graph.tensorrt_operators import tensorrt_problems
from export.graph.weights import model_files, save_model, weight_array
from runtime.geometry import Geometry
from runtime.manifest import InputSpec
from tests.export.small import SIDE, small_module, small_settings

SIGNATURE = Signature((InputSpec("face", 4, 4, Geometry()),), ("age_years",))


def graph(
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any] | None = None,
    *,
    image: tuple[str, int, list[Any]] = ("face", TensorProto.UINT8, ["batch", 4, 4, 3]),
    output: tuple[str, int, list[Any]] = ("age_years", TensorProto.FLOAT, ["batch"]),
) -> onnx.ModelProto:
    weights = [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info(*image)],
            [helper.make_tensor_value_info(*output)],
            weights,
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )


def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], name=f"the_{kind.lower()}", **attributes)


CAST = node("Cast", ["face"], "pixels", to=TensorProto.FLOAT)
MEAN = node("ReduceMean", ["pixels", "axes"], "age_years", keepdims=0)
AXES = {"axes": np.array([1, 2, 3])}


@pytest.mark.conversion
@pytest.mark.parametrize("architecture", ["vgg16", "resnet50"])
@pytest.mark.parametrize("kind", ["expectation", "regression"])
def test_exported_cnns_match_their_signature(tmp_path: Path, architecture: str, kind: str) -> None:
    expert = cnn_expert(small_module(architecture, kind), small_settings(kind), Geometry())
    path = tmp_path / "expert.onnx"
    expert.write_onnx(path)
    check_graph(path, expert.signature)
    nodes = onnx.load(path).graph.node
    assert not {n.op_type for n in nodes} & {"Shape", "Gather", "Range", "Expand"}
    assert not any(n.metadata_props for n in nodes)  # stack traces would hold local paths
    rng = np.random.default_rng(0)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (1, 2, 5):
        faces = {"face": rng.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)}
        for name, expected in expert.reference(faces).items():
            (found,) = session.run([name], faces)
            np.testing.assert_allclose(found, expected, atol=1e-3 if name == "age_years" else 1e-5)


def test_a_valid_graph_passes(tmp_path: Path) -> None:
    onnx.save(graph([CAST, MEAN], AXES), tmp_path / "g.onnx")
    check_graph(tmp_path / "g.onnx", SIGNATURE)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (graph([CAST, MEAN], AXES, image=("face", TensorProto.UINT8, [1, 4, 4, 3])), "inputs are"),
        (
            graph([CAST, MEAN], AXES, image=("face", TensorProto.UINT8, ["batch", 4, "w", 3])),
            "inputs are",
        ),
        (
            graph(
                [CAST, node("ReduceMean", ["pixels", "axes"], "age", keepdims=0)],
                AXES,
                output=("age", TensorProto.FLOAT, ["batch"]),
            ),
            "outputs are",
        ),
    ],
)
def test_graphs_that_do_not_match_the_signature_are_rejected(
    tmp_path: Path, model: onnx.ModelProto, message: str
) -> None:
    onnx.save(model, tmp_path / "g.onnx")
    with pytest.raises(GraphError, match=message):
        check_graph(tmp_path / "g.onnx", SIGNATURE)


def test_invalid_onnx_is_rejected(tmp_path: Path) -> None:
    onnx.save(
        graph([CAST, node("ReduceMean", ["nothing", "axes"], "age_years")], AXES),
        tmp_path / "g.onnx",
    )
    with pytest.raises(GraphError, match=r"g\.onnx is not valid ONNX"):
        check_graph(tmp_path / "g.onnx", SIGNATURE)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([node("Col2Im", ["a", "b", "c"], "d")], "ai.onnx.Col2Im is not supported"),
        ([node("Resize", ["a"], "b", mode="cubic")], "cubic and antialiased Resize"),
        ([node("Resize", ["a"], "b", mode="linear", antialias=1)], "antialiased Resize are not"),
        ([node("ReduceMax", ["a", "computed"], "b")], "axes of ReduceMax must be constant"),
        ([node("Slice", ["a", "s", "e", "computed"], "b")], "axes of Slice"),
        ([node("Gelu", ["a"], "b", domain="com.microsoft")], "com.microsoft.Gelu"),
        ([node("Transpose", ["face"], "b", perm=[0, 3, 1, 2])], "only in a Cast"),
        (
            [helper.make_node("MaxPool", ["a"], ["b", "where"], "p", kernel_shape=[2, 2])],
            "indices output of MaxPool",
        ),
    ],
)
def test_nodes_that_tensorrt_does_not_support_are_named(
    nodes: list[onnx.NodeProto], reason: str
) -> None:
    (problem,) = tensorrt_problems(graph(nodes))
    assert reason in problem
    assert repr(nodes[0].name) in problem


def test_nodes_that_tensorrt_supports_are_not_named() -> None:
    assert tensorrt_problems(graph([CAST, MEAN], AXES)) == []
    linear = node("Resize", ["a"], "b", mode="linear")
    assert tensorrt_problems(graph([linear])) == []


def test_reshapes_become_constant_and_shape_arithmetic_is_removed() -> None:
    nodes = [
        CAST,
        node("Shape", ["pixels"], "shape", start=0, end=1),
        node("Concat", ["shape", "rest"], "target", axis=0),
        node("Reshape", ["pixels", "target"], "rows"),
        node("ReduceMean", ["rows", "one"], "age_years", keepdims=0),
    ]
    constants = {"rest": np.array([48]), "one": np.array([1])}
    model = onnx.shape_inference.infer_shapes(graph(nodes, constants), data_prop=True)
    faces = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
    before = ort.InferenceSession(model.SerializeToString()).run(None, {"face": faces})
    fix_reshapes(model)
    assert [n.op_type for n in model.graph.node] == ["Cast", "Reshape", "ReduceMean"]
    assert {t.name for t in model.graph.initializer} == {"rows.shape", "one"}
    after = ort.InferenceSession(model.SerializeToString()).run(None, {"face": faces})
    np.testing.assert_array_equal(before[0], after[0])


def test_large_weights_go_to_an_external_data_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.graph.weights.LARGEST_INLINE_BYTES", 1000)
    weights = {"axes": AXES["axes"], "w": np.ones(1000, np.float32)}
    nodes = [CAST, MEAN, node("Add", ["w", "w"], "unused")]
    path = tmp_path / "g.onnx"
    save_model(graph(nodes, weights), path)
    assert [f.name for f in model_files(path)] == ["g.onnx", "g.onnx.data"]
    check_graph(path, SIGNATURE)
    stored = onnx.load(str(path), load_external_data=False).graph.initializer
    assert [tensor.data_location for tensor in stored] == [0, 1]
    kept = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer
    }
    np.testing.assert_array_equal(kept["w"], weights["w"])


def test_weights_of_different_types_are_aligned_in_the_external_data_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.graph.weights.LARGEST_INLINE_BYTES", 1000)
    weights = {"a": np.arange(1001, dtype=np.int8), "b": np.arange(1000, dtype=np.float32)}
    path = tmp_path / "g.onnx"
    save_model(graph([CAST, MEAN], AXES | weights), path)
    stored = onnx.load(str(path), load_external_data=False).graph.initializer
    for tensor in stored:
        assert int(ExternalDataInfo(tensor).offset or 0) % 64 == 0
        if tensor.name in weights:
            np.testing.assert_array_equal(weight_array(tensor, tmp_path), weights[tensor.name])


def test_a_smaller_graph_leaves_no_data_file_of_a_larger_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "g.onnx"
    monkeypatch.setattr("export.graph.weights.LARGEST_INLINE_BYTES", 1000)
    save_model(graph([CAST, MEAN], AXES | {"w": np.ones(1000, np.float32)}), path)
    save_model(graph([CAST, MEAN], AXES), path)
    assert model_files(path) == [path]


@pytest.mark.parametrize(
    ("kernel", "options", "dense"),
    [
        ((2, 4, 4, 3), {}, True),
        ((2, 4, 4, 2), {}, False),
        ((2, 4, 4, 3), {"pads": [0, 0, 0, 1], "strides": [1, 2]}, False),
        ((4, 1, 4, 3), {"group": 4}, False),
    ],
    ids=["whole map", "smaller", "padded", "grouped"],
)
def test_a_convolution_over_its_whole_map_becomes_a_dense_layer(
    kernel: tuple[int, ...], options: dict[str, Any], *, dense: bool
) -> None:
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.random(kernel, np.float32),
        "b": rng.random(kernel[0], np.float32),
        "axes": np.array([1, 2, 3]),
    }
    nodes = [CAST, node("Conv", ["pixels", "w", "b"], "map", **options)]
    nodes.append(node("ReduceMean", ["map", "axes"], "age_years", keepdims=0))
    face = ("face", TensorProto.UINT8, ["batch", 4, 4, 3])
    model = onnx.shape_inference.infer_shapes(graph(nodes, constants, image=face))
    faces = rng.integers(0, 256, (3, 4, 4, 3), np.uint8)
    before = ort.InferenceSession(model.SerializeToString()).run(None, {"face": faces})
    dense_from_convolutions(model)
    assert ("Gemm" in [n.op_type for n in model.graph.node]) == dense
    onnx.checker.check_model(model, full_check=True)
    after = ort.InferenceSession(model.SerializeToString()).run(None, {"face": faces})
    np.testing.assert_allclose(after[0], before[0], rtol=1e-5)
