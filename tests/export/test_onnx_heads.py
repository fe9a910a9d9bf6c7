"""Heads of given ONNX files, against PyTorch and NumPy: columns, classes, thresholds, pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.config.settings import AgeHead
from export.errors import GraphError
from export.experts.onnx_file.wrapper import external_expert
from runtime.geometry import Geometry
from tests.export import tiny_onnx
from tests.export.tiny_onnx import (
    GRID,
    UNIT,
    YEARS,
    Tiny,
    ages,
    body,
    image,
    model,
    save,
    settings,
    sigmoid,
    softmax,
)


@pytest.fixture(scope="module")
def faces() -> NDArray[np.uint8]:
    return tiny_onnx.faces()


@pytest.mark.parametrize("column", [0, 2])
def test_a_column_of_a_vector(tmp_path: Path, faces: NDArray[np.uint8], column: int) -> None:
    tiny = Tiny(3)
    given = settings(head=UNIT, columns=(column, column))
    found = ages(tmp_path, model(tiny.tensors(), body()), given)
    np.testing.assert_allclose(found, tiny(image(faces))[:, column] * 30 + 40, atol=YEARS)


def test_classes_within_a_vector(tmp_path: Path, faces: NDArray[np.uint8]) -> None:
    tiny = Tiny(8, scale=4)
    given = settings("expectation", head={"age_grid": GRID}, columns=(2, 6))
    found = ages(tmp_path, model(tiny.tensors(), body()), given)
    np.testing.assert_allclose(found, softmax(tiny(image(faces))[:, 2:7]) @ GRID, atol=YEARS)


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("rounded", [False, True])
def test_classes_in_any_order(
    tmp_path: Path, faces: NDArray[np.uint8], probabilities: bool, rounded: bool
) -> None:
    grid = tuple(float(text) for text in sorted(str(age) for age in range(1, 101)))
    assert grid[:4] == (1.0, 10.0, 100.0, 11.0)
    tiny = Tiny(100, scale=4)
    last = [helper.make_node("Softmax", ["logits"], ["out"], "softmax", axis=1)]
    given = settings(
        "expectation",
        head={"age_grid": grid, "round_years": rounded},
        probabilities=probabilities,
    )
    found = ages(tmp_path, model(tiny.tensors(), body(last if probabilities else [])), given)
    exact = softmax(tiny(image(faces))) @ np.array(grid)
    np.testing.assert_allclose(found, exact, atol=0.5 + YEARS if rounded else YEARS)
    path = tmp_path / "wrapped.onnx"
    shares = ort.InferenceSession(str(path)).run(["age_probs"], {"face": faces})[0]
    columns = softmax(tiny(image(faces)))[:, np.argsort(grid)]
    np.testing.assert_allclose(shares, columns, atol=1e-5)
    assert external_expert(save(model(tiny.tensors(), body()), tmp_path), given, Geometry())


@pytest.mark.parametrize("probabilities", [False, True])
def test_ordinal_heads(tmp_path: Path, faces: NDArray[np.uint8], probabilities: bool) -> None:
    tiny = Tiny(100, scale=3)
    last = [helper.make_node("Sigmoid", ["logits"], ["out"], "sigmoid")]
    given = settings("ordinal", first_age=1.0, probabilities=probabilities)
    found = ages(tmp_path, model(tiny.tensors(), body(last if probabilities else [])), given)
    wanted = 1.0 + sigmoid(tiny(image(faces))).sum(axis=1)
    np.testing.assert_allclose(found, wanted, atol=YEARS)


def test_an_ordinal_head_with_an_age_per_threshold(
    tmp_path: Path, faces: NDArray[np.uint8]
) -> None:
    tiny = Tiny(4, scale=3)
    given = settings("ordinal", head={"age_grid": (5.0, 10.0, 15.0, 20.0)}, first_age=None)
    found = ages(tmp_path, model(tiny.tensors(), body()), given)
    wanted = 5.0 + 5.0 * sigmoid(tiny(image(faces))).sum(axis=1)
    np.testing.assert_allclose(found, wanted, atol=YEARS)
    with pytest.raises(GraphError, match=r"4 thresholds; an ordinal head of 4 ages has 3"):
        ages(
            tmp_path,
            model(tiny.tensors(), body()),
            settings("ordinal", head={"age_grid": (0.0, 1.0, 5.0, 9.0)}, first_age=None),
        )


def test_an_ordinal_head_over_age_groups(tmp_path: Path, faces: NDArray[np.uint8]) -> None:
    tiny = Tiny(4, scale=3)
    given = settings("ordinal", head={"age_grid": GRID}, first_age=None)
    found = ages(tmp_path, model(tiny.tensors(), body()), given)
    wanted = sigmoid(tiny(image(faces))) @ np.diff(GRID)
    np.testing.assert_allclose(found, wanted, atol=YEARS)


@pytest.mark.parametrize("layout", ["flat", "within a vector", "(K, 2)", "(2, K)"])
@pytest.mark.parametrize("probabilities", [False, True])
def test_pairs(tmp_path: Path, faces: NDArray[np.uint8], layout: str, probabilities: bool) -> None:
    """As insightface's first gender and age network: 2 values of gender, then 100 pairs."""
    before = 2 if layout == "within a vector" else 0
    tiny = Tiny(before + 200, scale=3)
    logits = tiny(image(faces))[:, before:]
    pairs = (
        logits.reshape(-1, 2, 100).swapaxes(1, 2) if "(2" in layout else logits.reshape(-1, 100, 2)
    )
    nodes, axis = [], 1
    extra = [
        numpy_helper.from_array(np.array([-1, 2, 100] if "(2" in layout else [-1, 100, 2]), "s")
    ]
    if layout.startswith("("):
        axis = 1 if "(2" in layout else 2
        nodes = [helper.make_node("Reshape", ["logits", "s"], ["out"], "view")]
    if probabilities and layout.startswith("("):
        nodes[0].output[0] = "view"
        nodes.append(helper.make_node("Softmax", ["view"], ["out"], "softmax", axis=axis))
    elif probabilities:
        pytest.skip("the same nodes as logits")
    given = settings(
        "ordinal",
        pairs=True,
        probabilities=probabilities,
        columns=(2, 201) if before else None,
    )
    found = ages(tmp_path, model([*tiny.tensors(), *extra], body(nodes)), given)
    wanted = softmax(pairs, axis=2)[:, :, 1].sum(axis=1)
    np.testing.assert_allclose(found, wanted, atol=YEARS)


def test_a_head_with_any_order_has_the_same_grid_in_pytorch() -> None:
    import torch

    from export.graph.preprocessing import Readout

    head = AgeHead(age_grid=(10.0, 100.0, 1.0))
    readout = Readout(head)
    years, shares = readout(torch.tensor([[1.0, 2.0, 3.0]]))
    expected = softmax(np.array([[1.0, 2.0, 3.0]]))
    assert readout.age_grid == (1.0, 10.0, 100.0)
    np.testing.assert_allclose(shares.numpy(), expected[:, [2, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(years.numpy(), expected @ head.age_grid, atol=1e-5)
