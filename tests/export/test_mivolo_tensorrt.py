"""NVIDIA's own parser and builder: what they take, and what they make of the pipeline's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from export.build.options import BuildOptions
from export.build.pipeline import build
from export.config.architecture import ExpertConfig
from export.experts.mivolo.settings import LETTERBOX, MiVoloSettings
from tests.trt_cpu import trt_report

pytestmark = pytest.mark.tensorrt

MOST_LAYERS = 1200
MOST_INT64_LAYERS = 50
MEBIBYTE = 1 << 20


class Silent:
    """Hears of a build's progress and says nothing."""

    def stage(self, expert: str, what: str) -> None:
        pass

    def advance(self, share: float) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Built:
    """What the pipeline made of random weights."""

    single: Path
    half: Path
    least_bytes: int
    """Of a serialized plan in FP32."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("demo", 64, MEBIBYTE // 2), id="demo"),
        pytest.param(("d1", 224, 100 * MEBIBYTE), id="d1-224", marks=pytest.mark.slow),
    ],
)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    variant, input_size, least_bytes = request.param
    folder = tmp_path_factory.mktemp(variant)
    settings = MiVoloSettings(variant, input_size, None, None)
    config = ExpertConfig("mivolo", "mivolo", None, LETTERBOX, settings)
    build(BuildOptions((config,), "random", folder, fp16=True), Silent())
    single, half = (folder / f"mivolo/mivolo.{kind}.onnx" for kind in ("fp32", "fp16"))
    return Built(single, half, least_bytes)


def test_fp32_is_parsed_and_built(built: Built) -> None:
    report = trt_report(built.single)
    assert report.errors == ()
    assert report.layers < MOST_LAYERS
    assert report.int64_layers < MOST_INT64_LAYERS
    assert set(report.dtype_counts) == {"FLOAT", "INT64"}
    assert report.plan_bytes > built.least_bytes


def test_fp16_really_is_half(built: Built) -> None:
    report = trt_report(built.half)
    assert report.errors == ()
    assert report.layers < MOST_LAYERS
    assert report.int64_layers < MOST_INT64_LAYERS
    assert report.dtype_counts["HALF"] > 10 * report.dtype_counts["FLOAT"]
    assert report.plan_bytes > 0.5 * built.least_bytes


def test_the_parser_refuses_fold(tmp_path: Path) -> None:
    """The check can fail: the operator that MiVOLO's own code exports to."""
    shape = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Col2Im", ["x", "size", "block"], ["y"], name="fold")],
        "fold",
        [shape("x", onnx.TensorProto.FLOAT, ["batch", 9, 4])],
        [shape("y", onnx.TensorProto.FLOAT, ["batch", 1, 6, 6])],
        [
            onnx.helper.make_tensor("size", onnx.TensorProto.INT64, [2], [6, 6]),
            onnx.helper.make_tensor("block", onnx.TensorProto.INT64, [2], [3, 3]),
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    onnx.save(model, tmp_path / "fold.onnx")
    report = trt_report(tmp_path / "fold.onnx")
    assert report.plan_bytes == 0
    assert "Col2Im" in report.errors[0]
