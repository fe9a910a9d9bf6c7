"""bfloat16: what stays in FP32 is FP32, and ages stay what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.parser import parse_model

from export.config.contract import Images
from export.errors import GraphError
from export.experts.cnn import cnn_expert
from export.faces.quantization import quantization_faces
from export.variants import bf16
from export.variants.bf16 import WITHIN_YEARS, Mixer, bf16_from_fp32
from runtime.backends.openvino_graph import (
    bfloat16_share,
    compile_graph,
    has_bfloat16,
    import_openvino,
)
from runtime.geometry import Geometry
from runtime.manifest import InputSpec
from tests.export.small import SIDE, small_module, small_settings

pytestmark = pytest.mark.skipif(not has_bfloat16(), reason="this CPU has no bfloat16 products")

INPUTS = (InputSpec("face", SIDE, SIDE, Geometry()),)


@pytest.fixture(scope="module")
def faces() -> Images:
    return quantization_faces(INPUTS, 4)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("single") / "vgg16.fp32.onnx"
    cnn_expert(small_module("vgg16"), small_settings(), Geometry()).write_onnx(path)
    return path


@pytest.fixture(scope="module")
def mixer(single: Path, faces: Images, tmp_path_factory: pytest.TempPathFactory) -> Mixer:
    return Mixer(single, tmp_path_factory.mktemp("mixer") / "vgg16.bf16.xml", faces)


def _kinds(compiled: Any) -> dict[str, str]:
    """Precision of every product as it runs, by the names of what it was made from."""
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    return {
        fact["originalLayersNames"].value: fact["runtimePrecision"].value
        for fact in facts
        if fact["layerType"].value in ("Convolution", "FullyConnected")
    }


def _products_that_cancel(folder: Path, large: float) -> Path:
    """x ↦ mean(x) + mean(large · x) - mean(large · x), in two layers."""
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
    out[8::2] *= -1  # the large ones cancel but for a little
    for name, array in (("a", eye), ("b", out)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, folder / "tiny.onnx")
    return folder / "tiny.onnx"


def test_costs_are_multiplications_and_the_reading_of_weights(mixer: Mixer) -> None:
    first, *_, last = mixer.products.values()
    assert first == 8 * 3 * 3 * 3 * (SIDE * SIDE + 40)  # 8 channels of 3 by 3 by RGB
    assert last == 101 * 512 * (1 + 40)


def test_with_all_products_kept_nothing_is_bfloat16(mixer: Mixer, faces: Images) -> None:
    assert bfloat16_share(mixer.compiled(mixer.products)) == 0.0
    np.testing.assert_allclose(mixer.errors_years(mixer.products), 0.0, atol=1e-3)
    assert len(faces["face"]) == len(mixer.errors_years(mixer.products))


def test_a_kept_product_runs_in_fp32_and_the_others_do_not(mixer: Mixer) -> None:
    first, *_, last = mixer.products
    kept = {first, last}
    for made_from, precision in _kinds(mixer.compiled(kept)).items():
        is_kept = any(name in made_from.split(",") for name in kept)
        assert precision == ("f32" if is_kept else "bf16"), made_from


def test_first_stays_what_moves_ages_most_for_what_it_costs(mixer: Mixer, faces: Images) -> None:
    some = np.linspace(0, len(faces["face"]) - 1, 16).astype(int)
    worth = {}
    for product, cost in mixer.products.items():
        alone = mixer.errors_years([name for name in mixer.products if name != product])
        worth[product] = np.square(alone[some]).sum() / cost
    assert mixer.by_worth() == sorted(worth, key=lambda name: -worth[name])


class Made:
    """A mixer whose forms are off by `errors`, by how many products they keep."""

    def __init__(self, *errors: tuple[float, float]) -> None:
        self._errors = errors

    def errors_years(self, kept: tuple[str, ...]) -> NDArray[np.float64]:
        return np.array(self._errors[len(kept)])


@pytest.mark.parametrize(
    ("errors", "kept"),
    [
        ([(0.1, 0.1), (0.0, 0.0), (0.0, 0.0)], ()),
        ([(0.3, 0.3), (0.1, 0.1), (0.0, 0.0)], ("a",)),  # 0.3 on average is too much
        ([(0.0, 0.39), (0.0, 0.0), (0.0, 0.0)], ()),
        ([(0.3, 0.3), (0.3, 0.3), (0.3, 0.3)], None),
        ([(np.nan, np.nan), (0.1, 0.1), (0.0, 0.0)], ("a",)),  # contradicts itself
    ],
)
def test_as_few_stay_as_it_takes(
    errors: list[tuple[float, float]], kept: tuple[str, ...] | None
) -> None:
    mixer: Any = Made(*errors, (0.0, 0.0))
    assert bf16._fewest(mixer, ["a", "b"]) == kept


def test_the_file_runs_as_it_was_measured(single: Path, faces: Images, tmp_path: Path) -> None:
    target = tmp_path / "vgg16.bf16.xml"
    form = bf16_from_fp32(single, target, faces)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vgg16.bf16.bin", "vgg16.bf16.xml"]
    assert 0.0 < form.share <= 1.0
    mixer = Mixer(single, tmp_path / "again.xml", faces)
    model = import_openvino().Core().read_model(str(target))
    assert model.inputs[0].get_partial_shape()[0].is_dynamic
    compiled = compile_graph(model, {"face": (1, SIDE, SIDE, 3)}, 1, bfloat16=True)
    assert bfloat16_share(compiled) == form.share
    errors = mixer.errors_years(form.kept)
    assert 0.0 < errors.mean() <= WITHIN_YEARS[0]
    assert errors.max() <= WITHIN_YEARS[1]


def test_what_ruins_ages_stays_in_fp32(tmp_path: Path) -> None:
    source = _products_that_cancel(tmp_path, 300.0)
    faces = {"face": np.random.default_rng(1).integers(0, 256, (6, 8), np.uint8)}
    mixer = Mixer(source, tmp_path / "mixer.xml", faces)
    assert mixer.errors_years(()).max() > WITHIN_YEARS[1]
    with pytest.raises(GraphError, match=r"no bf16 form within .* without --bf16"):
        bf16_from_fp32(source, tmp_path / "tiny.xml", faces)


def test_a_form_that_contradicts_itself_is_refused(
    single: Path, faces: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    true_ages = Mixer.ages

    def unsteady(self: Mixer, compiled: Any, images: Images) -> Any:
        return true_ages(self, compiled, images) + rng.normal(0.0, 1e-3, len(images["face"]))

    monkeypatch.setattr(bf16.Mixer, "ages", unsteady)
    with pytest.raises(GraphError, match="none that says the same every time"):
        bf16_from_fp32(single, tmp_path / "vgg16.xml", faces)


def test_weights_beside_the_graph_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    path.write_bytes(b"")
    path.with_name("large.onnx.data").write_bytes(b"")
    with pytest.raises(GraphError, match=r"weights of large\.onnx lie beside it"):
        bf16_from_fp32(path, tmp_path / "large.xml", {})
