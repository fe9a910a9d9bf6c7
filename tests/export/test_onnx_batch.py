"""Given ONNX files that were exported for one batch size: rewritten, or refused with the node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.build.parity import check_parity
from export.errors import GraphError
from export.experts.onnx_file.wrapper import external_expert
from export.faces.verification import verification_images
from export.graph.checks import check_graph
from runtime.geometry import Geometry
from tests.export.tiny_onnx import FEATURES, Tiny, body, image, model, save, settings

UNIT = {"years_per_unit": 30.0, "years_offset": 40.0}
YEARS = 0.002
node = helper.make_node


def constant(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def wrap(folder: Path, written: onnx.ModelProto) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """The ages of the verification faces in one batch, after the checks of a build."""
    expert = external_expert(save(written, folder), settings(head=UNIT), Geometry())
    path = folder / "wrapped.onnx"
    expert.write_onnx(path)
    check_graph(path, expert.signature)
    images = verification_images(expert.signature.inputs)
    check_parity(path, "fp32", images, expert.reference(images))
    found = ort.InferenceSession(str(path)).run(["age_years"], dict(images))[0]
    return np.asarray(found), images["face"]


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("declared", ["fixed", "dynamic"])
@pytest.mark.parametrize("target", ["sizes", "rest", "constant node"])
def test_a_batch_in_the_target_of_a_reshape(
    tmp_path: Path, batch: int, declared: str, target: str
) -> None:
    if declared == "dynamic" and batch > 1:
        pytest.skip("such a file runs for its own batch only, which it does not declare")
    tiny = Tiny(1)
    sizes = [batch, FEATURES] if target != "rest" else [batch, -1]
    nodes = body()
    nodes[3] = node("Reshape", ["g", "s"], ["f"], "view")
    tensors = tiny.tensors()
    if target == "constant node":
        value = constant("s", *sizes)
        nodes.insert(0, node("Constant", [], ["s"], "sizes", value=value))
    else:
        tensors.append(constant("s", *sizes))
    written = model(tensors, nodes, batch=batch if declared == "fixed" else "batch")
    found, faces = wrap(tmp_path, written)
    np.testing.assert_allclose(found, tiny(image(faces))[:, 0] * 30 + 40, atol=YEARS)


def test_batch_second_as_in_attention(tmp_path: Path) -> None:
    """Sequence first, as inside PyTorch's MultiheadAttention: (15·15, B, 8) → (15·15, 2B, 4)."""
    tiny = Tiny(1)
    length = 15 * 15
    tensors = [
        *tiny.tensors(),
        constant("maps", 1, FEATURES, length),
        constant("heads", length, 2, 4),
        constant("joined", length, 1, FEATURES),
        constant("last", 1, FEATURES),
    ]
    nodes = [
        *body()[:2],
        node("Reshape", ["r", "maps"], ["m"], "maps_view"),
        node("Transpose", ["m"], ["t"], "turn", perm=[2, 0, 1]),
        node("Reshape", ["t", "heads"], ["h"], "heads_view"),
        node("Softmax", ["h"], ["a"], "attention", axis=2),
        node("Reshape", ["a", "joined"], ["j"], "joined_view"),
        node("ReduceMean", ["j"], ["g"], "mean", axes=[0], keepdims=0),
        node("Gemm", ["g", "hw", "hb"], ["out"], "fc"),
    ]
    found, faces = wrap(tmp_path, model(tensors, nodes))
    assert np.ptp(found) > 0.05
    single = ort.InferenceSession(str(tmp_path / "given.onnx"))
    wanted = [single.run(None, {"x": one[None]})[0][0, 0] for one in image(faces)]
    np.testing.assert_allclose(found, np.array(wanted) * 30 + 40, atol=YEARS)


@pytest.mark.parametrize("source", ["initializer", "expanded", "batch of 2"])
def test_a_class_token_for_one_batch(tmp_path: Path, source: str) -> None:
    tiny = Tiny(1)
    batch = 2 if source == "batch of 2" else 1
    value = np.random.default_rng(1).normal(size=(1, FEATURES, 1)).astype(np.float32)
    tensors = [*tiny.tensors(), constant("maps", batch, FEATURES, -1)]
    nodes = [*body()[:2], node("Reshape", ["r", "maps"], ["m"], "maps_view")]
    if source == "expanded":
        tensors += [numpy_helper.from_array(value, "cls"), constant("one", 1, FEATURES, 1)]
        nodes.append(node("Expand", ["cls", "one"], ["token"], "expand"))
    else:
        tensors.append(numpy_helper.from_array(np.repeat(value, batch, axis=0), "token"))
    nodes += [
        node("Concat", ["token", "m"], ["all"], "with_token", axis=2),
        node("ReduceMean", ["all"], ["g"], "mean", axes=[2], keepdims=0),
        node("Gemm", ["g", "hw", "hb"], ["out"], "fc"),
    ]
    found, faces = wrap(tmp_path, model(tensors, nodes, batch=batch))
    single = ort.InferenceSession(str(tmp_path / "given.onnx"))
    wanted = [
        single.run(None, {"x": np.repeat(one[None], batch, axis=0)})[0][0, 0]
        for one in image(faces)
    ]
    np.testing.assert_allclose(found, np.array(wanted) * 30 + 40, atol=YEARS)


def test_a_batch_in_the_sizes_of_a_resize(tmp_path: Path) -> None:
    tiny = Tiny(1)
    tensors = [*tiny.tensors(), constant("sizes", 1, FEATURES, 20, 20)]
    nodes = body()
    nodes[2:3] = [
        node("Resize", ["r", "", "", "sizes"], ["z"], "resize", mode="linear"),
        node("GlobalAveragePool", ["z"], ["g"], "gap"),
    ]
    found, faces = wrap(tmp_path, model(tensors, nodes))
    single = ort.InferenceSession(str(tmp_path / "given.onnx"))
    wanted = [single.run(None, {"x": one[None]})[0][0, 0] for one in image(faces)]
    np.testing.assert_allclose(found, np.array(wanted) * 30 + 40, atol=YEARS)


def test_what_mixes_the_faces_of_a_batch_is_named(tmp_path: Path) -> None:
    """A mean over all axes is right for one face only."""
    tiny = Tiny(1)
    nodes = [
        *body()[:2],
        node("ReduceMean", ["r"], ["m"], "mean_of_all", axes=[0, 2, 3], keepdims=0),
        node("Reshape", ["m", "s"], ["f"], "view"),
        node("Gemm", ["f", "hw", "hb"], ["out"], "fc"),
    ]
    path = save(model([*tiny.tensors(), constant("s", 1, FEATURES)], nodes), tmp_path)
    expert = external_expert(path, settings(head=UNIT), Geometry())
    with pytest.raises(GraphError) as caught:
        expert.write_onnx(tmp_path / "wrapped.onnx")
    text = str(caught.value)
    assert "given.onnx cannot be run on several faces at once" in text
    assert "'mean_of_all' (ReduceMean)" in text or "'view' (Reshape)" in text
    assert text.endswith("Export with a dynamic batch.")
    assert "agemoe/" not in text


def test_what_drops_faces_is_named(tmp_path: Path) -> None:
    """Only the first face's age is kept."""
    tiny = Tiny(1)
    tensors = [*tiny.tensors(), constant("first", 0), constant("count", 1)]
    nodes = [
        *body()[:4],
        node("Split", ["f"], ["part"], "split_faces", axis=0, num_outputs=1),
        node("Gemm", ["part", "hw", "hb"], ["one"], "fc"),
        node("Slice", ["one", "first", "count", "first"], ["out"], "first_face"),
    ]
    expert = external_expert(
        save(model(tensors, nodes, opset=18), tmp_path), settings(head=UNIT), Geometry()
    )
    with pytest.raises(GraphError, match=r"node 'first_face' \(Slice\).*with a dynamic batch"):
        expert.write_onnx(tmp_path / "wrapped.onnx")


def test_weights_that_are_reshaped_stay(tmp_path: Path) -> None:
    tiny = Tiny(1)
    flat = numpy_helper.from_array(tiny.weights["hw"].reshape(-1), "flat_hw")
    tensors = [t for t in tiny.tensors() if t.name != "hw"]
    nodes = [node("Reshape", ["flat_hw", "s"], ["hw"], "weights_view"), *body()]
    found, faces = wrap(tmp_path, model([*tensors, flat, constant("s", FEATURES, 1)], nodes))
    np.testing.assert_allclose(found, tiny(image(faces))[:, 0] * 30 + 40, atol=YEARS)
