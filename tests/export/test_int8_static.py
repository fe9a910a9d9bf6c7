"""Static INT8 variants: which tensors are quantized, and that ages stay within the budget."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx.parser import parse_model

from export.config.contract import Images
from export.errors import GraphError
from export.experts.cnn.network import cnn_expert
from export.faces.quantization import quantization_faces
from export.faces.verification import verification_images
from export.graph.checks import check_graph
from export.variants.int8_static import (
    BUDGET,
    Int8Graph,
    _scale_and_zero,
    activation_ranges,
    int8_from_fp32,
)
from export.variants.search import estimate_sensitivities
from runtime.backends.openvino_graph import has_exact_int8
from runtime.geometry import Geometry
from runtime.manifest import InputSpec
from tests.export.small import SIDE, round_ages, small_module, small_settings

pytestmark = pytest.mark.conversion

INPUTS = (InputSpec("face", SIDE, SIDE, Geometry()),)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "resnet50.fp32.onnx"
    cnn_expert(small_module(), small_settings(), Geometry()).write_onnx(path)
    return path


@pytest.fixture(scope="module")
def faces() -> Images:
    return quantization_faces(INPUTS, 4)


@pytest.fixture(scope="module")
def graph(source: Path, faces: Images) -> Int8Graph:
    return Int8Graph(onnx.load(str(source)), faces)


def test_rounded_ages_are_measured_before_rounding(
    graph: Int8Graph, source: Path, faces: Images, tmp_path: Path
) -> None:
    model = onnx.load(str(round_ages(source, tmp_path / "rounded.onnx")))
    assert (_ages(model, faces) == np.rint(_ages(model, faces))).all()
    rounded = Int8Graph(model, faces)
    np.testing.assert_allclose(rounded.ages_years, graph.ages_years, rtol=0, atol=1e-4)
    assert (rounded.ages_years != np.rint(rounded.ages_years)).all()


def _ages(model: onnx.ModelProto, images: Images) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    ages: NDArray[np.float32] = session.run(["age_years"], dict(images))[0]
    return ages


def _tiny(body: str) -> onnx.ModelProto:
    return parse_model(
        f"""<ir_version: 10, opset_import: ["" : 20]>
        tiny (float[N, 8] x) => (float[N] age_years)
        <float[8, 8] a, float[8, 8] b, float[8, 8] c, int64[1] one = {{1}}> {{ {body} }}"""
    )


def _chain() -> onnx.ModelProto:
    model = _tiny(
        "p = MatMul(x, a) q = MatMul(p, b) r = MatMul(q, c) "
        "age_years = ReduceSum<keepdims=0>(r, one)"
    )
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(8, 8)).astype(np.float32) for name in "abc"}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(w, n) for n, w in weights.items())
    for index, node in enumerate(model.graph.node):
        node.name = f"node{index}"
    return model


def test_first_and_last_products_stay_in_fp32(graph: Int8Graph, source: Path) -> None:
    convolutions = [n for n in onnx.load(str(source)).graph.node if n.op_type == "Conv"]
    assert list(graph.products) == [node.name for node in convolutions[1:]]


def test_weights_become_int8_with_a_scale_per_channel(graph: Int8Graph) -> None:
    model = graph.variant()
    weights = {t.name: t for t in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    convolutions = [n for n in model.graph.node if n.name in graph.products]
    for node in convolutions:
        integers, scales, _ = (weights[name] for name in makers[node.input[1]].input)
        assert integers.data_type == onnx.TensorProto.INT8
        assert list(scales.dims) == [integers.dims[0]]
        assert makers[node.input[0]].op_type == "DequantizeLinear"
    read = {name for node in model.graph.node for name in node.input}
    assert set(weights) <= read


def test_an_activation_is_quantized_once(graph: Int8Graph) -> None:
    model = graph.variant()
    quantized = Counter(n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear")
    assert max(quantized.values()) == 1


def test_with_all_products_kept_nothing_is_quantized(
    graph: Int8Graph, source: Path, faces: Images
) -> None:
    model = graph.variant(graph.products)
    assert "QuantizeLinear" not in {node.op_type for node in model.graph.node}
    exact = _ages(onnx.load(str(source)), faces)
    np.testing.assert_allclose(_ages(model, faces), exact, atol=1e-3)


def test_ranges_cover_all_values_of_all_faces() -> None:
    faces = {"x": np.array([[-3.0] * 8, [5.0] * 8], np.float32)}
    ranges = activation_ranges(_chain(), ["x"], faces)  # type: ignore[arg-type]
    assert ranges == {"x": (-3.0, 5.0)}


def test_weights_are_rounded_to_the_nearest_integer() -> None:
    rng = np.random.default_rng(1)
    faces = {"x": rng.normal(size=(16, 8)).astype(np.float32)}
    graph = Int8Graph(_chain(), faces)  # type: ignore[arg-type]
    assert list(graph.products) == ["node1"]
    model = graph.variant()
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    exact = {t.name: onnx.numpy_helper.to_array(t) for t in _chain().graph.initializer}["b"]
    real = weights["q.weight.integers"] * weights["q.weight.scales"]
    assert np.abs(real - exact).max() <= weights["q.weight.scales"].max() / 2 + 1e-7
    assert np.abs(weights["q.weight.integers"]).max(axis=0).tolist() == [127] * 8


def _ending_in_a_dense_layer() -> onnx.ModelProto:
    model = parse_model(
        """<ir_version: 10, opset_import: ["" : 20]>
        tiny (float[N, 8] x) => (float[N] age_years)
        <float[8, 8] a, float[8, 8] b, float[8, 8] c, float[8] d, int64[1] one = {1}> {
            p = MatMul(x, a) q = MatMul(p, b) h = Relu(q) r = Gemm(h, c, d)
            age_years = ReduceSum<keepdims=0>(r, one) }"""
    )
    rng = np.random.default_rng(2)
    for name, shape in (("a", (8, 8)), ("b", (8, 8)), ("c", (8, 8)), ("d", (8,))):
        weights = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    for index, node in enumerate(model.graph.node):
        node.name = f"node{index}"
    return model


@pytest.mark.skipif(not has_exact_int8(), reason="this CPU has no VNNI")
def test_the_last_bias_is_corrected_for_the_mean_error() -> None:
    faces = {"x": np.random.default_rng(3).normal(size=(16, 8)).astype(np.float32)}
    exact = _ending_in_a_dense_layer()
    graph = Int8Graph(exact, faces)  # type: ignore[arg-type]
    wanted = _ages(exact, faces)  # type: ignore[arg-type]
    shifted = _ages(graph.quantized(graph.products), faces)  # type: ignore[arg-type]
    found = _ages(graph.variant(), faces)  # type: ignore[arg-type]
    assert abs(shifted.mean() - wanted.mean()) > 1e-3
    assert found.mean() == pytest.approx(wanted.mean(), abs=1e-4)
    assert np.abs(found - wanted).max() > 1e-3  # each still differs


@pytest.mark.parametrize(
    ("low", "high", "at_zero"), [(2.0, 5.1, 0), (-5.1, -2.0, 255), (-1.0, 4.1, 50), (0.0, 0.0, 0)]
)
def test_zero_is_represented_exactly(low: float, high: float, at_zero: int) -> None:
    scale, zero = _scale_and_zero(low, high)
    assert zero == at_zero
    assert scale * (255 - zero) >= high - scale / 2
    assert scale * -zero <= low + scale / 2


def test_the_most_sensitive_products_stay_in_fp32(
    source: Path, faces: Images, graph: Int8Graph, tmp_path: Path
) -> None:
    target = tmp_path / "resnet50.int8.onnx"
    variant = int8_from_fp32(source, target, faces)
    moved = estimate_sensitivities(graph)
    ranked = sorted(moved, key=lambda name: -moved[name])
    places = [ranked.index(name) for name in variant.kept]
    assert places == sorted(places)
    assert places[-1] < len(variant.kept) + 4  # four at most are reduced after all
    assert len(variant.kept) < len(ranked)
    assert 0.0 < variant.share < 1.0
    errors = np.abs(_ages(onnx.load(str(target)), faces) - graph.ages_years)
    assert BUDGET.allows(errors)


def test_the_file_matches_the_signature_and_is_reproducible(
    source: Path, faces: Images, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    for target in (first, second):
        int8_from_fp32(source, target, faces)
    assert first.read_bytes() == second.read_bytes()
    signature = cnn_expert(small_module(), small_settings(), Geometry()).signature
    check_graph(first, signature, tensorrt=False)


def test_a_graph_without_inner_products_is_rejected(tmp_path: Path) -> None:
    source = tmp_path / "one.onnx"
    model = _tiny("p = MatMul(x, a) age_years = ReduceSum<keepdims=0>(p, one)")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(8, dtype=np.float32), "a"))
    onnx.save(model, source)
    with pytest.raises(GraphError, match="no product with constant weights between"):
        int8_from_fp32(source, tmp_path / "int8.onnx", {"x": np.ones((1, 8), np.uint8)})


def test_quantization_and_verification_faces_are_disjoint() -> None:
    used = quantization_faces(INPUTS)["face"]
    verified = verification_images(INPUTS)["face"]
    assert used.shape == (46, SIDE, SIDE, 3)
    shared = {face.tobytes() for face in used} & {face.tobytes() for face in verified}
    assert shared <= {bytes(verified[0].size)}  # missing faces are black in both
