"""Kinds of backends, by their names."""

from __future__ import annotations

import pytest

from runtime.backends import all_on_cpu, backend_kind


@pytest.mark.parametrize(
    ("backend", "kind"),
    [
        ("onnx-cpu", "cpu"),
        ("openvino-cpu-bf16", "cpu"),
        ("onnx-cuda", "cuda"),
        ("tensorrt", "tensorrt"),
        ("tensorrt (no graphs)", "tensorrt"),
        ("tensorrt_rtx", "tensorrt"),
    ],
)
def test_a_backend_has_a_kind(backend: str, kind: str) -> None:
    assert backend_kind(backend) == kind


def test_one_expert_on_a_gpu_is_enough() -> None:
    assert all_on_cpu(["onnx-cpu", "openvino-cpu"])
    assert not all_on_cpu(["onnx-cpu", "onnx-cuda"])
