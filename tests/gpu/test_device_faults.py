"""Failures on a GPU: clear errors, no hang, no leak of slots or memory."""

from __future__ import annotations

import contextlib
import logging
import threading
import traceback
from pathlib import Path

import pytest

from runtime.backends.gpu import device as device_module
from runtime.backends.gpu.device import CudaDevice
from runtime.errors import BackendError, ClosedError, CudaError
from tests.gpu.simulator import SimulatedGpu, simulated_gpu
from tests.gpu.small_experts import (
    ALLOCATING,
    MIXED,
    NAMES,
    BuiltExperts,
    assert_exact,
    build_experts,
    device_on,
    error_of,
    open_device,
    outputs_of,
    wait_until,
)


@pytest.mark.parametrize(
    ("call", "nth"),
    [
        ("execute_async_v3", 1),
        ("run_with_iobinding", 1),
        ("cuMemcpyDtoHAsync", 1),
        ("cuStreamWaitEvent", 1),
        ("cuEventRecord", 2),
        ("cuEventRecord", 4),  # of the event that completes the batch
    ],
)
def test_a_failed_launch_fails_alone_and_its_slot_is_reused(
    tmp_path: Path, call: str, nth: int
) -> None:
    with device_on(tmp_path, MIXED, slots=1) as (gpu, built, device):
        views = built.views(2)
        batch = device.take(views)
        gpu.fail(call, nth=nth, error="CUDA_ERROR_INVALID_VALUE")
        pending = {name: batch.enqueue(name) for name in NAMES}
        found, failed = {}, []
        for name, started in pending.items():
            try:
                found[name] = started.result(20).outputs
            except BackendError as error:
                failed.append(error)
        batch.release()
        assert len(failed) == 1
        assert_exact(built, views, found)
        again = device.take(views, 20.0)
        assert_exact(built, views, outputs_of(again, NAMES))
        again.release()


def test_a_partly_enqueued_launch_keeps_its_slot_until_it_ends(tmp_path: Path) -> None:
    with device_on(tmp_path, slots=1) as (gpu, built, device):
        gpu.hold("execute")
        batch = device.take(built.views(2))
        gpu.fail("cuMemcpyDtoHAsync", error="CUDA_ERROR_INVALID_VALUE")
        with pytest.raises(CudaError):
            batch.enqueue("alpha").result(20)
        batch.release()
        with pytest.raises(TimeoutError):
            device.take(built.views(1), 0.01)
        gpu.go()
        device.take(built.views(1), 20.0).release()


@pytest.mark.parametrize("call", ["cuMemcpyHtoDAsync", "cuEventRecord"])
def test_a_failed_upload_returns_the_slot(tmp_path: Path, call: str) -> None:
    with device_on(tmp_path, slots=1) as (gpu, built, device):
        views = built.views(2)
        for nth in (1, 2, 3):
            gpu.fail(call, nth=nth, error="CUDA_ERROR_INVALID_VALUE")
            with pytest.raises(CudaError, match="INVALID_VALUE"):
                device.take(views, 20.0)
        batch = device.take(views, 20.0)
        assert_exact(built, views, outputs_of(batch, NAMES))
        batch.release()


def test_a_lost_device_fails_all_callers_at_once(tmp_path: Path) -> None:
    with device_on(tmp_path, MIXED, slots=1) as (gpu, built, device):
        batch = device.take(built.views(2))
        raised: list[Exception] = []
        waiting = threading.Thread(
            target=lambda: raised.append(error_of(lambda: device.take(views)))
        )
        views = built.views(1)
        waiting.start()
        wait_until(lambda: len(device._queue._waiting) == 1)
        gpu.crash("execute alpha")
        pending = {name: batch.enqueue(name) for name in NAMES}
        assert error_of(lambda: pending["alpha"].result(20)).lost  # type: ignore[attr-defined]
        for name in ("beta", "gamma"):
            assert isinstance(error_of(lambda n=name: pending[n].result(20)), BackendError)  # type: ignore[misc]
        batch.release()
        waiting.join(20)
        for error in (*raised, error_of(lambda: device.take(views))):
            assert isinstance(error, CudaError)
            assert error.lost


def test_a_lost_device_is_not_queried_again(tmp_path: Path) -> None:
    """Another thread may have freed the events."""
    with device_on(tmp_path, slots=1) as (gpu, built, device):
        gpu.hold("execute")
        batch = device.take(built.views(2))
        pending = {name: batch.enqueue(name) for name in NAMES}
        gpu.crash("execute alpha")
        gpu.go()
        assert isinstance(error_of(lambda: pending["alpha"].result(20)), CudaError)
        queries = gpu.calls["cuEventQuery"]
        assert isinstance(error_of(lambda: pending["beta"].result(20)), CudaError)
        assert gpu.calls["cuEventQuery"] == queries
        batch.release()


def test_the_loss_of_an_unattended_device_is_noticed(tmp_path: Path) -> None:
    with device_on(tmp_path, slots=1) as (gpu, built, device):
        batch = device.take(built.views(2))
        gpu.crash("execute")
        batch.enqueue("alpha")
        batch.release()
        with pytest.raises(CudaError, match="lost"):
            device.take(built.views(1))


def test_the_error_of_a_lost_device_does_not_grow(tmp_path: Path) -> None:
    with device_on(tmp_path, slots=1) as (gpu, built, device):
        gpu.lose("CUDA_ERROR_ILLEGAL_ADDRESS")
        views = built.views(1)
        errors = [error_of(lambda: device.take(views)) for _ in range(3)]
        depths = [len(traceback.extract_tb(error.__traceback__)) for error in errors[1:]]
        assert len(set(depths)) == 1
        error_of(lambda: device.take(views))
        assert len(traceback.extract_tb(errors[-1].__traceback__)) == depths[0]


def test_a_device_whose_queries_fail_counts_as_lost(tmp_path: Path) -> None:
    with device_on(tmp_path, slots=1) as (gpu, built, device):
        device.take(built.views(1)).release()
        for nth in range(1, 200):
            gpu.fail("cuEventQuery", nth=nth, error="CUDA_ERROR_INVALID_VALUE")
        with pytest.raises(CudaError, match="INVALID_VALUE"):
            device.take(built.views(1))


def test_close_ends_the_wait_for_a_slot(tmp_path: Path) -> None:
    with device_on(tmp_path, slots=1) as (_, built, device):
        batch = device.take(built.views(1))
        raised: list[Exception] = []
        waiting = threading.Thread(
            target=lambda: raised.append(error_of(lambda: device.take(built.views(1))))
        )
        waiting.start()
        wait_until(lambda: len(device._queue._waiting) == 1)
        closing = threading.Thread(target=device.close)
        closing.start()
        waiting.join(20)
        assert [type(error) for error in raised] == [ClosedError]
        batch.release()
        closing.join(20)


def test_close_waits_for_the_work_in_progress(tmp_path: Path) -> None:
    with device_on(tmp_path, MIXED) as (gpu, built, device):
        gpu.hold("execute")
        batch = device.take(built.views(2))
        for name in NAMES:
            batch.enqueue(name)
        batch.release()
        closing = threading.Thread(target=device.close)
        closing.start()
        wait_until(lambda: device._queue._closed)
        with pytest.raises(ClosedError):
            device.take(built.views(1))
        assert closing.is_alive()
        assert gpu.leaks() != []
        gpu.go()
        closing.join(20)
        assert gpu.leaks() == []
        device.close()


def test_close_gives_up_in_the_end_and_frees_nothing_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device_module, "_CLOSE_SECONDS", 0.02)
    monkeypatch.setattr(device_module, "_abandoned", [])
    with simulated_gpu() as gpu:
        built = build_experts(gpu, tmp_path)
        device = open_device(built)
        gpu.hold("execute")
        batch = device.take(built.views(2))
        batch.enqueue("alpha")
        batch.release()
        with caplog.at_level(logging.ERROR, "agemoe"):
            device.close()
        assert "still busy" in caplog.text
        assert gpu.leaks() != []
        gpu.go()
        gpu.drain()


@pytest.mark.parametrize("backends", ["tensorrt", "onnx"])
@pytest.mark.parametrize("call", [*ALLOCATING, "cuMemcpyHtoDAsync", "cuStreamSynchronize"])
def test_a_device_that_cannot_be_opened_leaks_nothing(
    tmp_path: Path, call: str, backends: str
) -> None:
    failures = 0
    for nth in (1, 2, 3, 5, 8, 13, 21):
        with simulated_gpu(seed=nth) as gpu:
            built = build_experts(gpu, tmp_path)
            gpu.fail(call, nth=nth, error="CUDA_ERROR_OUT_OF_MEMORY")
            failures += _fails_cleanly(gpu, built, backends)
    assert failures >= 3


def test_an_expert_that_does_not_fit_is_named(tmp_path: Path) -> None:
    with simulated_gpu() as gpu:
        built = build_experts(gpu, tmp_path)
        gpu.fail("cuMemAlloc", nth=4, error="CUDA_ERROR_OUT_OF_MEMORY")
        with pytest.raises(BackendError, match=r"'alpha' does not fit .*OUT_OF_MEMORY.*fewer"):
            open_device(built)


def _fails_cleanly(gpu: SimulatedGpu, built: BuiltExperts, backends: str) -> bool:
    device: CudaDevice | None = None
    with contextlib.suppress(BackendError):
        device = open_device(built, backends)
        device.close()
    assert gpu.leaks() == []
    return device is None
