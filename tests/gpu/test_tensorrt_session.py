"""Experts on TensorRT: exact graphs, failures, and the lifetime of engines."""

from __future__ import annotations

import gc
import logging
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from runtime.backends.gpu.tensorrt import TensorRTLane
from runtime.errors import BackendError, ContractError
from tests.gpu import fake_tensorrt
from tests.gpu.fake_models import execution
from tests.gpu.simulator import SimulatedGpu, simulated_gpu
from tests.gpu.small_experts import (
    MIXED,
    NAMES,
    THREE,
    BuiltExperts,
    assert_exact,
    build_experts,
    device_on,
    open_device,
    outputs_of,
)


def test_graphs_are_replayed_with_the_same_outputs(tmp_path: Path) -> None:
    with device_on(tmp_path, graphs=True) as (gpu, built, device):
        assert set(device.backends.values()) == {"tensorrt"}
        before = gpu.calls.copy()
        for count in range(1, 7):
            views = built.views(count, seed=count)
            batch = device.take(views)
            assert_exact(built, views, outputs_of(batch, NAMES))
            batch.release()
        assert gpu.calls["cuGraphLaunch"] - before["cuGraphLaunch"] == 6 * len(NAMES)
        assert gpu.calls["execute_async_v3"] == before["execute_async_v3"]


@pytest.mark.parametrize(("graphs", "contexts"), [(False, 1), (True, 4)])
def test_a_lane_has_one_context_or_one_per_batch_size_with_graphs(
    tmp_path: Path, graphs: bool, contexts: int
) -> None:
    with device_on(tmp_path, graphs=graphs, slots=3) as (gpu, _, _device):
        assert gpu.calls["create_execution_context"] == contexts * len(NAMES) * 3


@pytest.mark.parametrize(
    ("call", "nth", "error"),
    [
        ("cuStreamBeginCapture", 1, "CUDA_ERROR_ILLEGAL_STATE"),
        ("execute_async_v3", 2, "this engine cannot be captured"),
        ("cuMemcpyDtoHAsync", 2, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"),
        ("cuGraphInstantiate", 3, "CUDA_ERROR_OUT_OF_MEMORY"),
        ("cuGraphLaunch", 6, "CUDA_ERROR_INVALID_VALUE"),  # in the second lane
    ],
)
def test_failing_graphs_are_disabled_with_one_warning(
    tmp_path: Path, call: str, nth: int, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    with simulated_gpu() as gpu:
        built = build_experts(gpu, tmp_path, {"alpha": THREE["alpha"]})
        gpu.fail(call, nth=nth, error=error)
        device = open_device(built, graphs=True)
        assert device.backends == {"alpha": "tensorrt (no graphs)"}
        (line,) = [r.message for r in caplog.records if r.levelno == logging.WARNING]
        assert "'alpha' runs without CUDA graphs" in line
        assert error in line
        _assert_works(built, device)
        device.close()
        assert gpu.leaks() == []


def test_graphs_with_different_outputs_are_disabled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def drifting(gpu: SimulatedGpu, label: str, *args: Any) -> Any:
        work = execution(gpu, label, *args)
        captured = any(stream.capture for stream in gpu.streams.by_handle.values())
        return replace(work, run=lambda: None) if captured else work

    monkeypatch.setattr("tests.gpu.fake_tensorrt.execution", drifting)
    with device_on(tmp_path, graphs=True) as (_, built, device):
        assert set(device.backends.values()) == {"tensorrt (no graphs)"}
        assert caplog.text.count("a replay of 1 faces gave different outputs") == len(NAMES)
        _assert_works(built, device)


def test_a_short_batch_runs_in_its_own_shape(tmp_path: Path) -> None:
    with device_on(tmp_path, slots=1) as (_, built, device):
        lane = cast("TensorRTLane", device._slots[0]._expert_lanes[0])
        for count, bucket in ((5, 6), (1, 1), (3, 4)):
            batch = device.take(built.views(count), 20.0)
            batch.enqueue("alpha").result(20)
            batch.release()
            assert lane._contexts[bucket].get_tensor_shape("face")[0] == bucket


def test_a_library_without_graphs_is_logged_once_per_expert(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with device_on(tmp_path, library="pycuda", graphs=True) as (_, built, device):
        assert caplog.text.count("pycuda has none") == len(NAMES)
        _assert_works(built, device)


@pytest.mark.parametrize("graphs", [False, True])
def test_auxiliary_streams_belong_to_one_lane(tmp_path: Path, graphs: bool) -> None:
    with device_on(tmp_path, slots=2, graphs=graphs, aux_streams=3) as (gpu, built, device):
        lanes = [lane for slot in device._slots for lane in slot._expert_lanes]
        used = [
            frozenset(context._aux_streams)
            for lane in cast("list[TensorRTLane]", lanes)
            for context in lane._contexts.values()
        ]
        assert {len(streams) for streams in used} == {3}
        assert len(frozenset().union(*used)) == 3 * len(NAMES) * 2
        assert frozenset().union(*used) <= gpu.streams.by_handle.keys()
        _assert_works(built, device)


def test_a_width_known_only_at_run_time_is_checked_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = fake_tensorrt.Context.get_tensor_shape
    engine_shape = fake_tensorrt.Engine.get_tensor_shape
    monkeypatch.setattr(
        fake_tensorrt.Engine,
        "get_tensor_shape",
        lambda self, name: (-1, -1) if name == "age_probs" else engine_shape(self, name),
    )
    monkeypatch.setattr(
        fake_tensorrt.Context,
        "get_tensor_shape",
        lambda self, name: (1, 7) if name == "age_probs" else shape(self, name),
    )
    with simulated_gpu() as gpu:
        built = build_experts(gpu, tmp_path)
        with pytest.raises(ContractError, match=r"age_probs of expert 'beta' .*\(1, 5\).*\(1, 7\)"):
            open_device(built)
        assert gpu.leaks() == []


@pytest.mark.parametrize("call", ["create_execution_context", "execute_async_v3"])
def test_a_failure_of_tensorrt_names_the_expert_and_frees_everything(
    tmp_path: Path, call: str
) -> None:
    for nth in (1, 2, 5):
        with simulated_gpu() as gpu:
            built = build_experts(gpu, tmp_path)
            gpu.fail(call, nth=nth, error="no more tactics")
            with pytest.raises(BackendError, match=r"TensorRT failed .*no more tactics"):
                open_device(built)
            assert gpu.leaks() == []


def test_a_stored_error_keeps_no_engine_alive(tmp_path: Path) -> None:
    with device_on(tmp_path, MIXED) as (gpu, built, device):
        experts: dict[str, Any] = dict(device._experts)
        alive = [weakref.ref(experts["alpha"].engine), weakref.ref(experts["beta"].session)]
        gpu.fail("execute_async_v3", error="refused")
        gpu.fail("run_with_iobinding", error="refused")
        batch = device.take(built.views(1))
        kept = []
        for name in ("alpha", "beta"):
            with pytest.raises(BackendError, match="refused") as caught:
                batch.enqueue(name).result(20)
            kept.append(caught.value)
        batch.release()
        device.close()
        gc.collect()
        assert [reference() for reference in alive] == [None, None]
        assert len(kept) == 2


def _assert_works(built: BuiltExperts, device: Any) -> None:
    views = built.views(3, seed=9)
    batch = device.take(views)
    found = outputs_of(batch, tuple(built.experts))
    batch.release()
    assert_exact(built, views, found)
    assert np.isfinite(found["alpha"]["age_years"]).all()
