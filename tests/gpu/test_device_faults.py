"""A GPU's lanes when something fails: clear errors, no hang, every place and byte given back."""

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
    THREE,
    Shelf,
    answers,
    assert_right,
    device_on,
    error_of,
    open_device,
    stock,
    until,
)

MIXED = {"alpha": "tensorrt", "beta": "onnx", "gamma": "tensorrt"}
NAMES = tuple(THREE)
ALLOCATING = ("cuMemAlloc", "cuMemHostAlloc", "cuEventCreate", "cuStreamCreate")


@pytest.mark.parametrize(
    ("call", "nth"),
    [
        ("execute_async_v3", 1),
        ("run_with_iobinding", 1),
        ("cuMemcpyDtoHAsync", 1),
        ("cuStreamWaitEvent", 1),
        ("cuEventRecord", 2),
        ("cuEventRecord", 4),  # of the mark that everything waits for
    ],
)
def test_what_cannot_be_started_fails_alone_and_its_place_comes_back(
    tmp_path: Path, call: str, nth: int
) -> None:
    with device_on(tmp_path, MIXED, lanes=1) as (gpu, shelf, device):
        views = shelf.views(2)
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
        assert_right(shelf, views, found)
        again = device.take(views, 20.0)
        assert_right(shelf, views, answers(again, NAMES))
        again.release()


def test_a_start_that_failed_half_way_keeps_its_place_until_that_half_ends(tmp_path: Path) -> None:
    with device_on(tmp_path, lanes=1) as (gpu, shelf, device):
        gpu.hold("execute")
        batch = device.take(shelf.views(2))
        gpu.fail("cuMemcpyDtoHAsync", error="CUDA_ERROR_INVALID_VALUE")
        with pytest.raises(CudaError):
            batch.enqueue("alpha").result(20)
        batch.release()
        with pytest.raises(TimeoutError):
            device.take(shelf.views(1), 0.01)
        gpu.go()
        device.take(shelf.views(1), 20.0).release()


@pytest.mark.parametrize("call", ["cuMemcpyHtoDAsync", "cuEventRecord"])
def test_uploads_that_cannot_be_started_give_the_place_back(tmp_path: Path, call: str) -> None:
    with device_on(tmp_path, lanes=1) as (gpu, shelf, device):
        views = shelf.views(2)
        for nth in (1, 2, 3):
            gpu.fail(call, nth=nth, error="CUDA_ERROR_INVALID_VALUE")
            with pytest.raises(CudaError, match="INVALID_VALUE"):
                device.take(views, 20.0)
        batch = device.take(views, 20.0)
        assert_right(shelf, views, answers(batch, NAMES))
        batch.release()


def test_a_lost_device_tells_everybody_at_once(tmp_path: Path) -> None:
    with device_on(tmp_path, MIXED, lanes=1) as (gpu, shelf, device):
        batch = device.take(shelf.views(2))
        raised: list[Exception] = []
        waiting = threading.Thread(
            target=lambda: raised.append(error_of(lambda: device.take(views)))
        )
        views = shelf.views(1)
        waiting.start()
        until(lambda: len(device._queue._waiting) == 1)
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


def test_a_lost_device_is_not_asked_again(tmp_path: Path) -> None:
    """Another thread may have freed what would be asked."""
    with device_on(tmp_path, lanes=1) as (gpu, shelf, device):
        gpu.hold("execute")
        batch = device.take(shelf.views(2))
        pending = {name: batch.enqueue(name) for name in NAMES}
        gpu.crash("execute alpha")
        gpu.go()
        assert isinstance(error_of(lambda: pending["alpha"].result(20)), CudaError)
        asked = gpu.calls["cuEventQuery"]
        assert isinstance(error_of(lambda: pending["beta"].result(20)), CudaError)
        assert gpu.calls["cuEventQuery"] == asked
        batch.release()


def test_a_device_that_is_lost_while_nobody_looks_is_noticed(tmp_path: Path) -> None:
    with device_on(tmp_path, lanes=1) as (gpu, shelf, device):
        batch = device.take(shelf.views(2))
        gpu.crash("execute")
        batch.enqueue("alpha")
        batch.release()
        with pytest.raises(CudaError, match="lost"):
            device.take(shelf.views(1))


def test_the_error_of_a_lost_device_does_not_grow(tmp_path: Path) -> None:
    with device_on(tmp_path, lanes=1) as (gpu, shelf, device):
        gpu.lose("CUDA_ERROR_ILLEGAL_ADDRESS")
        views = shelf.views(1)
        errors = [error_of(lambda: device.take(views)) for _ in range(3)]
        depths = [len(traceback.extract_tb(error.__traceback__)) for error in errors[1:]]
        assert len(set(depths)) == 1
        error_of(lambda: device.take(views))
        assert len(traceback.extract_tb(errors[-1].__traceback__)) == depths[0]


def test_a_device_that_will_not_say_whether_it_is_done_is_not_waited_for(tmp_path: Path) -> None:
    with device_on(tmp_path, lanes=1) as (gpu, shelf, device):
        device.take(shelf.views(1)).release()
        for nth in range(1, 200):
            gpu.fail("cuEventQuery", nth=nth, error="CUDA_ERROR_INVALID_VALUE")
        with pytest.raises(CudaError, match="INVALID_VALUE"):
            device.take(shelf.views(1))


def test_who_waits_for_a_place_hears_of_close(tmp_path: Path) -> None:
    with device_on(tmp_path, lanes=1) as (_, shelf, device):
        batch = device.take(shelf.views(1))
        raised: list[Exception] = []
        waiting = threading.Thread(
            target=lambda: raised.append(error_of(lambda: device.take(shelf.views(1))))
        )
        waiting.start()
        until(lambda: len(device._queue._waiting) == 1)
        closing = threading.Thread(target=device.close)
        closing.start()
        waiting.join(20)
        assert [type(error) for error in raised] == [ClosedError]
        batch.release()
        closing.join(20)


def test_close_waits_for_what_is_under_way(tmp_path: Path) -> None:
    with device_on(tmp_path, MIXED) as (gpu, shelf, device):
        gpu.hold("execute")
        batch = device.take(shelf.views(2))
        for name in NAMES:
            batch.enqueue(name)
        batch.release()
        closing = threading.Thread(target=device.close)
        closing.start()
        until(lambda: device._queue._closed)
        with pytest.raises(ClosedError):
            device.take(shelf.views(1))
        assert closing.is_alive()
        assert gpu.leaks() != []
        gpu.go()
        closing.join(20)
        assert gpu.leaks() == []
        device.close()


def test_close_does_not_wait_forever_and_frees_nothing_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device_module, "_CLOSE_SECONDS", 0.02)
    monkeypatch.setattr(device_module, "_abandoned", [])
    with simulated_gpu() as gpu:
        shelf = stock(gpu, tmp_path)
        device = open_device(shelf)
        gpu.hold("execute")
        batch = device.take(shelf.views(2))
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
def test_a_device_that_cannot_be_made_leaves_nothing_behind(
    tmp_path: Path, call: str, backends: str
) -> None:
    failures = 0
    for nth in (1, 2, 3, 5, 8, 13, 21):
        with simulated_gpu(seed=nth) as gpu:
            shelf = stock(gpu, tmp_path)
            gpu.fail(call, nth=nth, error="CUDA_ERROR_OUT_OF_MEMORY")
            failures += _fails_cleanly(gpu, shelf, backends)
    assert failures >= 3


def test_an_expert_without_room_is_named(tmp_path: Path) -> None:
    with simulated_gpu() as gpu:
        shelf = stock(gpu, tmp_path)
        gpu.fail("cuMemAlloc", nth=4, error="CUDA_ERROR_OUT_OF_MEMORY")
        with pytest.raises(BackendError, match=r"'alpha' does not fit .*OUT_OF_MEMORY.*fewer"):
            open_device(shelf)


def _fails_cleanly(gpu: SimulatedGpu, shelf: Shelf, backends: str) -> bool:
    device: CudaDevice | None = None
    with contextlib.suppress(BackendError):
        device = open_device(shelf, backends)
        device.close()
    assert gpu.leaks() == []
    return device is None
