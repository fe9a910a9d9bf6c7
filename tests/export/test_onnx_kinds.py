"""Given ONNX files of many kinds, against PyTorch and NumPy: heads, types and forms of graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from export.build.parity import check_parity
from export.config.settings import AgeHead, Normalization
from export.errors import GraphError
from export.experts.onnx_file.settings import OnnxSettings
from export.experts.onnx_file.wrapper import external_expert
from export.faces.verification import verification_images
from export.graph.checks import check_graph
from runtime.geometry import Geometry
from tests.export.tiny_onnx import (
    SIDE,
    Tiny,
    body,
    image,
    model,
    save,
    settings,
    sigmoid,
    softmax,
)

YEARS = 0.002
"""Tolerance: FP32 arithmetic of two libraries."""
GRID = (0.0, 10.0, 30.0, 60.0, 90.0)


def ages(folder: Path, written: onnx.ModelProto, given: OnnxSettings) -> NDArray[Any]:
    """Wraps a file, verifies graph and parity as a build does, and predicts in one batch."""
    expert = external_expert(save(written, folder), given, Geometry())
    path = folder / "wrapped.onnx"
    expert.write_onnx(path)
    check_graph(path, expert.signature, tensorrt=False)
    images = verification_images(expert.signature.inputs)
    grid = expert.signature.age_grid if given.head.round_years else None
    precision = "fp16" if expert.signature.half_precision else "fp32"
    check_parity(path, precision, images, expert.reference(images), age_grid=grid)
    found = ort.InferenceSession(str(path)).run(["age_years"], dict(images))[0]
    return np.asarray(found)


@pytest.fixture(scope="module")
def faces() -> NDArray[np.uint8]:
    from runtime.manifest import InputSpec

    return verification_images((InputSpec("face", SIDE, SIDE, Geometry()),))["face"]


UNIT = {"years_per_unit": 30.0, "years_offset": 40.0}


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


KINDS = {"half": np.float16, "double": np.float64}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", ["regression", "expectation"])
def test_outputs_of_other_types(
    tmp_path: Path, faces: NDArray[np.uint8], kind: str, head: str
) -> None:
    number = helper.np_dtype_to_tensor_dtype(np.dtype(KINDS[kind]))
    tiny = Tiny(1 if head == "regression" else 5)
    last = [helper.make_node("Cast", ["logits"], ["out"], "cast", to=number)]
    given = settings(head, head=UNIT if head == "regression" else {"age_grid": GRID})
    found = ages(tmp_path, model(tiny.tensors(), body(last), output_kind=number), given)
    logits = tiny(image(faces)).astype(KINDS[kind]).astype(np.float64)
    wanted = logits[:, 0] * 30 + 40 if head == "regression" else softmax(logits) @ GRID
    np.testing.assert_allclose(found, wanted, atol=0.05 if kind == "half" else YEARS)


def test_an_output_of_whole_numbers(tmp_path: Path, faces: NDArray[np.uint8]) -> None:
    tiny = Tiny(101, scale=4)
    last = [helper.make_node("ArgMax", ["logits"], ["out"], "argmax", axis=1)]
    written = model(tiny.tensors(), body(last), output_kind=TensorProto.INT64)
    found = ages(tmp_path, written, settings())
    np.testing.assert_array_equal(found, tiny(image(faces)).argmax(axis=1))


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_float_inputs_of_other_types(
    tmp_path: Path, faces: NDArray[np.uint8], kind: type[np.floating[Any]]
) -> None:
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    tiny = Tiny(1)
    if kind == np.float16:
        written = model(tiny.tensors(kind), body(), kind=number, output_kind=number)
    else:  # ONNX Runtime has no convolution of doubles
        cast = helper.make_node("Cast", ["x"], ["single"], "cast", to=TensorProto.FLOAT)
        written = model(tiny.tensors(), [cast, *body(source="single")], kind=number)
    found = ages(tmp_path, written, settings(head=UNIT))
    wanted = tiny(image(faces))[:, 0] * 30 + 40
    np.testing.assert_allclose(found, wanted, atol=0.2 if kind == np.float16 else YEARS)


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT32])
@pytest.mark.parametrize("first", ["Cast", "Transpose"])
def test_inputs_of_pixels(tmp_path: Path, faces: NDArray[np.uint8], kind: int, first: str) -> None:
    """The file normalizes by itself: (pixel - 127.5) / 128, from (N, H, W, 3)."""
    tiny = Tiny(1)
    cast = {"to": TensorProto.FLOAT}
    turn = {"perm": [0, 3, 1, 2]}
    steps = [("Cast", cast), ("Transpose", turn)]
    steps = steps if first == "Cast" else steps[::-1]
    nodes = [
        helper.make_node(steps[0][0], ["x"], ["one"], "one", **steps[0][1]),  # type: ignore[arg-type]
        helper.make_node(steps[1][0], ["one"], ["two"], "two", **steps[1][1]),  # type: ignore[arg-type]
        helper.make_node("Sub", ["two", "m"], ["three"], "three"),
        helper.make_node("Div", ["three", "s"], ["four"], "four"),
        *body(source="four"),
    ]
    extra = [
        numpy_helper.from_array(np.array(v, np.float32), n) for n, v in (("m", 127.5), ("s", 128.0))
    ]
    written = model([*tiny.tensors(), *extra], nodes, kind=kind, shape=[1, SIDE, SIDE, 3])
    found = ages(tmp_path, written, settings(head=UNIT, layout="NHWC"))
    pixels = ((faces.astype(np.float32) - 127.5) / 128).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(
        found, tiny(np.ascontiguousarray(pixels, np.float32))[:, 0] * 30 + 40, atol=YEARS
    )
    inside = {
        attribute.i
        for node in onnx.load(str(tmp_path / "wrapped.onnx")).graph.node
        for attribute in node.attribute
        if node.op_type == "Cast"
    }
    assert (kind in inside) == (first == "Transpose")  # TensorRT has no uint8 inside a network
    with pytest.raises(GraphError, match=r"takes pixels as they are.*Leave out `scale`"):
        external_expert(
            tmp_path / "given.onnx", settings(normalized=True, layout="NHWC"), Geometry()
        )


def test_a_gray_input(tmp_path: Path, faces: NDArray[np.uint8]) -> None:
    tiny = Tiny(1, channels=1)
    given = settings(
        head=UNIT, normalization=Normalization(1 / 255, (0.5,) * 3, (0.25,) * 3, "GRAY")
    )
    found = ages(tmp_path, model(tiny.tensors(), body(), channels=1), given)
    gray = np.stack([np.asarray(Image.fromarray(face).convert("L")) for face in faces])
    pixels = ((gray / 255 - 0.5) / 0.25).astype(np.float32)[:, None]
    np.testing.assert_allclose(found, tiny(pixels)[:, 0] * 30 + 40, atol=YEARS)


def test_gray_is_exactly_pillows() -> None:
    from export.experts.onnx_file.inputs import GRAY_WEIGHTS

    colors = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    found = np.floor((colors @ GRAY_WEIGHTS) + np.float32(0.5))
    wanted = np.asarray(Image.fromarray(colors).convert("L"))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    "shape", [None, ["N", None, None, None], ["b", "c", "h", "w"], [0, 3, 0, 0]]
)
def test_shapes_that_are_not_declared(
    tmp_path: Path, faces: NDArray[np.uint8], shape: list[int | str | None] | None
) -> None:
    tiny = Tiny(1)
    found = ages(tmp_path, model(tiny.tensors(), body(), shape=shape), settings(head=UNIT))
    np.testing.assert_allclose(found, tiny(image(faces))[:, 0] * 30 + 40, atol=YEARS)


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 16, 18, 20, 21])
@pytest.mark.parametrize("ir", [3, 4, 10])
def test_opsets_and_ir_versions(
    tmp_path: Path, faces: NDArray[np.uint8], opset: int, ir: int
) -> None:
    tiny = Tiny(5)
    last = [helper.make_node("Softmax", ["logits"], ["out"], "softmax", axis=1)]
    written = model(tiny.tensors(), body(last), opset=opset, ir=ir)
    if ir == 3:  # weights are inputs too
        written.graph.input.extend(
            helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tiny.tensors()
        )
    given = settings("expectation", head={"age_grid": GRID}, probabilities=True)
    found = ages(tmp_path, written, given)
    np.testing.assert_allclose(found, softmax(tiny(image(faces))) @ GRID, atol=YEARS)


def test_an_opset_that_is_too_old(tmp_path: Path) -> None:
    path = save(model(Tiny(1).tensors(), body(), opset=6), tmp_path)
    with pytest.raises(GraphError, match=r"given\.onnx uses opset 6; the oldest .* is 7\. Export"):
        external_expert(path, settings(), Geometry())


def test_local_functions(tmp_path: Path, faces: NDArray[np.uint8]) -> None:
    tiny = Tiny(1)
    opset = helper.make_opsetid("", 17)
    inner = helper.make_function(
        "pkg.inner",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"], "add")],
        [opset],
    )
    outer = helper.make_function(
        "pkg.outer",
        "Act",
        ["a"],
        ["b"],
        [
            helper.make_node("Relu", ["a"], ["t"], "relu"),
            helper.make_node("Twice", ["t"], ["b"], "twice", domain="pkg.inner"),
        ],
        [opset, helper.make_opsetid("pkg.inner", 1)],
    )
    nodes = body()
    nodes[1] = helper.make_node("Act", ["c"], ["r"], "act", domain="pkg.outer")
    written = model(
        tiny.tensors(),
        nodes,
        functions=[inner, outer],
        opsets=[helper.make_opsetid("pkg.outer", 1), helper.make_opsetid("pkg.inner", 1)],
    )
    found = ages(tmp_path, written, settings(head=UNIT))
    doubled = Tiny(1)
    doubled.weights["hw"] = doubled.weights["hw"] * 2
    np.testing.assert_allclose(found, doubled(image(faces))[:, 0] * 30 + 40, atol=YEARS)
    assert {o.domain for o in onnx.load(str(tmp_path / "wrapped.onnx")).opset_import} == {""}


@pytest.mark.parametrize("places", ["flat", "coordinates", "constant"])
def test_sparse_weights(tmp_path: Path, faces: NDArray[np.uint8], places: str) -> None:
    tiny = Tiny(1)
    weights = tiny.weights["hw"]
    weights[[1, 4, 6]] = 0.0
    kept = np.flatnonzero(weights)
    where = kept if places != "coordinates" else np.stack(np.unravel_index(kept, weights.shape), 1)
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(weights.reshape(-1)[kept], "hw"),
        numpy_helper.from_array(where.astype(np.int64), "hw_places"),
        list(weights.shape),
    )
    tensors = [t for t in tiny.tensors() if t.name != "hw"]
    constant = helper.make_node("Constant", [], ["hw"], "sparse", sparse_value=sparse)
    written = model(tensors, [constant, *body()] if places == "constant" else body())
    if places != "constant":
        written.graph.sparse_initializer.append(sparse)
    found = ages(tmp_path, written, settings(head=UNIT))
    np.testing.assert_allclose(found, tiny(image(faces))[:, 0] * 30 + 40, atol=YEARS)


def test_unsorted_nodes_and_taken_names(tmp_path: Path, faces: NDArray[np.uint8]) -> None:
    tiny = Tiny(1)
    written = model(tiny.tensors(), body()[::-1])
    for node in written.graph.node:
        node.ClearField("name")
        for names in (node.input, node.output):
            names[:] = [{"c": "face", "out": "age_years"}.get(name, name) for name in names]
    written.graph.output[0].name = "age_years"
    found = ages(tmp_path, written, settings(head=UNIT))
    np.testing.assert_allclose(found, tiny(image(faces))[:, 0] * 30 + 40, atol=YEARS)


def test_weights_in_the_hubs_cache(tmp_path: Path, faces: NDArray[np.uint8]) -> None:
    tiny = Tiny(1)
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1234"
    snapshot.mkdir(parents=True)
    onnx.save(
        model(tiny.tensors(), body()),
        tmp_path / "given.onnx",
        save_as_external_data=True,
        location="given.onnx_data",
        size_threshold=0,
    )
    blobs.mkdir()
    for name, blob in (("given.onnx", "aaaa"), ("given.onnx_data", "bbbb")):
        (tmp_path / name).rename(blobs / blob)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    expert = external_expert(snapshot / "given.onnx", settings(head=UNIT), Geometry())
    expert.write_onnx(tmp_path / "wrapped.onnx")
    session = ort.InferenceSession(str(tmp_path / "wrapped.onnx"))
    found = session.run(["age_years"], {"face": faces})[0]
    np.testing.assert_allclose(found, tiny(image(faces))[:, 0] * 30 + 40, atol=YEARS)
    wanted = expert.reference({"face": faces})["age_years"]
    np.testing.assert_allclose(found, wanted, atol=YEARS)
    (blobs / "bbbb").write_bytes((blobs / "bbbb").read_bytes()[:-4])
    with pytest.raises(GraphError, match=r"given\.onnx_data is too short.*Download it again"):
        external_expert(snapshot / "given.onnx", settings(head=UNIT), Geometry())


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
