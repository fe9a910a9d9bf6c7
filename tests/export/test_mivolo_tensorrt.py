"""NVIDIA's own parser and builder on the pipeline's files."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path

import onnx
import pytest

from export.build.options import BuildOptions
from export.build.pipeline import build
from export.config.architecture import ExpertConfig
from export.experts.mivolo.settings import LETTERBOX, MiVoloSettings
from tests.export.mivolo_fixtures import V2_AGES
from tests.export.test_pipeline import Quiet
from tests.trt_cpu import trt_report

pytestmark = pytest.mark.tensorrt

MOST_LAYERS = 1200
MOST_INT64_LAYERS = 50
MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Built:
    """The pipeline's files for random weights."""

    fp32: Path
    fp16: Path
    least_bytes: int
    """Smallest size of a serialized plan in FP32."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("demo", 64, None, MEBIBYTE // 2), id="demo"),
        pytest.param(("d1", 224, None, 100 * MEBIBYTE), id="d1-224", marks=pytest.mark.slow),
        pytest.param(("d1", 384, V2_AGES, 100 * MEBIBYTE), id="v2", marks=pytest.mark.slow),
    ],
)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    variant, input_size, ages, least_bytes = request.param
    folder = tmp_path_factory.mktemp(variant)
    settings = MiVoloSettings(variant, input_size, None, astuple(ages) if ages else None)
    config = ExpertConfig("mivolo", "mivolo", None, LETTERBOX, settings)
    build(BuildOptions((config,), "random", folder, fp16=True), Quiet())
    fp32, fp16 = (folder / f"mivolo/mivolo.{kind}.onnx" for kind in ("fp32", "fp16"))
    return Built(fp32, fp16, least_bytes)


def test_fp32_is_parsed_and_built(built: Built) -> None:
    report = trt_report(built.fp32)
    assert report.errors == ()
    assert report.layers < MOST_LAYERS
    assert report.int64_layers < MOST_INT64_LAYERS
    assert set(report.dtype_counts) == {"FLOAT", "INT64"}
    assert report.plan_bytes > built.least_bytes


def test_fp16_layers_are_half_precision(built: Built) -> None:
    report = trt_report(built.fp16)
    assert report.errors == ()
    assert report.layers < MOST_LAYERS
    assert report.int64_layers < MOST_INT64_LAYERS
    assert report.dtype_counts["HALF"] > 10 * report.dtype_counts["FLOAT"]
    assert report.plan_bytes > 0.5 * built.least_bytes


def test_the_parser_rejects_fold(tmp_path: Path) -> None:
    """The operator that MiVOLO's own code exports to shows that the check can fail."""
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
