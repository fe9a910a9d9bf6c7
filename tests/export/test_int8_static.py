"""Static INT8: what is rounded and what is not, and that ages stay what they were."""

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
from export.experts.cnn import cnn_expert
from export.faces.quantization import quantization_faces
from export.faces.verification import verification_images
from export.graph.checks import check_graph
from export.variants.int8_static import (
    WITHIN_YEARS,
    Quantizer,
    _step,
    activation_ranges,
    int8_from_fp32,
)
from runtime.backends.openvino_graph import has_exact_int8
from runtime.geometry import Geometry
from runtime.manifest import InputSpec
from tests.export.small import SIDE, small_module, small_settings

INPUTS = (InputSpec("face", SIDE, SIDE, Geometry()),)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("single") / "resnet50.fp32.onnx"
    cnn_expert(small_module(), small_settings(), Geometry()).write_onnx(path)
    return path


@pytest.fixture(scope="module")
def faces() -> Images:
    return quantization_faces(INPUTS, 4)


@pytest.fixture(scope="module")
def quantizer(single: Path, faces: Images) -> Quantizer:
    return Quantizer(onnx.load(str(single)), faces)


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


def test_first_and_last_products_stay(quantizer: Quantizer, single: Path) -> None:
    convolutions = [n for n in onnx.load(str(single)).graph.node if n.op_type == "Conv"]
    assert quantizer.products == tuple(node.name for node in convolutions[1:])


def test_weights_become_int8_with_a_scale_per_channel(quantizer: Quantizer) -> None:
    model = quantizer.model()
    weights = {t.name: t for t in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    convolutions = [n for n in model.graph.node if n.name in quantizer.products]
    for node in convolutions:
        integers, scales, _ = (weights[name] for name in makers[node.input[1]].input)
        assert integers.data_type == onnx.TensorProto.INT8
        assert list(scales.dims) == [integers.dims[0]]
        assert makers[node.input[0]].op_type == "DequantizeLinear"
    read = {name for node in model.graph.node for name in node.input}
    assert set(weights) <= read


def test_an_activation_is_rounded_once(quantizer: Quantizer) -> None:
    model = quantizer.model()
    rounded = Counter(n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear")
    assert max(rounded.values()) == 1


def test_what_is_kept_is_as_it_was(quantizer: Quantizer, single: Path, faces: Images) -> None:
    model = quantizer.model(keep=quantizer.products)
    assert "QuantizeLinear" not in {node.op_type for node in model.graph.node}
    exact = _ages(onnx.load(str(single)), faces)
    np.testing.assert_allclose(_ages(model, faces), exact, atol=1e-3)


def test_ranges_hold_every_value_of_every_face() -> None:
    faces = {"x": np.array([[-3.0] * 8, [5.0] * 8], np.float32)}
    ranges = activation_ranges(_chain(), ["x"], faces)  # type: ignore[arg-type]
    assert ranges == {"x": (-3.0, 5.0)}


def test_integers_are_the_nearest_ones() -> None:
    rng = np.random.default_rng(1)
    faces = {"x": rng.normal(size=(16, 8)).astype(np.float32)}
    quantizer = Quantizer(_chain(), faces)  # type: ignore[arg-type]
    assert quantizer.products == ("node1",)
    model = quantizer.model()
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
def test_the_last_bias_makes_up_for_what_rounding_shifts_on_average() -> None:
    faces = {"x": np.random.default_rng(3).normal(size=(16, 8)).astype(np.float32)}
    exact = _ending_in_a_dense_layer()
    quantizer = Quantizer(exact, faces)  # type: ignore[arg-type]
    wanted = _ages(exact, faces)  # type: ignore[arg-type]
    shifted = _ages(quantizer._rounded(quantizer.products), faces)  # type: ignore[arg-type]
    found = _ages(quantizer.model(), faces)  # type: ignore[arg-type]
    assert abs(shifted.mean() - wanted.mean()) > 1e-3
    assert found.mean() == pytest.approx(wanted.mean(), abs=1e-4)
    assert np.abs(found - wanted).max() > 1e-3  # each still differs


@pytest.mark.parametrize(
    ("low", "high", "at_zero"), [(2.0, 5.1, 0), (-5.1, -2.0, 255), (-1.0, 4.1, 50), (0.0, 0.0, 0)]
)
def test_zero_is_one_of_the_steps(low: float, high: float, at_zero: int) -> None:
    scale, zero = _step(low, high)
    assert zero == at_zero
    assert scale * (255 - zero) >= high - scale / 2
    assert scale * -zero <= low + scale / 2


def test_the_most_sensitive_products_stay(
    single: Path, faces: Images, quantizer: Quantizer, tmp_path: Path
) -> None:
    target = tmp_path / "resnet50.int8.onnx"
    form = int8_from_fp32(single, target, faces)
    kept = form.kept
    assert kept == tuple(quantizer.by_sensitivity()[: len(kept)])
    assert len(kept) < len(quantizer.products)
    assert 0.0 < form.share < 1.0
    errors = quantizer.errors_years(onnx.load(str(target)))
    assert errors.mean() <= WITHIN_YEARS[0]
    assert errors.max() <= WITHIN_YEARS[1]


def test_the_file_honors_the_contract_and_is_always_the_same(
    single: Path, faces: Images, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    for target in (first, second):
        int8_from_fp32(single, target, faces)
    assert first.read_bytes() == second.read_bytes()
    signature = cnn_expert(small_module(), small_settings(), Geometry()).signature
    check_graph(first, signature, tensorrt=False)


def test_refuses_a_graph_without_inner_products(tmp_path: Path) -> None:
    source = tmp_path / "one.onnx"
    model = _tiny("p = MatMul(x, a) age_years = ReduceSum<keepdims=0>(p, one)")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(8, dtype=np.float32), "a"))
    onnx.save(model, source)
    with pytest.raises(GraphError, match="no product with constant weights between"):
        int8_from_fp32(source, tmp_path / "int8.onnx", {"x": np.ones((1, 8), np.uint8)})


def test_no_face_is_a_verification_face() -> None:
    used = quantization_faces(INPUTS)["face"]
    judged = verification_images(INPUTS)["face"]
    assert used.shape == (46, SIDE, SIDE, 3)
    shared = {face.tobytes() for face in used} & {face.tobytes() for face in judged}
    assert shared <= {bytes(judged[0].size)}  # where nothing is seen, every face is black
