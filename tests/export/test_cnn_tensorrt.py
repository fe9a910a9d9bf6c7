"""NVIDIA's own parser and builder on the graphs of the CNNs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export.experts.cnn.network import cnn_expert, cnn_module
from export.variants.fp16 import fp16_from_fp32
from runtime.geometry import Geometry
from tests.export.small import small_settings
from tests.trt_cpu import trt_report

pytestmark = pytest.mark.tensorrt


@pytest.mark.parametrize(
    ("architecture", "side", "layout"),
    [
        ("vgg16", 64, {}),
        ("vgg16", 320, {"pooling": "adaptive"}),
        ("resnet50", 64, {}),
        ("resnet50", 64, {"pooling": "caffe", "stride_on": "1x1"}),
    ],
)
def test_both_precisions_are_parsed_and_built(
    tmp_path: Path, architecture: str, side: int, layout: dict[str, Any]
) -> None:
    head = replace(small_settings().head, round_years=True)
    settings = replace(small_settings(), height=side, width=side, head=head, **layout)
    expert = cnn_expert(cnn_module(architecture, settings), settings, Geometry())
    single, half = tmp_path / "e.fp32.onnx", tmp_path / "e.fp16.onnx"
    expert.write_onnx(single)
    fp16_from_fp32(single, half)
    exact, rounded = trt_report(single), trt_report(half)
    for report in (exact, rounded):
        assert report.errors == ()
        assert report.int64_layers <= 2  # the parser's own, for the softmax
        assert report.layers < 200
        assert report.plan_bytes > 100_000
    assert "HALF" not in exact.dtype_counts
    assert rounded.dtype_counts["HALF"] > 2 * rounded.dtype_counts["FLOAT"]
    assert rounded.plan_bytes < exact.plan_bytes
