"""FP16 variants: the type of every tensor, and the parity that shows when it is wrong."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from export.build.differences import compared
from export.build.parity import TOLERANCES, check_parity
from export.config.contract import FP32_OPERATORS
from export.diagnosis.compare import Sides
from export.diagnosis.layers import OnnxLayers
from export.diagnosis.report import Comparison, diagnose
from export.errors import GraphError, ParityError
from export.experts.cnn.network import cnn_expert
from export.faces.verification import BATCHES, verification_images
from export.graph.checks import check_graph
from export.variants.fp16 import fp16_from_fp32, fp16_share, tensor_types
from runtime.geometry import Geometry
from tests.export.small import small_module, small_settings
from tests.export.test_conversion import CAST, graph, node

pytestmark = pytest.mark.conversion


@pytest.fixture(scope="module", params=["vgg16", "resnet50"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("built")
    expert = cnn_expert(small_module(request.param), small_settings(), Geometry())
    expert.write_onnx(folder / "e.fp32.onnx")
    fp16_from_fp32(folder / "e.fp32.onnx", folder / "e.fp16.onnx")
    images = verification_images(expert.signature.inputs)
    return folder, expert.signature, images, expert.reference(images)


def test_both_precisions_pass_parity_and_the_checks(built: Any) -> None:
    folder, signature, images, reference = built
    fp32, fp16 = folder / "e.fp32.onnx", folder / "e.fp16.onnx"
    for path in (fp32, fp16):
        check_graph(path, signature)
    exact = check_parity(fp32, "fp32", images, reference)
    rounded = check_parity(fp16, "fp16", images, reference, fp32)
    assert exact.faces == rounded.faces == sum(BATCHES)
    assert exact.max_years <= 1e-3
    assert 0.0 < rounded.mean_years <= 0.1
    assert fp16.stat().st_size < 0.6 * fp32.stat().st_size


def test_layers_are_fp16_and_sensitive_operators_fp32(built: Any) -> None:
    folder, *_ = built
    assert fp16_share(folder / "e.fp32.onnx") == 0.0
    assert fp16_share(folder / "e.fp16.onnx") > 0.6
    model = onnx.load(folder / "e.fp16.onnx")
    types = tensor_types(folder / "e.fp16.onnx")
    for found in model.graph.node:
        if found.op_type == "Conv":
            assert {types[name] for name in (*found.input, *found.output)} == {"fp16"}
        if found.op_type in FP32_OPERATORS:
            assert types[found.output[0]] == "fp32"


def test_true_fp16_arithmetic_stays_close(built: Any) -> None:
    """ONNX Runtime's CPU provider computes FP16 in FP32; the reference evaluator does not."""
    folder, _, images, reference = built
    faces = {name: array[:2] for name, array in images.items()}
    (years,) = ReferenceEvaluator(str(folder / "e.fp16.onnx")).run(["age_years"], faces)
    assert np.abs(years - reference["age_years"][:2]).max() < 0.5


def convert(tmp_path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    onnx.save(model, tmp_path / "fp32.onnx")
    fp16_from_fp32(tmp_path / "fp32.onnx", tmp_path / "fp16.onnx")
    onnx.checker.check_model(str(tmp_path / "fp16.onnx"), full_check=True)
    return onnx.load(tmp_path / "fp16.onnx")


def layered(between: list[onnx.NodeProto], constants: dict[str, Any]) -> onnx.ModelProto:
    """Builds pixels → a layer with weights → nodes between → a layer with weights → age."""
    rng = np.random.default_rng(0)
    first, last = between[0].input[0], between[-1].output[0]
    nodes = [
        CAST,
        helper.make_node("Reshape", ["pixels", "row"], ["rows"], "to_rows"),
        helper.make_node("MatMul", ["rows", "w1"], [first], "layer1"),
        *between,
        helper.make_node("MatMul", [last, "w2"], ["column"], "layer2"),
        helper.make_node("Reshape", ["column", "flat"], ["age_years"], "to_years"),
    ]
    weights = {
        "row": np.array([-1, 48]),
        "flat": np.array([-1]),
        "w1": rng.normal(0, 0.1, (48, 16)).astype(np.float32),
        "w2": rng.normal(0, 0.1, (16, 1)).astype(np.float32),
    }
    return graph(nodes, {**weights, **constants})


def norm() -> list[onnx.NodeProto]:
    """Returns a root-mean-square norm as exporters write it."""
    return [
        helper.make_node("Pow", ["h", "two"], ["squares"], "n_pow"),
        helper.make_node("ReduceMean", ["squares", "last"], ["mean"], "n_mean"),
        helper.make_node("Add", ["mean", "eps"], ["safe"], "n_eps"),
        helper.make_node("Sqrt", ["safe"], ["rms"], "n_sqrt"),
        helper.make_node("Div", ["h", "rms"], ["normed"], "n_div"),
    ]


NORM = {"two": np.float32(2), "last": np.array([-1]), "eps": np.float32(1e-6)}


def test_nothing_inside_an_fp32_region_passes_through_fp16(tmp_path: Path) -> None:
    model = convert(tmp_path, layered(norm(), NORM))
    types = tensor_types(tmp_path / "fp16.onnx")
    assert {types[name] for name in ("squares", "mean", "safe", "rms", "normed")} == {"fp32"}
    casts = [n for n in model.graph.node if n.op_type == "Cast"]
    kinds = {n.output[0]: n.attribute[0].i for n in casts}
    for cast in casts:
        detour = kinds.get(cast.input[0]) == TensorProto.FLOAT16
        assert not (detour and kinds[cast.output[0]] == TensorProto.FLOAT)
    # 255² · 16 / 16 overflows FP16, but not in the FP32 region.
    faces = np.full((2, 4, 4, 3), 255, np.uint8)
    found = next(iter(ReferenceEvaluator(model).run(None, {"face": faces})))
    exact = ort.InferenceSession(str(tmp_path / "fp32.onnx")).run(None, {"face": faces})[0]
    np.testing.assert_allclose(found, exact, rtol=2e-2)


@pytest.mark.parametrize(("constant", "kind"), [(1e-9, "fp32"), (1e6, "fp32"), (2.0, "fp16")])
def test_nodes_with_constants_that_fp16_cannot_represent_stay_in_fp32(
    tmp_path: Path, constant: float, kind: str
) -> None:
    between = [helper.make_node("Add", ["h", "c"], ["shifted"], "shift")]
    convert(tmp_path, layered(between, {"c": np.float32(constant)}))
    assert tensor_types(tmp_path / "fp16.onnx")["shifted"] == kind


def test_nodes_before_the_first_and_after_the_last_layer_stay_in_fp32(tmp_path: Path) -> None:
    convert(tmp_path, layered([helper.make_node("Relu", ["h"], ["r"], "relu")], {}))
    types = tensor_types(tmp_path / "fp16.onnx")
    assert types["pixels"] == types["rows"] == types["age_years"] == "fp32"
    assert types["r"] == "fp16"


def test_inner_casts_and_constants_become_fp16(tmp_path: Path) -> None:
    between = [
        helper.make_node("Cast", ["h"], ["whole"], "down", to=TensorProto.INT32),
        helper.make_node("Cast", ["whole"], ["back"], "up", to=TensorProto.FLOAT),
        helper.make_node(
            "Constant",
            [],
            ["half_of_it"],
            "constant",
            value=helper.make_tensor("v", TensorProto.FLOAT, [], [0.5]),
        ),
        helper.make_node("Mul", ["back", "half_of_it"], ["scaled"], "scale"),
    ]
    model = convert(tmp_path, layered(between, {}))
    assert tensor_types(tmp_path / "fp16.onnx")["scaled"] == "fp16"
    faces = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    exact = ort.InferenceSession(str(tmp_path / "fp32.onnx")).run(None, {"face": faces})[0]
    found = ort.InferenceSession(model.SerializeToString()).run(None, {"face": faces})[0]
    np.testing.assert_allclose(found, exact, atol=0.5)


def test_subgraphs_are_rejected(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["pixels"], ["o"], "i")],
        "b",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)],
    )
    model = graph(
        [
            CAST,
            helper.make_node("If", ["c"], ["x"], "if", then_branch=branch, else_branch=branch),
            node("ReduceMean", ["x", "axes"], "age_years", keepdims=0),
        ],
        {"axes": np.array([1, 2, 3]), "c": np.array(True)},
    )
    onnx.save(model, tmp_path / "fp32.onnx")
    with pytest.raises(GraphError, match="has subgraphs"):
        fp16_from_fp32(tmp_path / "fp32.onnx", tmp_path / "fp16.onnx")


def test_a_wrong_file_fails_parity_in_years(built: Any) -> None:
    folder, _, images, reference = built
    wrong = {**reference, "age_years": reference["age_years"] + 0.002}
    with pytest.raises(ParityError, match=r"e\.fp32\.onnx differs from PyTorch by 0\.00"):
        check_parity(folder / "e.fp32.onnx", "fp32", images, wrong)


def test_swapped_probabilities_fail_parity(built: Any) -> None:
    folder, _, images, reference = built
    wrong = {**reference, "age_probs": reference["age_probs"][:, ::-1]}
    with pytest.raises(ParityError, match="in a probability"):
        check_parity(folder / "e.fp32.onnx", "fp32", images, wrong)


def test_the_first_layer_that_diverges_is_blamed(built: Any, tmp_path: Path) -> None:
    folder, signature, images, _ = built
    model = onnx.load(folder / "e.fp16.onnx")
    conv = [n for n in model.graph.node if n.op_type == "Conv"][5]
    for tensor in model.graph.initializer:
        if tensor.name == conv.input[1]:
            broken = onnx.numpy_helper.to_array(tensor) * np.float16(0.1)
            tensor.CopyFrom(onnx.numpy_helper.from_array(broken, tensor.name))
    onnx.save(model, tmp_path / "broken.onnx")
    judge = partial(compared, tolerance=TOLERANCES["fp16"], grid=None)
    fp32 = partial(OnnxLayers, folder / "e.fp32.onnx")
    sides = Sides(fp32, partial(OnnxLayers, tmp_path / "broken.onnx"), large=False)
    found = diagnose(Comparison("e", "fp16", signature.outputs, judge, ""), sides, images)
    assert found.verdict.blamed is not None
    assert found.verdict.blamed.layer.name == conv.output[0]


def test_overflow_is_found_although_the_cpu_provider_hides_it(tmp_path: Path) -> None:
    between = [
        helper.make_node("Mul", ["h", "large"], ["huge"], "grow"),
        helper.make_node("Mul", ["huge", "small"], ["tame"], "shrink"),
    ]
    model = layered(between, {"large": np.float32(3e4), "small": np.float32(1 / 3e4)})
    convert(tmp_path, model)
    rng = np.random.default_rng(0)
    images = {"face": rng.integers(200, 256, (sum(BATCHES), 4, 4, 3), np.uint8)}
    fp32 = tmp_path / "fp32.onnx"
    years = ort.InferenceSession(str(fp32)).run(None, images)[0]
    with pytest.raises(ParityError, match=r"half-precision tensor overflows, the first is 'huge'"):
        check_parity(tmp_path / "fp16.onnx", "fp16", images, {"age_years": years}, fp32)
