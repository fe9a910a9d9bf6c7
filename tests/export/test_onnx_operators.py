"""Given files with operators of old opsets, of ONNX Runtime's own, quantized, or with branches."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.build.experts_file import read_experts
from export.build.parity import check_parity
from export.errors import GraphError
from export.experts.onnx_file.wrapper import external_expert
from export.faces.verification import verification_images
from export.graph.checks import check_graph
from export.variants.fp16 import fp16_from_fp32
from runtime.geometry import Geometry
from tests.export.tiny_onnx import Tiny, body, image, model, save, settings

UNIT = {"years_per_unit": 30.0, "years_offset": 40.0}
YEARS = 0.002
MICROSOFT = helper.make_opsetid("com.microsoft", 1)
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "onnx.md"
node = helper.make_node


def wrap(folder: Path, written: onnx.ModelProto) -> list[str]:
    """Wraps a file and compares it with the unchanged one; returns what TensorRT lacks."""
    expert = external_expert(save(written, folder), settings(head=UNIT), Geometry())
    path = folder / "wrapped.onnx"
    expert.write_onnx(path)
    lacking = check_graph(path, expert.signature, tensorrt=False)
    images = verification_images(expert.signature.inputs)
    reference = expert.reference(images)
    check_parity(path, "fp32", images, reference)
    # The reference is verified in turn: pixels normalized here, and the file run by itself.
    session = ort.InferenceSession(str(folder / "given.onnx"))
    last = [session.run(None, {"x": one[None]})[0].item() for one in image(images["face"])]
    np.testing.assert_allclose(reference["age_years"], np.array(last) * 30 + 40, atol=YEARS)
    return lacking


def tensors(opset: int) -> list[TensorProto]:
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "w": (8, 3, 3, 3),
        "scale": (8,),
        "bias": (8,),
        "mean": (8,),
        "slope": (8, 1, 1),
        "hw": (8, 1),
        "hb": (1,),
    }
    values: dict[str, NDArray[Any]] = {
        name: (rng.normal(size=shape) * 0.3).astype(np.float32) for name, shape in shapes.items()
    }
    values["variance"] = rng.uniform(0.5, 1.5, 8).astype(np.float32)
    values["twice"] = np.array([1, 1, 2, 2], np.float32)
    if opset >= 10:
        values |= {"starts": np.array([0, 0]), "ends": np.array([20, 20]), "axes": np.array([2, 3])}
    if opset >= 11:
        values |= {"pads": np.array([0, 0, 1, 1] * 2), "roi": np.zeros(0, np.float32)}
        values |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    return [numpy_helper.from_array(array, name) for name, array in values.items()]


def old_network(opset: int) -> list[onnx.NodeProto]:
    """Operators whose attributes became inputs, as networks of their time have them."""
    if opset < 9:
        resize = node("Upsample", ["pad"], ["up"], "up", scales=[1.0, 1.0, 2.0, 2.0])
    elif opset < 11:
        resize = node("Upsample" if opset == 9 else "Resize", ["pad", "twice"], ["up"], "up")
    else:
        resize = node("Resize", ["pad", "roi", "twice"], ["up"], "up")
    return [
        node("Conv", ["x", "w"], ["c"], "conv"),
        node("BatchNormalization", ["c", "scale", "bias", "mean", "variance"], ["n"], "norm"),
        node("PRelu", ["n", "slope"], ["p"], "prelu"),
        node("MaxPool", ["p"], ["m"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Pad", ["m"], ["pad"], "pad", pads=[0, 0, 1, 1] * 2)
        if opset < 11
        else node("Pad", ["m", "pads"], ["pad"], "pad"),
        resize,
        node("Clip", ["up"], ["clip"], "clip", min=0.0, max=6.0)
        if opset < 11
        else node("Clip", ["up", "low", "high"], ["clip"], "clip"),
        node("Slice", ["clip"], ["cut"], "cut", axes=[2, 3], starts=[0, 0], ends=[20, 20])
        if opset < 10
        else node("Slice", ["clip", "starts", "ends", "axes"], ["cut"], "cut"),
        node("Dropout", ["cut"], ["drop"], "drop"),
        node("ReduceMean", ["drop"], ["means"], "means", axes=[2, 3], keepdims=1),
        node("Squeeze", ["means"], ["f1"], "squeeze", axes=[2, 3]),
        node("LRN", ["drop"], ["lrn"], "lrn", size=3),
        node("GlobalMaxPool", ["lrn"], ["most"], "most"),
        node("Flatten", ["most"], ["f2"], "flat"),
        node("Sum", ["f1", "f2"], ["f"], "sum"),
        node("Softmax", ["f"], ["s"], "softmax", axis=1),
        node("Gemm", ["s", "hw", "hb"], ["out"], "fc"),
    ]


@pytest.mark.parametrize("opset", range(7, 13))
@pytest.mark.parametrize("batch", [1, "batch"])
def test_operators_of_old_opsets(tmp_path: Path, opset: int, batch: int | str) -> None:
    written = model(tensors(opset), old_network(opset), opset=opset, batch=batch)
    assert wrap(tmp_path, written) == []
    assert onnx.load(str(tmp_path / "wrapped.onnx")).opset_import[0].version == 20


def test_operators_of_onnx_runtime(tmp_path: Path) -> None:
    nodes = body()
    nodes[1] = node("Gelu", ["c"], ["r"], "gelu", domain="com.microsoft")
    lacking = wrap(tmp_path, model(Tiny(1).tensors(), nodes, opsets=[MICROSOFT]))
    assert lacking == [
        "TensorRT does not support node 'gelu': operator com.microsoft.Gelu is not supported"
    ]
    with pytest.raises(GraphError, match=r"no FP16 variant: .*'gelu' \(com\.microsoft\.Gelu\)"):
        fp16_from_fp32(tmp_path / "wrapped.onnx", tmp_path / "half.onnx")


def test_an_old_opset_that_cannot_be_converted_is_kept(tmp_path: Path) -> None:
    """Of operators that are not ONNX's the converter knows nothing."""
    nodes = body()
    nodes[1] = node("Gelu", ["c"], ["r"], "gelu", domain="com.microsoft")
    wrap(tmp_path, model(Tiny(1).tensors(), nodes, opset=11, opsets=[MICROSOFT]))
    versions = {o.domain: o.version for o in onnx.load(str(tmp_path / "wrapped.onnx")).opset_import}
    assert versions["com.microsoft"] == 1
    assert versions[""] in (11, 20)


def test_layers_quantized_with_fixed_ranges(tmp_path: Path) -> None:
    nodes = body()
    nodes[1:2] = [
        node("QuantizeLinear", ["c", "step", "zero"], ["q"], "quantize"),
        node("DequantizeLinear", ["q", "step", "zero"], ["r"], "dequantize"),
    ]
    step = numpy_helper.from_array(np.array(0.02, np.float32), "step")
    zero = numpy_helper.from_array(np.array(0, np.uint8), "zero")
    assert wrap(tmp_path, model([*Tiny(1).tensors(), step, zero], nodes)) == []
    with pytest.raises(GraphError, match=r"no FP16 variant: .*'quantize'"):
        fp16_from_fp32(tmp_path / "wrapped.onnx", tmp_path / "half.onnx")


def test_layers_quantized_by_the_batch_are_refused(tmp_path: Path) -> None:
    nodes = body()
    nodes[1:2] = [
        node("DynamicQuantizeLinear", ["c"], ["q", "step", "zero"], "quantize"),
        node("DequantizeLinear", ["q", "step", "zero"], ["r"], "dequantize"),
    ]
    expert = external_expert(
        save(model(Tiny(1).tensors(), nodes, batch="batch"), tmp_path),
        settings(head={"years_per_unit": 300.0}),
        Geometry(),
    )
    with pytest.raises(GraphError, match=r"quantized dynamically.*give the file in float"):
        expert.write_onnx(tmp_path / "wrapped.onnx")


def test_branches_that_read_outer_tensors(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    kept = helper.make_graph(
        [node("Mul", ["r", "r"], ["square"], "square")],
        "then",
        [],
        [value("square", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [node("Identity", ["r"], ["same"], "same")],
        "else",
        [],
        [value("same", TensorProto.FLOAT, None)],
    )
    nodes = body()
    nodes.insert(2, node("If", ["on"], ["b"], "if", then_branch=kept, else_branch=other))
    nodes[3].input[0] = "b"
    on = numpy_helper.from_array(np.array(True), "on")
    wrap(tmp_path, model([*Tiny(1).tensors(), on], nodes))
    wrap(tmp_path, model([*Tiny(1).tensors(), on], nodes[::-1]))


def test_an_engine_of_this_project_is_a_file_like_any_other(tmp_path: Path) -> None:
    expert = external_expert(
        save(model(Tiny(1).tensors(), body()), tmp_path), settings(head=UNIT), Geometry()
    )
    path, again = tmp_path / "wrapped.onnx", tmp_path / "again.onnx"
    expert.write_onnx(path)
    second = external_expert(path, settings(layout="NHWC"), Geometry())
    second.write_onnx(again)
    images = verification_images(second.signature.inputs)
    check_parity(again, "fp32", images, expert.reference(images))
    names = [written.name for written in onnx.load(str(again)).graph.node]
    assert len(names) == len(set(names))


def test_every_example_of_the_document_is_read(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 8
    for block in blocks:
        text = block.replace(", …]", "]")
        if not text.startswith("[experts"):
            text = f"[experts.mine]\narchitecture = 'onnx'\n{text}"
        tomllib.loads(text)
        file = tmp_path / "experts.toml"
        file.write_text(text, encoding="utf-8")
        problems: list[str] = []
        assert read_experts(file, problems)
        assert not problems
