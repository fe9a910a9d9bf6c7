"""External data of ONNX files, against onnx's own reader."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, _get_all_tensors, uses_external_data

from export.checkpoints.onnx_files import external_data_files, external_data_names
from export.errors import CheckpointError


def outside(name: str, location: str) -> TensorProto:
    """A tensor of one float in another file."""
    tensor = TensorProto(
        name=name, dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="length", value="4")
    return tensor


def model(*, everywhere: bool = True, location: str = "weights.bin") -> onnx.ModelProto:
    """Tensors outside the file as initializer, in a Constant, in a branch and in a function."""
    value = helper.make_tensor_value_info
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["b"], value=outside("b", "in branch.data"))],
        "branch",
        [],
        [value("b", TensorProto.FLOAT, [1])],
    )
    nodes = [
        helper.make_node("Constant", [], ["c"], value=outside("c", "constant_1")),
        helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch),
    ]
    inline = numpy_helper.from_array(np.zeros(100, np.float32), "inline")
    graph = helper.make_graph(
        nodes if everywhere else [],
        "graph",
        [value("x", TensorProto.BOOL, [1])],
        [value("y", TensorProto.FLOAT, [1])],
        [outside("w", location), inline, outside("v", location)],
    )
    body = [helper.make_node("Constant", [], ["z"], value=outside("z", "deep/function.data"))]
    function = helper.make_function("f", "F", [], ["z"], body, [helper.make_opsetid("", 18)])
    return helper.make_model(graph, functions=[function] if everywhere else [])


def test_all_places_are_found(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model().SerializeToString())
    wanted = {
        ExternalDataInfo(tensor).location
        for tensor in _get_all_tensors(model())
        if uses_external_data(tensor)
    }
    names = external_data_names(path)
    assert set(names) >= wanted
    assert names == ["constant_1", "deep/function.data", "in branch.data", "weights.bin"]


def test_the_hubs_cache_of_symbolic_links(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1234"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "aaaa").write_bytes(model(everywhere=False).SerializeToString())
    (blobs / "bbbb").write_bytes(bytes(4))
    (snapshot / "model.onnx").symlink_to("../../blobs/aaaa")
    (snapshot / "weights.bin").symlink_to("../../blobs/bbbb")
    assert external_data_files(snapshot / "model.onnx") == [snapshot / "weights.bin"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model(everywhere=False).SerializeToString())
    with pytest.raises(CheckpointError, match=r"weights in 'weights\.bin', which is missing"):
        external_data_files(path)


@pytest.mark.parametrize("location", ["/etc/passwd", "../weights.bin", "C:\\w", "a/../../b", ""])
def test_files_elsewhere_are_refused(tmp_path: Path, location: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model(everywhere=False, location=location).SerializeToString())
    with pytest.raises(CheckpointError, match="outside its own folder"):
        external_data_names(path)


def test_other_files_have_none(tmp_path: Path) -> None:
    path = tmp_path / "other"
    written = model().SerializeToString()
    for content in (b"", b"\x08", b"PK\x03\x04", b"\x80\x02}", written[: len(written) // 2]):
        path.write_bytes(content)
        assert external_data_names(path) == []
    for junk in range(200):
        path.write_bytes(b"\x08" + np.random.default_rng(junk).bytes(200))
        external_data_names(path)
    assert external_data_names(tmp_path) == []
    shutil.rmtree(tmp_path)
    assert external_data_names(path) == []
