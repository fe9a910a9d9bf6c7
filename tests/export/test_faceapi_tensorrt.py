"""NVIDIA's own parser and builder on face-api.js's network and on graphs with both views."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from export.experts.registry import build_expert
from export.variants.fp16 import fp16_from_fp32
from tests.export.golden import demo_config
from tests.trt_cpu import trt_report

pytestmark = pytest.mark.tensorrt


@pytest.mark.parametrize(
    ("name", "views"),
    [("faceapi", ()), ("faceapi", ("flip",)), ("resnet50", ("flip",)), ("mivolo", ("flip",))],
)
def test_both_precisions_are_parsed_and_built(
    tmp_path: Path, name: str, views: tuple[str, ...]
) -> None:
    expert = build_expert(replace(demo_config(name), views=views), None)
    single, half = tmp_path / "e.fp32.onnx", tmp_path / "e.fp16.onnx"
    expert.write_onnx(single)
    fp16_from_fp32(single, half, expert.signature.fp32_operators)
    exact, rounded = trt_report(single), trt_report(half)
    for report in (exact, rounded):
        assert report.errors == ()
        assert report.plan_bytes > 100_000
    assert "HALF" not in exact.dtype_counts
    assert rounded.dtype_counts["HALF"] > rounded.dtype_counts["FLOAT"]
    if name == "faceapi":
        assert exact.int64_layers <= 4
        assert exact.layers < 150
