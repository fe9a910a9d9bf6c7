"""Backend names and the load of the machine."""

from __future__ import annotations

import pytest

from benchmarks.environment import all_on_cpu, backend_kind, busy


@pytest.mark.parametrize(
    ("backend", "kind"),
    [
        ("onnx-cpu", "cpu"),
        ("openvino-cpu-bf16", "cpu"),
        ("onnx-cuda", "cuda"),
        ("tensorrt", "tensorrt"),
        ("tensorrt_rtx", "tensorrt"),
    ],
)
def test_backend_kind(backend: str, kind: str) -> None:
    assert backend_kind(backend) == kind


def test_all_on_cpu_is_false_with_one_expert_on_a_gpu() -> None:
    assert all_on_cpu(["onnx-cpu", "openvino-cpu"])
    assert not all_on_cpu(["onnx-cpu", "onnx-cuda"])


def test_busy_from_a_load_of_half_a_program_per_core() -> None:
    assert busy([1.1, 0.0, 0.0], 2)
    assert not busy([0.9, 9.0, 9.0], 2)
