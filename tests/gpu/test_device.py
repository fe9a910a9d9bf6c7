"""Batches on a GPU: exact outputs, no allocations and no synchronization."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from runtime.backends import Times
from runtime.backends.gpu.lane import BoundLane
from runtime.backends.gpu.slot import Slot, buckets_up_to
from tests.gpu.small_experts import (
    ALLOCATING,
    LARGEST,
    MIXED,
    NAMES,
    assert_exact,
    device_on,
    outputs_of,
    wait_until,
)

WAITING = ("cuStreamSynchronize", "cuStreamQuery", "onnxruntime synchronize")


@pytest.mark.parametrize(
    ("largest", "buckets"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))]
)
def test_buckets_are_powers_of_two_and_the_largest(largest: int, buckets: tuple[int, ...]) -> None:
    assert buckets_up_to(largest) == buckets


@pytest.mark.parametrize("library", ["cuda-python", "pycuda"])
@pytest.mark.parametrize("backends", ["tensorrt", "onnx", MIXED])
def test_outputs_equal_a_serial_run(
    tmp_path: Path, backends: dict[str, str] | str, library: str
) -> None:
    with device_on(tmp_path, backends, library=library) as (_, built, device):
        assert device.backends.keys() == built.experts.keys()
        for count in range(1, LARGEST + 1):
            views = built.views(count, seed=count)
            batch = device.take(views)
            assert_exact(built, views, outputs_of(batch, NAMES))
            batch.release()


def test_two_batches_run_at_the_same_time(tmp_path: Path) -> None:
    with device_on(tmp_path, MIXED) as (gpu, built, device):
        gpu.hold("execute")
        views = [built.views(2, seed=1), built.views(3, seed=2)]
        batches = [device.take(view) for view in views]
        pending = [[batch.enqueue(name) for name in NAMES] for batch in batches]
        gpu.go()
        for view, batch, started in zip(views, batches, pending, strict=True):
            found = {n: p.result(20).outputs for n, p in zip(NAMES, started, strict=True)}
            assert_exact(built, view, found)
            batch.release()


def test_each_distinct_input_is_uploaded_once(tmp_path: Path) -> None:
    with device_on(tmp_path) as (gpu, built, device):
        before = gpu.calls["cuMemcpyHtoDAsync"]
        batch = device.take(built.views(3))
        outputs_of(batch, NAMES)
        batch.release()
        assert gpu.calls["cuMemcpyHtoDAsync"] - before == 3  # two inputs of side 8, one of 6


@pytest.mark.parametrize(
    ("backends", "graphs"), [("tensorrt", False), ("tensorrt", True), (MIXED, False)]
)
def test_the_hot_path_neither_allocates_nor_synchronizes(
    tmp_path: Path, backends: dict[str, str] | str, graphs: bool
) -> None:
    with device_on(tmp_path, backends, graphs=graphs) as (gpu, built, device):
        before = gpu.calls.copy()
        for count in (1, 5, 3, 6):
            batch = device.take(built.views(count))
            outputs_of(batch, NAMES)
            batch.release()
        for call in (*ALLOCATING, *WAITING, "create_execution_context"):
            assert gpu.calls[call] == before[call], call


def test_a_short_batch_is_padded_with_black(tmp_path: Path) -> None:
    with device_on(tmp_path, slots=1) as (_, built, device):
        for count in (4, 3):
            batch = device.take(built.views(count, seed=1))
            outputs_of(batch, NAMES)
            batch.release()
        rows = batch.slot._lanes["alpha"].expert_lane.outputs.buffers["age_years"].pinned
        assert rows[3] == 0.0  # alpha predicts 0 for black; the batch before had a face there


def test_invalid_views_are_rejected_and_leak_no_slot(tmp_path: Path) -> None:
    with device_on(tmp_path, slots=1) as (_, built, device):
        views = built.views(2)
        face = next(iter(views))
        ragged = {**views, face: views[face][:1]}
        small = {**views, face: views[face][:, :4]}
        for wrong in (built.views(LARGEST + 1), built.views(0), ragged, small):
            with pytest.raises(ValueError, match="Expected"):
                device.take(wrong)
        device.take(views, 20.0).release()


def test_an_answer_has_its_times(tmp_path: Path) -> None:
    with device_on(tmp_path) as (_, built, device):
        batch = device.take(built.views(2))
        times = batch.enqueue("beta").result(20).times
        batch.release()
    assert times.copy > 0
    assert times.execute > 0
    assert times.queue >= 0


def test_no_free_slot_in_time_is_a_timeout(tmp_path: Path) -> None:
    with device_on(tmp_path) as (_, built, device):
        held = [device.take(built.views(1)) for _ in range(2)]
        for timeout in (0.0, 0.01):
            with pytest.raises(TimeoutError):
                device.take(built.views(1), timeout)
        held[0].release()
        device.take(built.views(1), 20.0).release()
        held[1].release()


def test_slots_are_handed_out_in_order(tmp_path: Path) -> None:
    with device_on(tmp_path, slots=1) as (_, built, device):
        held = device.take(built.views(1))
        order: list[int] = []

        def work(number: int) -> None:
            batch = device.take(built.views(1))
            order.append(number)
            batch.release()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for number, thread in enumerate(threads, start=1):
            thread.start()
            wait_until(lambda n=number: len(device._queue._waiting) == n)  # type: ignore[misc]
        with device._queue._changed:  # before any thread can react
            held.release()
            with pytest.raises(TimeoutError):
                device.take(built.views(1), 0.0)
        for thread in threads:
            thread.join(20)
        assert order == list(range(8))


def test_a_late_batch_keeps_its_slot_until_it_ends(tmp_path: Path) -> None:
    with device_on(tmp_path, MIXED, slots=1) as (gpu, built, device):
        gpu.hold("execute")
        late = device.take(built.views(2, seed=1))
        pending = [late.enqueue(name) for name in NAMES]
        for started in pending:
            with pytest.raises(TimeoutError):
                started.result(0.01)
            started.cancel()
        late.release()
        with pytest.raises(TimeoutError):
            device.take(built.views(1), 0.01)
        gpu.go()
        views = built.views(3, seed=2)
        batch = device.take(views, 20.0)
        assert_exact(built, views, outputs_of(batch, NAMES))
        batch.release()


def test_a_released_batch_raises(tmp_path: Path) -> None:
    with device_on(tmp_path) as (_, built, device):
        batch = device.take(built.views(1))
        had, missed = batch.enqueue("alpha"), batch.enqueue("beta")
        answer = had.result(20)
        batch.release()
        batch.release()
        assert had.result(0) is answer
        with pytest.raises(RuntimeError, match="released"):
            missed.result(20)
        with pytest.raises(RuntimeError, match="released"):
            batch.enqueue("gamma")


def test_a_release_during_a_read_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with device_on(tmp_path) as (_, built, device):
        batch = device.take(built.views(1))
        pending = batch.enqueue("alpha")
        times = Slot.times

        def released_meanwhile(slot: Slot, lane: BoundLane, waited: float) -> Times:
            batch.release()
            return times(slot, lane, waited)

        monkeypatch.setattr(Slot, "times", released_meanwhile)
        with pytest.raises(RuntimeError, match="released"):
            pending.result(20)
