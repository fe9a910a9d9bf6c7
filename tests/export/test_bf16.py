"""bfloat16 variants: kept products run in FP32, and ages stay within the budget."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.parser import parse_model

from export.config.contract import Images
from export.errors import GraphError
from export.experts.cnn.network import cnn_expert
from export.faces.quantization import quantization_faces
from export.variants.bf16 import BUDGET, Bf16Graph, bf16_from_fp32
from runtime.backends.openvino_graph import (
    bfloat16_share,
    compile_graph,
    has_bfloat16,
    import_openvino,
)
from runtime.geometry import Geometry
from runtime.manifest import InputSpec
from tests.export.small import SIDE, round_ages, small_module, small_settings

pytestmark = pytest.mark.skipif(not has_bfloat16(), reason="this CPU has no bfloat16 products")

INPUTS = (InputSpec("face", SIDE, SIDE, Geometry()),)


@pytest.fixture(scope="module")
def faces() -> Images:
    return quantization_faces(INPUTS, 4)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "vgg16.fp32.onnx"
    cnn_expert(small_module("vgg16"), small_settings(), Geometry()).write_onnx(path)
    return path


@pytest.fixture(scope="module")
def graph(source: Path, faces: Images, tmp_path_factory: pytest.TempPathFactory) -> Bf16Graph:
    return Bf16Graph(source, tmp_path_factory.mktemp("graph") / "vgg16.bf16.xml", faces)


def test_rounded_ages_are_measured_before_rounding(
    graph: Bf16Graph, source: Path, faces: Images, tmp_path: Path
) -> None:
    path = round_ages(source, tmp_path / "rounded.onnx")
    rounded = Bf16Graph(path, tmp_path / "rounded.bf16.xml", faces)
    np.testing.assert_allclose(rounded.ages_years, graph.ages_years, rtol=0, atol=1e-4)
    assert (rounded.ages_years != np.rint(rounded.ages_years)).all()
    whole = rounded.compiled(()).create_infer_request()
    ages = whole.infer({name: pixels[:1] for name, pixels in faces.items()})["age_years"]
    assert ages.item() == round(ages.item())


def _errors_years(graph: Bf16Graph, kept: Collection[str]) -> NDArray[np.float64]:
    return np.abs(graph.ages(graph.compiled(kept), graph.faces) - graph.ages_years)


def _precisions(compiled: Any) -> dict[str, str]:
    """Precision of every executed product, by the names of its source nodes."""
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    return {
        fact["originalLayersNames"].value: fact["runtimePrecision"].value
        for fact in facts
        if fact["layerType"].value in ("Convolution", "FullyConnected")
    }


def _canceling_products(folder: Path, large: float) -> Path:
    """Writes x ↦ mean(x) + mean(large · x) - mean(large · x), in two layers."""
    model = parse_model(
        """<ir_version: 10, opset_import: ["" : 20]>
        tiny (uint8[N, 8] face) => (float[N] age_years)
        <float[8, 16] a, float[16, 1] b, int64[1] one = {1}> {
            x = Cast<to=1>(face) p = MatMul(x, a) q = MatMul(p, b)
            age_years = Squeeze(q, one) }"""
    )
    rng = np.random.default_rng(0)
    eye = np.concatenate([np.eye(8), large * rng.uniform(0.5, 1.0, (8, 8))], 1, dtype=np.float32)
    out = np.full((16, 1), 1 / 8, np.float32)
    out[8::2] *= -1  # the large ones almost cancel
    for name, array in (("a", eye), ("b", out)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, folder / "tiny.onnx")
    return folder / "tiny.onnx"


def test_costs_are_multiplications_plus_reading_the_weights(graph: Bf16Graph) -> None:
    first, *_, last = graph.products.values()
    assert first == 8 * 3 * 3 * 3 * (SIDE * SIDE + 40)  # 8 channels of 3 by 3 by RGB
    assert last == 101 * 512 * (1 + 40)


def test_with_all_products_kept_nothing_is_bfloat16(graph: Bf16Graph, faces: Images) -> None:
    assert bfloat16_share(graph.compiled(graph.products)) == 0.0
    np.testing.assert_allclose(_errors_years(graph, graph.products), 0.0, atol=1e-3)
    assert len(faces["face"]) == len(_errors_years(graph, graph.products))


def test_only_kept_products_run_in_fp32(graph: Bf16Graph) -> None:
    first, *_, last = graph.products
    kept = {first, last}
    for sources, precision in _precisions(graph.compiled(kept)).items():
        is_kept = any(name in sources.split(",") for name in kept)
        assert precision == ("f32" if is_kept else "bf16"), sources


def test_predictions_are_near_what_products_alone_do_in_bfloat16(
    graph: Bf16Graph, faces: Images
) -> None:
    predicted = graph.predicted()
    assert list(predicted) == list(graph.products)
    measured = {}
    for product in graph.products:
        moved = graph.ages_reducing([product], faces) - graph.ages_years
        alone = _errors_years(graph, [name for name in graph.products if name != product])
        np.testing.assert_array_equal(np.abs(moved), alone)
        measured[product] = np.square(moved).mean()
    assert 0.1 < sum(measured.values()) / sum(predicted.values()) < 10.0


def test_the_file_runs_as_it_was_measured(source: Path, faces: Images, tmp_path: Path) -> None:
    target = tmp_path / "vgg16.bf16.xml"
    variant = bf16_from_fp32(source, target, faces)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vgg16.bf16.bin", "vgg16.bf16.xml"]
    assert 0.0 < variant.share <= 1.0
    graph = Bf16Graph(source, tmp_path / "again.xml", faces)
    model = import_openvino().Core().read_model(str(target))
    assert model.inputs[0].get_partial_shape()[0].is_dynamic
    compiled = compile_graph(model, {"face": (1, SIDE, SIDE, 3)}, 1, bfloat16=True)
    assert bfloat16_share(compiled) == variant.share
    errors = _errors_years(graph, variant.kept)
    assert errors.mean() > 0.0
    assert BUDGET.allows(errors)
    assert graph.fits(variant.kept)


def test_a_graph_without_a_variant_near_enough_is_rejected(tmp_path: Path) -> None:
    source = _canceling_products(tmp_path, 300.0)
    faces = {"face": np.random.default_rng(1).integers(0, 256, (6, 8), np.uint8)}
    graph = Bf16Graph(source, tmp_path / "graph.xml", faces)
    assert _errors_years(graph, ()).max() > BUDGET.max_years
    with pytest.raises(GraphError, match=r"no bf16 variant within .* without --bf16"):
        bf16_from_fp32(source, tmp_path / "tiny.xml", faces)


def test_a_variant_that_does_not_reproduce_its_ages_is_rejected(
    source: Path, faces: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    true_ages = Bf16Graph.ages

    def unsteady(self: Bf16Graph, compiled: Any, images: Images) -> Any:
        return true_ages(self, compiled, images) + rng.normal(0.0, 1e-3, len(images["face"]))

    monkeypatch.setattr(Bf16Graph, "ages", unsteady)
    with pytest.raises(GraphError, match="none that reproduces its own"):
        bf16_from_fp32(source, tmp_path / "vgg16.xml", faces)
