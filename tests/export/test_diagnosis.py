"""The first layer that diverges: planted faults are named, rounding and harmless ones are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from export.build.differences import compared
from export.build.parity import TOLERANCES
from export.config.contract import Images
from export.diagnosis.compare import Sides, compare_layers
from export.diagnosis.layers import Layer, LayerValues, OnnxLayers, Values
from export.diagnosis.measures import LayerError, measured
from export.diagnosis.openvino import OpenVinoLayers
from export.diagnosis.report import Comparison, Diagnosis, diagnose, report_lines, summary_lines
from export.diagnosis.verdict import Verdict
from export.errors import GraphError
from export.variants.bf16 import bf16_from_fp32
from export.variants.fp16 import fp16_from_fp32, tensor_types
from runtime.backends.openvino_graph import has_bfloat16
from runtime.errors import BackendError
from tests.export import dense_graphs as dense

COMPARISON = Comparison(
    subject="tiny fp16",
    precision="fp16",
    outputs=("age_years",),
    judge=partial(compared, tolerance=TOLERANCES["fp16"], grid=None),
    remedy="Remedy: keep_fp32 = {layers}.",
)


def half(fp32: Path, layers: Sequence[str] = ()) -> Path:
    target = fp32.with_name("half.onnx")
    fp16_from_fp32(fp32, target, layers=layers)
    return target


def diagnosed(fp32: Path, variant: Path, comparison: Comparison = COMPARISON) -> Diagnosis:
    return diagnose(comparison, sides(fp32, partial(OnnxLayers, variant)), dense.faces())


def sides(fp32: Path, variant: Callable[[Images], LayerValues]) -> Sides:
    return Sides(partial(OnnxLayers, fp32), variant, large=False)


def test_rounding_is_not_blamed(tmp_path: Path) -> None:
    fp32 = dense.write(tmp_path / "fp32.onnx", dense.weights())
    found = diagnosed(fp32, half(fp32))
    assert found.verdict.blamed is None
    assert found.problem == ""
    errors = {error.layer.name: error for error in found.verdict.errors}
    assert list(errors)[:3] == ["r", "p0", "r0"]
    assert errors["p1"].dtype == "float16"
    assert errors["p1"].layer == Layer("p1", "MatMul", (dense.FACES, dense.WIDTH), ("r0",))
    assert 0.0 < errors["p1"].relative_error < 2.0**-10
    assert "no layer is to blame" in summary_lines(found)[1]


def test_an_overflow_is_named_with_the_layers_that_have_to_stay_in_fp32(tmp_path: Path) -> None:
    fp32 = dense.write(tmp_path / "fp32.onnx", dense.overflowing())
    found = diagnosed(fp32, half(fp32))
    assert found.verdict.blamed is not None
    assert found.verdict.blamed.layer.name == f"p{dense.OVERFLOWING}"
    assert found.repaired_years is not None
    assert found.repaired_years < 0.5
    names = [error.layer.name for error in found.verdict.culprits]
    assert names == ["p2", "r2", "p3"]
    text = "\n".join(report_lines(found))
    assert "First layer that diverges: 'p2' (MatMul, 3x16, float16) loses 48 values" in text
    assert "FP16 ends at 65504" in text
    assert "keep_fp32 = ['p2', 'r2', 'p3']" in text
    cured = diagnosed(fp32, half(fp32, names))
    assert cured.problem == ""
    assert {tensor_types(tmp_path / "half.onnx")[name] for name in names} == {"fp32"}


def test_a_wrong_weight_is_named(tmp_path: Path) -> None:
    fp32 = dense.write(tmp_path / "fp32.onnx", dense.weights())
    variant = half(fp32)
    dense.change_weight(variant, "w3.fp16", 1.2)
    found = diagnosed(fp32, variant)
    assert found.verdict.blamed is not None
    assert found.verdict.blamed.layer.name == "p3"
    assert found.parity.max_years > 1.0
    assert found.repaired_years is not None
    assert found.repaired_years < 0.5
    assert found.verdict.jumps(4)[0].layer.name == "p3"
    assert "With this layer exact" in "\n".join(summary_lines(found))


def test_a_wrong_weight_without_effect_is_shown_and_not_blamed(tmp_path: Path) -> None:
    layers = dense.weights()
    layers[3][0] = 0.0  # nothing reads the first channel of the layer before
    fp32 = dense.write(tmp_path / "fp32.onnx", layers)
    variant = half(fp32)
    factor = np.ones(dense.WIDTH)
    factor[0] = 3.0
    dense.change_weight(variant, "w2.fp16", factor)
    found = diagnosed(fp32, variant)
    assert found.verdict.blamed is None
    assert found.verdict.jumps(1)[0].layer.name == "p2"


def test_differences_that_only_accumulate_blame_no_layer(tmp_path: Path) -> None:
    fp32 = dense.write(tmp_path / "fp32.onnx", dense.weights())
    variant = half(fp32)
    for index in range(1, dense.LAYERS):
        dense.change_weight(variant, f"w{index}.fp16", 1.006)
    found = diagnosed(fp32, variant)
    assert found.problem
    assert found.verdict.blamed is None
    assert "No single layer stands out" in "\n".join(summary_lines(found))


def test_half_precision_is_rounded_as_on_a_gpu(tmp_path: Path) -> None:
    """ONNX Runtime's CPU provider hides the overflow that a GPU has."""
    fp32 = dense.write(tmp_path / "fp32.onnx", dense.overflowing())
    variant, faces = half(fp32), dense.faces()
    (hidden,) = ort.InferenceSession(variant, providers=["CPUExecutionProvider"]).run(None, faces)
    assert np.isfinite(hidden).all()
    values = OnnxLayers(variant, faces).values(["r0", "p1", "age_years"])
    assert not np.isfinite(values["age_years"]).any()
    weight = dense.overflowing()[1].astype(np.float16).astype(np.float32)
    exact = values["r0"].astype(np.float32) @ weight
    np.testing.assert_allclose(values["p1"], exact.astype(np.float16), rtol=2.0**-10)
    assert values["p1"].dtype == np.float16


class Watched:
    """Records which layers are asked for together."""

    def __init__(self, layers: LayerValues) -> None:
        self._layers = layers
        self.names = layers.names
        self.asked: list[list[str]] = []

    def values(self, names: Sequence[str]) -> Values:
        self.asked.append(list(names))
        return self._layers.values(names)


def test_groups_bound_the_memory_and_change_nothing(tmp_path: Path) -> None:
    fp32 = dense.write(tmp_path / "fp32.onnx", dense.weights())
    faces = dense.faces()
    exact, variant = OnnxLayers(fp32, faces), Watched(OnnxLayers(half(fp32), faces))
    whole = compare_layers(exact, variant, ["age_years"])
    assert len(variant.asked) == 1
    two_layers = 2 * dense.FACES * dense.WIDTH * 8
    done: list[tuple[int, int]] = []
    grouped = compare_layers(
        exact, variant, ["age_years"], two_layers, lambda *numbers: done.append(numbers)
    )
    assert max(map(len, variant.asked[1:-1])) == 2
    assert grouped.errors == whole.errors
    np.testing.assert_array_equal(grouped.found["age_years"], whole.found["age_years"])
    total = len(whole.errors)
    assert done == sorted(done)
    assert (done[0], done[-1]) == ((0, total), (total, total))


def test_where_memory_is_short_the_faces_that_differ_most_are_compared(tmp_path: Path) -> None:
    fp32 = dense.write(tmp_path / "fp32.onnx", dense.overflowing())
    faces = dense.faces(9)
    faces["face"][[0, 1, 2, 4, 6, 7]] //= 100  # too dark to overflow
    both = sides(fp32, partial(OnnxLayers, half(fp32)))
    chosen = both.faces(faces, memory_bytes=1)
    np.testing.assert_array_equal(chosen["face"], faces["face"][[3, 5, 8]])
    assert both.faces(faces, memory_bytes=1 << 30) is faces
    one = replace(both, large=True).faces(faces, memory_bytes=1 << 30)
    np.testing.assert_array_equal(one["face"], faces["face"][:1])


def test_weights_in_an_external_data_file_change_nothing(tmp_path: Path) -> None:
    fp32 = dense.write(tmp_path / "fp32.onnx", dense.overflowing())
    variant, faces = half(fp32), dense.faces()
    outside = tmp_path / "outside.onnx"
    location = "outside.onnx.data"
    onnx.save(onnx.load(variant), outside, save_as_external_data=True, size_threshold=100,
              location=location)  # fmt: skip
    assert (tmp_path / location).stat().st_size > 1000
    names = sorted(OnnxLayers(variant, faces).names)
    inside, found = (OnnxLayers(path, faces).values(names) for path in (variant, outside))
    for name in names:
        np.testing.assert_array_equal(found[name], inside[name])


def test_graphs_without_a_common_layer_are_an_error(tmp_path: Path) -> None:
    fp32 = dense.write(tmp_path / "fp32.onnx", dense.weights())
    other = onnx.load(fp32)
    for node in other.graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                names[position] = f"other/{name}" if name[0] in "pra" else name
    other.graph.output[0].name = "other/age_years"
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(GraphError, match="no layer of the same name"):
        diagnosed(fp32, tmp_path / "other.onnx")


def errors(relative: Sequence[float], sources: Sequence[Sequence[int]]) -> list[LayerError]:
    return [
        LayerError(
            Layer(str(index), "Op", (1,), tuple(map(str, before))),
            "float16",
            *(value,) * 3,
            1,
            0,
            0,
        )
        for index, (value, before) in enumerate(zip(relative, sources, strict=True))
    ]


def test_an_error_that_does_not_last_is_passed_over() -> None:
    """A difference of nearly equal numbers is far off, and its sum with a large one is not."""
    chain = errors([0.001, 0.5, 0.001, 0.3, 0.3], [[], [0], [0, 1], [2], [3]])
    verdict = Verdict(chain, "fp16", wrong=True)
    assert verdict.blamed is chain[3]
    assert Verdict(chain, "fp16", wrong=False).blamed is None


def test_what_grows_everywhere_is_the_usual() -> None:
    grows = errors([0.001, 0.01, 0.1, 1.0, 10.0], [[], [0], [1], [2], [3]])
    verdict = Verdict(grows, "fp16", wrong=True)
    assert verdict.usual == pytest.approx(10.0)
    assert verdict.blamed is None


def test_a_measure_counts_lost_and_saturated_values() -> None:
    layer = Layer("x", "Op", (4,), ())
    exact = np.array([3.0, 4.0, np.inf, 1e6], np.float32)
    found = np.array([3.0, 4.5, np.inf, np.inf], np.float16)
    lost = measured(layer, found, exact)
    assert (lost.lost, lost.largest, lost.relative_error) == (1, 1e6, np.inf)
    kept = measured(layer, np.array([3.0, 4.5, np.inf, 65504], np.float16), exact)
    assert (kept.lost, kept.saturated) == (0, 1)
    fine = measured(layer, found[:2], exact[:2])
    assert fine.relative_error == pytest.approx(0.1)
    assert fine.snr_db == pytest.approx(20.0)
    assert (fine.max_error, fine.mean_error) == (0.5, 0.25)


def test_a_variant_for_openvino_is_compared_by_the_same_names(tmp_path: Path) -> None:
    layers = dense.weights()
    fp32 = dense.write(tmp_path / "fp32.onnx", layers)
    bfloat16 = has_bfloat16()
    path, precision = (tmp_path / "v.xml", "bf16") if bfloat16 else (fp32, "fp32")
    if bfloat16:
        bf16_from_fp32(fp32, path, dense.faces(6))
    variant = partial(OpenVinoLayers, path, precision=precision)
    comparison = replace(COMPARISON, precision=precision)
    found = diagnose(comparison, sides(fp32, variant), dense.faces())
    names = [error.layer.name for error in found.verdict.errors]
    assert {"p1", "r1", "p2", "age_years"} <= set(names)
    assert found.verdict.blamed is None
    assert max(error.relative_error for error in found.verdict.errors) < 0.02
    layers[2] *= 2.0
    other = dense.write(tmp_path / "w.onnx", layers)
    wrong = diagnose(comparison, sides(other, variant), dense.faces())
    assert wrong.verdict.blamed is not None
    assert wrong.verdict.blamed.layer.name == "p2"
    assert wrong.repaired_years is None
    if not bfloat16:
        with pytest.raises(BackendError, match="this CPU has no bfloat16"):
            OpenVinoLayers(path, dense.faces(), "bf16")
