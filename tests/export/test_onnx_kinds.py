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

from export.config.settings import Normalization
from export.errors import GraphError
from export.experts.onnx_file.wrapper import external_expert
from runtime.geometry import Geometry
from tests.export import tiny_onnx
from tests.export.tiny_onnx import (
    GRID,
    SIDE,
    UNIT,
    YEARS,
    Tiny,
    ages,
    body,
    image,
    model,
    save,
    settings,
    softmax,
)


@pytest.fixture(scope="module")
def faces() -> NDArray[np.uint8]:
    return tiny_onnx.faces()


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
