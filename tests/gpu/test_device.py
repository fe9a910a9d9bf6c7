"""A GPU's lanes: right answers, and nothing idle or allocated on the way."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from runtime.backends import Times
from runtime.backends.gpu.lane import BoundLane
from runtime.backends.gpu.slot import Slot, buckets_up_to
from tests.gpu.small_experts import (
    LARGEST,
    THREE,
    answers,
    assert_right,
    device_on,
    until,
)

MIXED = {"alpha": "tensorrt", "beta": "onnx", "gamma": "tensorrt"}
NAMES = tuple(THREE)
ALLOCATING = ("cuMemAlloc", "cuMemHostAlloc", "cuEventCreate", "cuStreamCreate")
WAITING = ("cuStreamSynchronize", "cuStreamQuery", "onnxruntime synchronize")


@pytest.mark.parametrize(
    ("largest", "buckets"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))]
)
def test_buckets_are_powers_of_two_and_the_largest(largest: int, buckets: tuple[int, ...]) -> None:
    assert buckets_up_to(largest) == buckets


@pytest.mark.parametrize("library", ["cuda-python", "pycuda"])
@pytest.mark.parametrize("backends", ["tensorrt", "onnx", MIXED])
def test_answers_are_those_of_a_serial_run(
    tmp_path: Path, backends: dict[str, str] | str, library: str
) -> None:
    with device_on(tmp_path, backends, library=library) as (_, shelf, device):
        assert device.backends.keys() == shelf.experts.keys()
        for count in range(1, LARGEST + 1):
            views = shelf.views(count, seed=count)
            batch = device.take(views)
            assert_right(shelf, views, answers(batch, NAMES))
            batch.release()


def test_two_batches_are_on_the_way_at_the_same_time(tmp_path: Path) -> None:
    with device_on(tmp_path, MIXED) as (gpu, shelf, device):
        gpu.hold("execute")
        views = [shelf.views(2, seed=1), shelf.views(3, seed=2)]
        batches = [device.take(view) for view in views]
        pending = [[batch.enqueue(name) for name in NAMES] for batch in batches]
        gpu.go()
        for view, batch, started in zip(views, batches, pending, strict=True):
            found = {n: p.result(20).outputs for n, p in zip(NAMES, started, strict=True)}
            assert_right(shelf, view, found)
            batch.release()


def test_each_distinct_input_is_uploaded_once_and_only_as_much_as_needed(tmp_path: Path) -> None:
    with device_on(tmp_path) as (gpu, shelf, device):
        before = gpu.calls["cuMemcpyHtoDAsync"]
        batch = device.take(shelf.views(3))
        answers(batch, NAMES)
        batch.release()
        assert gpu.calls["cuMemcpyHtoDAsync"] - before == 3  # face and person of 8, face of 6


@pytest.mark.parametrize(
    ("backends", "graphs"), [("tensorrt", False), ("tensorrt", True), (MIXED, False)]
)
def test_nothing_is_allocated_or_waited_for_on_the_way(
    tmp_path: Path, backends: dict[str, str] | str, graphs: bool
) -> None:
    with device_on(tmp_path, backends, graphs=graphs) as (gpu, shelf, device):
        before = gpu.calls.copy()
        for count in (1, 5, 3, 6):
            batch = device.take(shelf.views(count))
            answers(batch, NAMES)
            batch.release()
        for call in (*ALLOCATING, *WAITING, "create_execution_context"):
            assert gpu.calls[call] == before[call], call


def test_a_short_batch_is_filled_up_with_black(tmp_path: Path) -> None:
    with device_on(tmp_path, lanes=1) as (_, shelf, device):
        for count in (4, 3):
            batch = device.take(shelf.views(count, seed=1))
            answers(batch, NAMES)
            batch.release()
        rows = batch.slot._lanes["alpha"].expert_lane.outputs.buffers["age_years"].pinned
        assert rows[3] == 0.0  # alpha says 0 of black; the last batch had another face there


def test_what_does_not_fit_is_refused_and_no_place_is_lost(tmp_path: Path) -> None:
    with device_on(tmp_path, lanes=1) as (_, shelf, device):
        views = shelf.views(2)
        face = next(iter(views))
        ragged = {**views, face: views[face][:1]}
        small = {**views, face: views[face][:, :4]}
        for wrong in (shelf.views(LARGEST + 1), shelf.views(0), ragged, small):
            with pytest.raises(ValueError, match="Expected"):
                device.take(wrong)
        device.take(views, 20.0).release()


def test_an_answer_tells_where_its_time_went(tmp_path: Path) -> None:
    with device_on(tmp_path) as (_, shelf, device):
        batch = device.take(shelf.views(2))
        times = batch.enqueue("beta").result(20).times
        batch.release()
    assert times.copy > 0
    assert times.execute > 0
    assert times.queue >= 0


def test_no_place_in_time_is_a_timeout(tmp_path: Path) -> None:
    with device_on(tmp_path) as (_, shelf, device):
        held = [device.take(shelf.views(1)) for _ in range(2)]
        for timeout in (0.0, 0.01):
            with pytest.raises(TimeoutError):
                device.take(shelf.views(1), timeout)
        held[0].release()
        device.take(shelf.views(1), 20.0).release()
        held[1].release()


def test_places_go_to_who_waited_longest(tmp_path: Path) -> None:
    with device_on(tmp_path, lanes=1) as (_, shelf, device):
        held = device.take(shelf.views(1))
        order: list[int] = []

        def work(number: int) -> None:
            batch = device.take(shelf.views(1))
            order.append(number)
            batch.release()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for number, thread in enumerate(threads, start=1):
            thread.start()
            until(lambda n=number: len(device._queue._waiting) == n)  # type: ignore[misc]
        with device._queue._changed:  # before anybody could notice
            held.release()
            with pytest.raises(TimeoutError):
                device.take(shelf.views(1), 0.0)
        for thread in threads:
            thread.join(20)
        assert order == list(range(8))


def test_a_late_batch_keeps_its_place_until_it_ends_and_harms_no_other(tmp_path: Path) -> None:
    with device_on(tmp_path, MIXED, lanes=1) as (gpu, shelf, device):
        gpu.hold("execute")
        late = device.take(shelf.views(2, seed=1))
        pending = [late.enqueue(name) for name in NAMES]
        for started in pending:
            with pytest.raises(TimeoutError):
                started.result(0.01)
            started.cancel()
        late.release()
        with pytest.raises(TimeoutError):
            device.take(shelf.views(1), 0.01)
        gpu.go()
        views = shelf.views(3, seed=2)
        batch = device.take(views, 20.0)
        assert_right(shelf, views, answers(batch, NAMES))
        batch.release()


def test_a_released_batch_reads_and_starts_nothing(tmp_path: Path) -> None:
    with device_on(tmp_path) as (_, shelf, device):
        batch = device.take(shelf.views(1))
        had, missed = batch.enqueue("alpha"), batch.enqueue("beta")
        answer = had.result(20)
        batch.release()
        batch.release()
        assert had.result(0) is answer
        with pytest.raises(RuntimeError, match="released"):
            missed.result(20)
        with pytest.raises(RuntimeError, match="released"):
            batch.enqueue("gamma")


def test_what_was_read_while_the_batch_was_released_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with device_on(tmp_path) as (_, shelf, device):
        batch = device.take(shelf.views(1))
        pending = batch.enqueue("alpha")
        times = Slot.times

        def released_meanwhile(slot: Slot, lane: BoundLane, waited: float) -> Times:
            batch.release()
            return times(slot, lane, waited)

        monkeypatch.setattr(Slot, "times", released_meanwhile)
        with pytest.raises(RuntimeError, match="released"):
            pending.result(20)
