"""Experts on ONNX Runtime's CUDA provider: on the GPU or rejected, and asynchronous."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from runtime.backends.gpu.device import CudaDevice
from runtime.backends.gpu.onnx_cuda import OnnxCudaExpert
from runtime.errors import BackendError, ContractError, CudaError
from tests.gpu import fake_onnxruntime
from tests.gpu.simulator import simulated_gpu
from tests.gpu.small_experts import (
    NAMES,
    assert_exact,
    build_experts,
    device_on,
    experts_on,
    open_device,
    open_expert,
    outputs_of,
    wait_until,
)


def test_each_expert_has_its_own_stream_and_no_tf32(tmp_path: Path) -> None:
    with device_on(tmp_path, "onnx") as (gpu, _, device):
        experts: dict[str, Any] = dict(device._experts)
        options = {n: e.session.get_provider_options() for n, e in experts.items()}
        streams = {
            chosen["CUDAExecutionProvider"]["user_compute_stream"] for chosen in options.values()
        }
        assert {int(stream) for stream in streams} <= gpu.streams.by_handle.keys()
        assert len(streams) == len(NAMES)
        for chosen in options.values():
            cuda = chosen["CUDAExecutionProvider"]
            assert cuda["use_tf32"] == "0"
            assert cuda["device_id"] == "0"
            assert cuda["arena_extend_strategy"] == "kSameAsRequested"
            assert cuda["gpu_mem_limit"] == str(1 << 20)


def test_the_arena_has_no_limit_by_default(tmp_path: Path) -> None:
    with experts_on(tmp_path) as (gpu, built, cuda):
        graph = built.variant("alpha", built.graph("alpha"))
        expert = OnnxCudaExpert(graph, cuda, memory_limit_bytes=None)
        options = expert.session.get_provider_options()["CUDAExecutionProvider"]
        assert "gpu_mem_limit" not in options
        expert.close()
        expert.close()
        cuda.close()
        expert.close()
        assert gpu.leaks() == []


def test_batches_share_the_stream_in_order(tmp_path: Path) -> None:
    with device_on(tmp_path, "onnx", slots=3) as (gpu, built, device):
        gpu.hold("upload")
        views = [built.views(count, seed=count) for count in (1, 6, 3)]
        batches = [device.take(view) for view in views]
        pending = [batch.enqueue("alpha") for batch in batches]
        gpu.go()
        for view, batch, started in zip(views, batches, pending, strict=True):
            assert_exact(built, view, {"alpha": started.result(20).outputs})
            batch.release()


def test_a_provider_that_did_not_load_is_detected(tmp_path: Path) -> None:
    with (
        experts_on(tmp_path, onnx_cuda=False) as (_, built, cuda),
        pytest.raises(BackendError, match=r"on CPUExecutionProvider.*\[gpu\].*doctor"),
    ):
        open_expert(built, "alpha", cuda, "onnx")


def test_an_onnxruntime_without_cuda_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with experts_on(tmp_path) as (_, built, cuda):
        fake = fake_onnxruntime.FakeOnnxRuntime
        monkeypatch.setattr(fake, "get_available_providers", lambda _: ["CPUExecutionProvider"])
        with pytest.raises(BackendError, match=r"agemoe-runtime\[gpu\]"):
            open_expert(built, "alpha", cuda, "onnx")


def test_a_session_that_cannot_be_opened_reports_the_reason(tmp_path: Path) -> None:
    with experts_on(tmp_path) as (gpu, built, cuda):
        gpu.fail("InferenceSession", error="libcudnn is missing")
        with pytest.raises(BackendError, match=r"'alpha' on the GPU: libcudnn is missing.*\[gpu\]"):
            open_expert(built, "alpha", cuda, "onnx")


def test_a_graph_that_breaks_the_contract_is_rejected(tmp_path: Path) -> None:
    with experts_on(tmp_path) as (_, built, cuda):
        expert = built.experts["alpha"]
        expert = replace(expert, inputs=tuple(replace(spec, width=9) for spec in expert.inputs))
        graph = replace(built.variant("alpha", built.graph("alpha")), expert=expert)
        with pytest.raises(ContractError, match="'alpha'"):
            OnnxCudaExpert(graph, cuda, memory_limit_bytes=None)


@dataclass
class _Node:
    op_type: str


@dataclass
class _Part:
    ep_name: str
    kinds: tuple[str, ...]

    def get_nodes(self) -> list[_Node]:
        return [_Node(kind) for kind in self.kinds]


def test_nodes_on_the_cpu_are_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parts = [
        _Part("CUDAExecutionProvider", ("Conv", "Relu")),
        _Part("CPUExecutionProvider", ("Shape", "Gather")),
        _Part("CPUExecutionProvider", ("Shape",)),
    ]
    method = "get_provider_graph_assignment_info"
    monkeypatch.setattr(fake_onnxruntime.CudaSession, method, lambda _: parts, raising=False)
    with experts_on(tmp_path) as (_, built, cuda), caplog.at_level(logging.INFO, "agemoe"):
        expert = open_expert(built, "alpha", cuda, "onnx")
        assert isinstance(expert, OnnxCudaExpert)
        assert expert.placed_on_cpu == ("Shape", "Gather", "Shape")
        assert "expert 'alpha' has nodes on the CPU: 2 Shape, 1 Gather" in caplog.text
        expert.close()


def test_a_failed_warm_up_names_the_expert_and_frees_everything(tmp_path: Path) -> None:
    for nth in (1, 4, 9):
        with simulated_gpu() as gpu:
            built = build_experts(gpu, tmp_path)
            gpu.fail("run_with_iobinding", nth=nth, error="CUDNN_STATUS_EXECUTION_FAILED")
            with pytest.raises(BackendError, match=r"executing expert '.*': .*CUDNN_STATUS"):
                open_device(built, "onnx")
            assert gpu.leaks() == []


def test_a_launch_that_has_not_begun_can_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with device_on(tmp_path, "onnx", slots=1) as (gpu, built, device):
        entered, resume = _blocked(device, "alpha", monkeypatch)
        batch = device.take(built.views(2))
        running = batch.enqueue("alpha")
        assert entered.wait(20)
        waiting = batch.enqueue("alpha")
        assert waiting.cancel()
        assert not running.cancel()
        with pytest.raises(TimeoutError):
            running.result(0.0)
        batch.release()
        with pytest.raises(TimeoutError):
            device.take(built.views(1), 0.01)  # its launch is in progress
        resume.set()
        views = built.views(3)
        batch = device.take(views, 20)
        assert_exact(built, views, outputs_of(batch, NAMES))
        batch.release()
        assert gpu.calls["onnxruntime synchronize"] == 0


def test_a_lost_device_is_not_freed_during_a_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with device_on(tmp_path, "onnx", slots=1) as (gpu, built, device):
        entered, resume = _blocked(device, "alpha", monkeypatch)
        batch = device.take(built.views(2))
        batch.enqueue("alpha")
        assert entered.wait(20)
        gpu.lose("CUDA_ERROR_ILLEGAL_ADDRESS")
        with pytest.raises(CudaError, match="lost"):
            batch.enqueue("beta").result(20)
        batch.release()
        closing = threading.Thread(target=device.close)
        closing.start()
        wait_until(lambda: device._queue._closed)
        closing.join(0.05)
        assert any("device memory" in leak for leak in gpu.leaks())
        resume.set()
        closing.join(20)


def _blocked(
    device: CudaDevice, name: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[threading.Event, threading.Event]:
    """Blocks an expert's launches; returns the events that they set and wait for."""
    entered, resume = threading.Event(), threading.Event()
    session = cast("OnnxCudaExpert", device._experts[name]).session
    run = session.run_with_iobinding

    def blocked(*arguments: Any) -> None:
        entered.set()
        resume.wait(20)
        run(*arguments)

    monkeypatch.setattr(session, "run_with_iobinding", blocked)
    return entered, resume
