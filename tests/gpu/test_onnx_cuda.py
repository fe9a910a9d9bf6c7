"""Experts on ONNX Runtime's CUDA provider: on the GPU or refused, never waiting."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from runtime.backends.gpu.cuda_library import open_cuda
from runtime.backends.gpu.device import CudaDevice
from runtime.backends.gpu.onnx_cuda import OnnxCudaExpert
from runtime.errors import BackendError, ContractError, CudaError
from tests.gpu import fake_onnxruntime
from tests.gpu.simulator import simulated_gpu
from tests.gpu.small_experts import (
    THREE,
    answers,
    assert_right,
    device_on,
    open_device,
    open_expert,
    stock,
    until,
)

NAMES = tuple(THREE)


def test_each_expert_has_a_stream_of_its_own_and_exact_arithmetic(tmp_path: Path) -> None:
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


def test_without_a_limit_the_arena_has_none(tmp_path: Path) -> None:
    with simulated_gpu() as gpu:
        shelf = stock(gpu, tmp_path)
        cuda = open_cuda(0)
        expert = OnnxCudaExpert(
            "alpha",
            shelf.experts["alpha"],
            shelf.graph("alpha"),
            tmp_path,
            cuda,
            memory_limit_bytes=None,
        )
        options = expert.session.get_provider_options()["CUDAExecutionProvider"]
        assert "gpu_mem_limit" not in options
        expert.close()
        expert.close()
        cuda.close()
        expert.close()
        assert gpu.leaks() == []


def test_two_batches_share_the_stream_in_order(tmp_path: Path) -> None:
    with device_on(tmp_path, "onnx", lanes=3) as (gpu, shelf, device):
        gpu.hold("upload")
        views = [shelf.views(count, seed=count) for count in (1, 6, 3)]
        batches = [device.take(view) for view in views]
        pending = [batch.enqueue("alpha") for batch in batches]
        gpu.go()
        for view, batch, started in zip(views, batches, pending, strict=True):
            assert_right(shelf, view, {"alpha": started.result(20).outputs})
            batch.release()


def test_a_provider_that_did_not_load_is_noticed(tmp_path: Path) -> None:
    with simulated_gpu(onnx_cuda=False) as gpu:
        shelf = stock(gpu, tmp_path)
        cuda = open_cuda(0)
        with pytest.raises(BackendError, match=r"on CPUExecutionProvider.*\[gpu\].*doctor"):
            open_expert(shelf, "alpha", cuda, "onnx")
        cuda.close()
        assert gpu.leaks() == []


def test_an_onnxruntime_without_cuda_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with simulated_gpu() as gpu:
        shelf = stock(gpu, tmp_path)
        cuda = open_cuda(0)
        fake = fake_onnxruntime.FakeOnnxRuntime
        monkeypatch.setattr(fake, "get_available_providers", lambda _: ["CPUExecutionProvider"])
        with pytest.raises(BackendError, match=r"agemoe-runtime\[gpu\]"):
            open_expert(shelf, "alpha", cuda, "onnx")
        cuda.close()


def test_a_session_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with simulated_gpu() as gpu:
        shelf = stock(gpu, tmp_path)
        gpu.fail("InferenceSession", error="libcudnn is missing")
        cuda = open_cuda(0)
        with pytest.raises(BackendError, match=r"'alpha' on the GPU: libcudnn is missing.*\[gpu\]"):
            open_expert(shelf, "alpha", cuda, "onnx")
        cuda.close()
        assert gpu.leaks() == []


def test_a_graph_that_breaks_the_contract_is_refused(tmp_path: Path) -> None:
    with simulated_gpu() as gpu:
        shelf = stock(gpu, tmp_path)
        cuda = open_cuda(0)
        expert = shelf.experts["alpha"]
        expert = replace(expert, inputs=tuple(replace(spec, width=9) for spec in expert.inputs))
        with pytest.raises(ContractError, match="'alpha'"):
            OnnxCudaExpert(
                "alpha", expert, shelf.graph("alpha"), tmp_path, cuda, memory_limit_bytes=None
            )
        cuda.close()
        assert gpu.leaks() == []


@dataclass
class _Node:
    op_type: str


@dataclass
class _Part:
    ep_name: str
    kinds: tuple[str, ...]

    def get_nodes(self) -> list[_Node]:
        return [_Node(kind) for kind in self.kinds]


def test_what_is_left_to_the_cpu_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parts = [
        _Part("CUDAExecutionProvider", ("Conv", "Relu")),
        _Part("CPUExecutionProvider", ("Shape", "Gather")),
        _Part("CPUExecutionProvider", ("Shape",)),
    ]
    told = "get_provider_graph_assignment_info"
    monkeypatch.setattr(fake_onnxruntime.CudaSession, told, lambda _: parts, raising=False)
    with simulated_gpu() as gpu, caplog.at_level(logging.INFO, "agemoe"):
        shelf = stock(gpu, tmp_path)
        cuda = open_cuda(0)
        expert = open_expert(shelf, "alpha", cuda, "onnx")
        assert isinstance(expert, OnnxCudaExpert)
        assert expert.placed_on_cpu == ("Shape", "Gather", "Shape")
        assert "expert 'alpha' has nodes on the CPU: 2 Shape, 1 Gather" in caplog.text
        expert.close()
        cuda.close()


def test_a_broken_run_at_warm_up_names_the_expert_and_frees_everything(tmp_path: Path) -> None:
    for nth in (1, 4, 9):
        with simulated_gpu() as gpu:
            shelf = stock(gpu, tmp_path)
            gpu.fail("run_with_iobinding", nth=nth, error="CUDNN_STATUS_EXECUTION_FAILED")
            with pytest.raises(BackendError, match=r"executing expert '.*': .*CUDNN_STATUS"):
                open_device(shelf, "onnx")
            assert gpu.leaks() == []


def test_what_has_not_been_launched_can_be_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with device_on(tmp_path, "onnx", lanes=1) as (gpu, shelf, device):
        entered, go_on = _slowed(device, "alpha", monkeypatch)
        batch = device.take(shelf.views(2))
        running = batch.enqueue("alpha")
        assert entered.wait(20)
        waiting = batch.enqueue("alpha")
        assert waiting.cancel()
        assert not running.cancel()
        with pytest.raises(TimeoutError):
            running.result(0.0)
        batch.release()
        with pytest.raises(TimeoutError):
            device.take(shelf.views(1), 0.01)  # its launch is under way
        go_on.set()
        views = shelf.views(3)
        batch = device.take(views, 20)
        assert_right(shelf, views, answers(batch, NAMES))
        batch.release()
        assert gpu.calls["onnxruntime synchronize"] == 0


def test_a_lost_device_is_not_freed_while_the_thread_is_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with device_on(tmp_path, "onnx", lanes=1) as (gpu, shelf, device):
        entered, go_on = _slowed(device, "alpha", monkeypatch)
        batch = device.take(shelf.views(2))
        batch.enqueue("alpha")
        assert entered.wait(20)
        gpu.lose("CUDA_ERROR_ILLEGAL_ADDRESS")
        with pytest.raises(CudaError, match="lost"):
            batch.enqueue("beta").result(20)
        batch.release()
        closing = threading.Thread(target=device.close)
        closing.start()
        until(lambda: device._queue._closed)
        closing.join(0.05)
        assert any("device memory" in leak for leak in gpu.leaks())
        go_on.set()
        closing.join(20)


def _slowed(
    device: CudaDevice, name: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[threading.Event, threading.Event]:
    """Lets an expert's launches wait: an event they set, and one they wait for."""
    entered, go_on = threading.Event(), threading.Event()
    session = cast("OnnxCudaExpert", device._experts[name]).session
    run = session.run_with_iobinding

    def slow(*arguments: Any) -> None:
        entered.set()
        go_on.wait(20)
        run(*arguments)

    monkeypatch.setattr(session, "run_with_iobinding", slow)
    return entered, go_on
