"""Files that cannot be run, and operators that TensorRT lacks: messages name their own nodes."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.checkpoints.sources import find_checkpoint
from export.errors import GraphError
from export.experts.onnx_file.wrapper import external_expert
from export.graph.checks import check_graph
from export.graph.tensorrt_operators import tensorrt_problems
from runtime.geometry import Geometry
from tests.export.test_onnx_sensible import build, given
from tests.export.tiny_onnx import Tiny, body, model, save, settings

UNIT = {"years_per_unit": 30.0, "years_offset": 40.0}


def refused(folder: Path, written: onnx.ModelProto) -> str:
    with pytest.raises(GraphError) as caught:
        external_expert(save(written, folder), settings(head=UNIT), Geometry())
    text = str(caught.value)
    assert text.startswith(f"{folder / 'given.onnx'}")
    assert "wrapped" not in text
    assert "agemoe/" not in text
    return text


def test_a_custom_operator(tmp_path: Path) -> None:
    nodes = body()
    nodes[1] = helper.make_node("Swish", ["c"], ["r"], "act", domain="my.ops")
    text = refused(
        tmp_path, model(Tiny(1).tensors(), nodes, opsets=[helper.make_opsetid("my.ops", 1)])
    )
    assert "operator that ONNX Runtime does not have: node 'act' is my.ops.Swish" in text


def test_an_unknown_operator(tmp_path: Path) -> None:
    nodes = body()
    nodes[1] = helper.make_node("Swosh", ["c"], ["r"], "act")
    text = refused(tmp_path, model(Tiny(1).tensors(), nodes))
    assert "cannot be loaded by ONNX Runtime" in text
    assert "act" in text
    assert "Swosh" in text


@pytest.mark.parametrize("declared", [3, "channels"])
def test_wrong_channels(tmp_path: Path, declared: int | str) -> None:
    tiny = Tiny(1, channels=4)
    written = model(tiny.tensors(), body(), shape=["batch", declared, 32, 32])
    text = refused(tmp_path, written)
    assert "node 'conv' (Conv): Input channels C is not equal" in text
    assert "Check `input_size`, `layout` and `color_order`" in text


def test_declared_channels(tmp_path: Path) -> None:
    text = refused(tmp_path, model(Tiny(1, channels=1).tensors(), body(), channels=1))
    assert "with 1 channels, color_order is 'GRAY'" in text
    text = refused(tmp_path, model(Tiny(1).tensors(), body(), shape=[3, 32, 32]))
    assert "an input without a batch takes one face only: export with a dynamic batch" in text


def test_an_input_of_text(tmp_path: Path) -> None:
    written = model(Tiny(1).tensors(), body(), kind=TensorProto.STRING)
    assert "input 'x' is STRING, expected one of FLOAT, FLOAT16" in refused(tmp_path, written)


def test_a_node_that_depends_on_itself(tmp_path: Path) -> None:
    nodes = body()
    nodes[1].input[0] = "f"
    assert "given.onnx" in refused(tmp_path, model(Tiny(1).tensors(), nodes))


def test_a_folder_and_a_pointer(tmp_path: Path) -> None:
    path = save(model(Tiny(1).tensors(), body()), tmp_path)
    with pytest.raises(GraphError, match=r"is a folder; give the ONNX file itself .*given\.onnx"):
        external_expert(tmp_path, settings(head=UNIT), Geometry())
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(GraphError, match="Git LFS's pointer"):
        external_expert(path, settings(head=UNIT), Geometry())


def test_operators_that_tensorrt_lacks_are_a_warning_without_engines(tmp_path: Path) -> None:
    tiny = Tiny(1)
    nodes = body()
    nodes[4] = helper.make_node("Gemm", ["f", "hw", "hb"], ["raw"], "fc")
    nodes += [
        helper.make_node("BlackmanWindow", ["four"], ["window"], "window"),
        helper.make_node("ReduceMin", ["window"], ["least"], "least", keepdims=0),
        helper.make_node("Mul", ["least", "zero"], ["nothing"], "nothing"),
        helper.make_node("Add", ["raw", "nothing"], ["out"], "sum"),
    ]
    tensors = [
        *tiny.tensors(),
        onnx.numpy_helper.from_array(np.array(4, np.int64), "four"),
        onnx.numpy_helper.from_array(np.array(0, np.float32), "zero"),
    ]
    save(model(tensors, nodes, opset=18), tmp_path)
    table = {"head": "regression", "years_per_unit": 30.0, "years_offset": 40.0}
    status, text = build(tmp_path, "--fp16", **table)
    assert status == 0, text
    assert "warning: mine: no TensorRT engine can be built of it" in text
    assert "node 'window': operator ai.onnx.BlackmanWindow is not supported" in text
    expert = external_expert(tmp_path / "given.onnx", settings(head=UNIT), Geometry())
    path = tmp_path / "wrapped.onnx"
    expert.write_onnx(path)
    assert len(check_graph(path, expert.signature, tensorrt=False)) == 1
    with pytest.raises(GraphError, match=r"'window'.*\nBuild without engines: --target onnx"):
        check_graph(path, expert.signature)


def test_uint8_inside_a_network_is_pointed_out() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["bytes"], "to_bytes", to=TensorProto.UINT8),
        helper.make_node("Cast", ["bytes"], ["floats"], "to_floats", to=TensorProto.FLOAT),
    ]
    written = model([], nodes)
    (problem,) = tensorrt_problems(written)
    assert "'to_bytes'" in problem
    assert "UINT8 only as a network's input" in problem


def test_external_data_comes_from_the_hub_with_its_graph(tmp_path: Path) -> None:
    given(tmp_path, Tiny(1))
    onnx.save(
        onnx.load(str(tmp_path / "given.onnx")),
        tmp_path / "model.onnx",
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=0,
    )
    fetched = []

    def download(repo: str, file: str, revision: str | None = None) -> str:
        fetched.append((repo, file, revision))
        return str(tmp_path / Path(file).name)

    with patch("huggingface_hub.hf_hub_download", download):
        path = find_checkpoint("hf://somebody/age/onnx/model.onnx@v1")
    assert path == tmp_path / "model.onnx"
    assert ("somebody/age", "onnx/model.onnx_data", "v1") in fetched
