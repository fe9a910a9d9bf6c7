"""The remedy of a diagnosis cures when it is copied, whatever the layers are called."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.build.differences import compared
from export.build.parity import TOLERANCES, check_parity
from export.diagnosis.compare import Sides, compare_layers
from export.diagnosis.layers import Layer, OnnxLayers, Values
from export.diagnosis.measures import LayerError
from export.diagnosis.report import Comparison, Diagnosis, diagnose, report_lines, summary_lines
from export.diagnosis.toml import toml_array
from export.diagnosis.verdict import Verdict
from export.errors import GraphError, ParityError
from export.variants.fp16 import fp16_from_fp32
from runtime.printing import MOST_LINE, printable_lines
from tests.export import dense_graphs as dense

COMPARISON = Comparison(
    subject="tiny fp16",
    precision="fp16",
    outputs=("age_years",),
    judge=partial(compared, tolerance=TOLERANCES["fp16"], grid=None),
    remedy="keep_fp32 = {layers}",
)


def half(fp32: Path, layers: Sequence[str] = ()) -> Path:
    target = fp32.with_name("half.onnx")
    fp16_from_fp32(fp32, target, layers=layers)
    return target


def diagnosed(fp32: Path, variant: Path) -> Diagnosis:
    sides = Sides(partial(OnnxLayers, fp32), partial(OnnxLayers, variant), large=False)
    return diagnose(COMPARISON, sides, dense.faces(20))


def magnifying(path: Path) -> Path:
    """Writes a network that adds a large number, and subtracts it two nodes later."""
    weights = dense.weights()
    weights[-1] *= 8  # decades
    model = onnx.load(dense.write(path, weights))
    nodes = list(model.graph.node)
    at = next(index for index, node in enumerate(nodes) if node.op_type == "Relu") + 1
    nodes[at:at] = [
        helper.make_node("Add", ["r0", "large"], ["up"], "up"),
        helper.make_node("Relu", ["up"], ["up2"], "up2"),
        helper.make_node("Sub", ["up2", "large"], ["down"], "down"),
    ]
    nodes[at + 3].input[0] = "down"
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.array(3e4, np.float32), "large"))
    onnx.save(model, path)
    return path


def renamed(path: Path, names: dict[str, str]) -> Path:
    model = onnx.load(path)
    for node in model.graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(name, name) for name in tensors]
    onnx.save(model, path)
    return path


def test_names_are_read_back_from_toml_as_they_are() -> None:
    odd = [
        "a",
        'it\'s "c"',
        "c\nd",
        "a\\b",
        "größe/層",
        "\u202e\x7f\x00\U000e0001",
        "'",
        "",
        "L" * 400,
    ]
    assert tomllib.loads(f"k = {toml_array(odd)}")["k"] == odd
    assert toml_array(["c", "r"]) == "['c', 'r']"
    many = [f"/model/blocks.{index}/attention/Conv_output_0" for index in range(300)]
    text = printable_lines(f"k = {toml_array(many)}")
    assert tomllib.loads(text)["k"] == many
    assert max(map(len, text.split("\n"))) < MOST_LINE


def test_the_remedy_of_oddly_named_layers_cures(tmp_path: Path) -> None:
    fp32 = renamed(
        dense.write(tmp_path / "fp32.onnx", dense.overflowing()),
        {"p2": 'it\'s "p"\n2', "r2": "b" * 90, "r0": "w1.fp16", "p1": "r0.fp16"},
    )
    found = diagnosed(fp32, half(fp32))
    line = "\n".join(summary_lines(found)).partition("keep_fp32 = ")[2]
    names = tomllib.loads(f"k = {line}")["k"]
    assert names == ['it\'s "p"\n2', "b" * 90, "p3"]
    assert any("b" * 90 in row for row in report_lines(found, every=True))
    assert diagnosed(fp32, half(fp32, names)).problem == ""


def test_layers_whose_rounding_is_magnified_are_kept_too(tmp_path: Path) -> None:
    fp32 = magnifying(tmp_path / "fp32.onnx")
    found = diagnosed(fp32, half(fp32))
    assert found.verdict.blamed is not None
    assert found.verdict.blamed.layer.name == "down"
    assert found.kept == ["up", "up2", "down"]
    assert "It magnifies the rounding of layers before it" in "\n".join(summary_lines(found))
    assert diagnosed(fp32, half(fp32, ["down"])).problem
    assert diagnosed(fp32, half(fp32, found.kept)).problem == ""


def test_rounding_that_the_cpu_provider_hides_is_found_by_the_build(tmp_path: Path) -> None:
    fp32 = magnifying(tmp_path / "fp32.onnx")
    images = dense.faces(20)
    years = ort.InferenceSession(str(fp32)).run(None, images)[0]
    with pytest.raises(ParityError, match="rounded to half precision as on a GPU, differs"):
        check_parity(half(fp32), "fp16", images, {"age_years": years}, fp32)
    cured = half(fp32, ["up", "up2", "down"])
    check_parity(cured, "fp16", images, {"age_years": years}, fp32)


def test_names_of_the_build_are_not_those_of_a_layer(tmp_path: Path) -> None:
    fp32 = dense.write(tmp_path / "fp32.onnx", dense.weights())
    renamed(fp32, {"r0": "p0.sizes", "p1": "p0.largest"})
    images = dense.faces(20)
    years = ort.InferenceSession(str(fp32)).run(None, images)[0]
    check_parity(half(fp32), "fp16", images, {"age_years": years}, fp32)


class Fixed:
    """A graph with given values."""

    def __init__(self, **values: NDArray[np.float32]) -> None:
        self._values = values
        self.names = frozenset(values)

    def values(self, names: Sequence[str]) -> Values:
        return {name: self._values[name] for name in names}


def test_a_layer_of_another_size_is_looked_through(tmp_path: Path) -> None:
    fp32, faces = dense.write(tmp_path / "fp32.onnx", dense.weights()), dense.faces()
    exact = OnnxLayers(fp32, faces)
    values = {name: np.asarray(array) for name, array in exact.values(["p1", "r1", "p2"]).items()}
    both = compare_layers(exact, Fixed(**{**values, "r1": values["r1"][:1]}), [])
    assert [error.layer.name for error in both.errors] == ["p1", "p2"]
    assert both.errors[1].layer.sources == ("p1",)
    assert Verdict(both.errors, "fp16", wrong=True).blamed is None


def test_what_overflows_as_it_is_read_is_a_culprit() -> None:
    """A sum that stays in FP32 and is too large for the layer that reads it."""
    chain = [
        LayerError(Layer(name, "Op", (1,), sources), dtype, *(error,) * 3, largest, lost, 0)
        for name, dtype, sources, error, largest, lost in (
            ("a", "float16", (), np.inf, 1e5, 1),
            ("sum", "float32", ("a",), np.inf, 1e9, 1),
            ("b", "float16", ("sum",), np.inf, 1.0, 1),
            ("c", "float16", ("b",), np.inf, 1.0, 1),
        )
    ]
    culprits = Verdict(chain, "fp16", wrong=True).culprits
    assert [error.layer.name for error in culprits] == ["a", "b"]


def test_a_graph_that_cannot_be_shown_is_an_error_of_the_export(tmp_path: Path) -> None:
    fp32 = dense.write(tmp_path / "fp32.onnx", dense.weights())
    layers = OnnxLayers(fp32, {"face": np.zeros((3, 7), np.uint8)})
    with pytest.raises(GraphError, match=r"cannot show the layers of fp32\.onnx"):
        layers.values(["age_years"])


def test_the_mean_of_the_faces_that_differ_most_is_not_limited(tmp_path: Path) -> None:
    fp32 = dense.write(tmp_path / "fp32.onnx", dense.weights())
    sides = Sides(partial(OnnxLayers, fp32), partial(OnnxLayers, half(fp32)), large=False)
    loose, strict = COMPARISON.judge, replace(TOLERANCES["fp16"], mean_years=0.0)
    comparison = replace(
        COMPARISON, judge=partial(compared, tolerance=strict, grid=None), judge_few=loose
    )
    assert diagnose(comparison, sides, dense.faces(20)).problem
    assert diagnose(comparison, sides, dense.faces(20), memory_bytes=1).problem == ""
