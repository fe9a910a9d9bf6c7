"""ONNX files whose inputs and outputs are declared anew; damaged files are errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.detectors import CenterFaceDetector
from runtime.detectors.onnx_inputs import with_free_sizes
from tests.runtime.photo_samples import tiny_centerface


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_centerface(tmp_path_factory.mktemp("model") / "colors.onnx")


def test_declared_sizes_and_weights_as_inputs_do_not_matter(model: Path, tmp_path: Path) -> None:
    free = onnx.load(model)
    assert [d.dim_value for d in free.graph.input[0].type.tensor_type.shape.dim] == [10, 3, 32, 32]
    del free.graph.input[1:]
    for value in (*free.graph.input, *free.graph.output):
        for place, size in enumerate(value.type.tensor_type.shape.dim):
            if place != 1:
                size.dim_param = "NCHW"[place]
    onnx.save(free, tmp_path / "free.onnx")
    image = (
        np.random.default_rng(5).integers(0, 256, (24, 16, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    )
    wanted = CenterFaceDetector(model).detect(image)
    assert wanted
    assert CenterFaceDetector(tmp_path / "free.onnx").detect(image) == wanted


def test_inputs_are_declared_anew_and_nothing_else_changes(model: Path) -> None:
    before = onnx.load(model)
    after = onnx.load_from_string(with_free_sizes(model.read_bytes(), ("N", 3, "H", 300)))
    onnx.checker.check_model(after, full_check=True)
    (declared,) = after.graph.input
    assert declared.name == "picture"
    sizes = [d.dim_param or d.dim_value for d in declared.type.tensor_type.shape.dim]
    assert sizes == ["N", 3, "H", 300]
    assert [o.name for o in after.graph.output] == [o.name for o in before.graph.output]
    assert [len(o.type.tensor_type.shape.dim) for o in after.graph.output] == [4] * 4
    for part in ("input", "output"):
        before.graph.ClearField(part)
        after.graph.ClearField(part)
    assert after == before


@given(st.data())
def test_damaged_files_are_rejected(model: Path, data: st.DataObject) -> None:
    content = bytearray(model.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(0, len(content)))
    try:
        with_free_sizes(bytes(content[:length]), ("N", 3, "H", "W"))
    except ValueError:
        return
