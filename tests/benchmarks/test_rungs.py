"""Where an expert runs, by its backend's name."""

from __future__ import annotations

import pytest

from benchmarks.machine import busy
from benchmarks.subjects import all_on_cpu, backend_kind


@pytest.mark.parametrize(
    ("backend", "rung"),
    [
        ("onnx-cpu", "cpu"),
        ("openvino-cpu-bf16", "cpu"),
        ("onnx-cuda", "cuda"),
        ("tensorrt", "tensorrt"),
        ("tensorrt_rtx", "tensorrt"),
    ],
)
def test_backend_kind_a_backend(backend: str, rung: str) -> None:
    assert backend_kind(backend) == rung


def test_one_expert_on_a_gpu_is_enough() -> None:
    assert all_on_cpu(["onnx-cpu", "openvino-cpu"])
    assert not all_on_cpu(["onnx-cpu", "onnx-cuda"])


def test_a_machine_is_busy_from_half_a_program_per_core() -> None:
    assert busy([1.1, 0.0, 0.0], 2)
    assert not busy([0.9, 9.0, 9.0], 2)
