"""Every caller gets the result of a serial run, whatever arrives, fails, is cancelled or late."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import CancelledError, Future, wait
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.deadline import Deadline
from runtime.errors import ClosedError, DeadlineError, ImageError, PredictionError
from runtime.results import AgeEstimate
from runtime.serving import Batcher, QueueFullError, TooLateError
from tests.serving.fake_predict import (
    BAD,
    SPOILS_ALWAYS,
    SPOILS_BATCH,
    FakePredict,
    estimate,
    face,
    serial,
)

pytestmark = pytest.mark.usefixtures("no_thread_left")

ARRIVALS = st.lists(
    st.tuples(
        st.sampled_from((0.0, 0.0, 0.0, 0.0005, 0.002)),  # seconds since the one before
        st.sampled_from(("", "", "", BAD, SPOILS_BATCH, SPOILS_ALWAYS)),
        st.sampled_from((None, None, 60_000.0, 90_000.0)),
        st.sampled_from((False, False, False, True)),  # cancelled at once
    ),
    max_size=40,
)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    arrivals=ARRIVALS,
    max_batch=st.integers(1, 6),
    max_wait_ms=st.sampled_from((0.0, 1.0)),
    queue_limit=st.integers(1, 40),
    workers=st.integers(1, 3),
)
def test_any_arrivals_get_the_serial_results(
    arrivals: list[tuple[float, str, float | None, bool]], **options: Any
) -> None:
    predict, accepted = FakePredict(), []
    with Batcher(predict, **options) as batcher:
        for number, (gap, fault, deadline_ms, cancelled) in enumerate(arrivals):
            time.sleep(gap)
            try:
                future = batcher.submit(face(number, fault), deadline_ms=deadline_ms)
            except QueueFullError:
                continue
            accepted.append((number, fault, future, cancelled and future.cancel()))
    for number, fault, future, cancelled in accepted:
        assert future.done()
        assert cancelled == future.cancelled()
        if not cancelled:
            assert outcome(future) == serial(face(number, fault))
    computed = [number for batch in predict.batches for number in batch]
    cancelled_numbers = {number for number, _, _, cancelled in accepted if cancelled}
    assert cancelled_numbers.isdisjoint(computed)
    assert max(map(len, predict.batches), default=0) <= options["max_batch"]


def outcome(future: Future[AgeEstimate]) -> AgeEstimate | type[BaseException]:
    error = future.exception()
    return future.result() if error is None else type(error)


def test_waiting_faces_form_batches_in_order() -> None:
    predict, batches = FakePredict(), []
    predict.open.clear()
    with Batcher(
        predict,
        max_batch=4,
        max_wait_ms=0.0,
        workers=1,
        on_batch=lambda size, waited: batches.append((size, waited >= 0.0)),
    ) as batcher:
        first = batcher.submit(face(0))
        assert predict.begun.acquire(timeout=30.0)
        others = [batcher.submit(face(number)) for number in range(1, 8)]
        assert batcher.waiting == 7
        predict.open.set()
        assert [f.result(30.0) for f in (first, *others)] == [estimate(n) for n in range(8)]
    assert predict.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]
    assert batches == [(1, True), (4, True), (3, True)]


def test_a_full_queue_rejects_at_once_and_drops_cancelled_faces() -> None:
    predict = FakePredict()
    predict.open.clear()
    with Batcher(predict, max_wait_ms=0.0, queue_limit=3, workers=1) as batcher:
        first = batcher.submit(face(0))
        assert predict.begun.acquire(timeout=30.0)
        waiting = batcher.submit_all([face(1), face(2)])
        with pytest.raises(QueueFullError, match="3 faces may wait"):
            batcher.submit_all([face(3), face(4)])
        assert batcher.waiting == 2, "all or nothing"
        assert waiting[0].cancel()
        waiting += batcher.submit_all([face(3), face(4)])
        assert wait(waiting[:1], 30.0).done, "waiters are notified"
        predict.open.set()
        with pytest.raises(CancelledError):
            waiting[0].result(30.0)
        assert [f.result(30.0) for f in (first, *waiting[1:])] == [
            estimate(number) for number in (0, 2, 3, 4)
        ]
    assert predict.batches == [[0], [2, 3, 4]]


def test_a_late_face_is_not_computed() -> None:
    predict = FakePredict(seconds=0.05)
    with Batcher(predict, max_wait_ms=0.0, workers=1) as batcher:
        batcher.submit(face(0)).result(30.0)
        with pytest.raises(TooLateError, match="deadline of 10 ms cannot be met") as caught:
            batcher.submit(face(1), deadline_ms=10.0).result(30.0)
        assert isinstance(caught.value, DeadlineError)
        assert batcher.submit(face(2), deadline_ms=30_000.0).result(30.0) == estimate(2)
        with pytest.raises(ValueError, match="must be positive"):
            batcher.submit(face(3), deadline_ms=0.0)
    assert predict.batches == [[0], [2]]
    assert [deadline and deadline.budget_ms for deadline in predict.deadlines] == [None, 30_000.0]


def test_a_full_batch_runs_at_once() -> None:
    predict = FakePredict()
    with Batcher(predict, max_batch=2, max_wait_ms=60_000.0) as batcher:
        futures = batcher.submit_all([face(0), face(1)])
        assert [future.result(30.0) for future in futures] == [estimate(0), estimate(1)]
    assert predict.batches == [[0, 1]]


def test_rejections_end_after_a_slow_run() -> None:
    predict = FakePredict(seconds=0.05)
    with Batcher(predict, max_wait_ms=0.0, workers=1) as batcher:
        batcher.submit(face(0)).result(30.0)
        predict.seconds = 0.0
        tries = (batcher.submit(face(1), deadline_ms=30.0) for _ in range(60))
        assert any(future.exception(30.0) is None for future in tries)


def test_only_estimates_of_the_same_batch_size_are_timed() -> None:
    predict = FakePredict(seconds=0.2)
    predict.open.clear()
    with Batcher(predict, max_batch=2, max_wait_ms=60_000.0, workers=1) as batcher:
        both = batcher.submit_all([face(0), face(1)])
        predict.open.set()
        assert both[1].result(30.0) == estimate(1)
        predict.seconds = 0.0
        assert batcher.submit(face(2), deadline_ms=190.0).result(30.0) == estimate(2)
    predict = FakePredict(seconds=0.05)
    with Batcher(predict, max_wait_ms=0.0, workers=1) as batcher:
        batcher.submit(face(0)).result(30.0)
        predict.seconds = 0.0
        with pytest.raises(ImageError):
            batcher.submit(face(1, BAD)).result(30.0)
        with pytest.raises(TooLateError):
            batcher.submit(face(2), deadline_ms=10.0).result(30.0)


@pytest.mark.parametrize("error", [DeadlineError({"only": "late"}), RuntimeError("device error")])
def test_a_failed_batch_is_run_singly_unless_its_deadline_passed(error: Exception) -> None:
    sizes: list[int] = []

    def failing(faces: Any, /, **_: Any) -> Any:
        sizes.append(len(faces))
        raise error

    with Batcher(failing, max_batch=2, max_wait_ms=60_000.0, workers=1) as batcher:
        pair = batcher.submit_all([face(1), face(2)], deadline_ms=60_000.0)
        assert [future.exception(30.0) for future in pair] == [error, error]
    expected = [2] if isinstance(error, DeadlineError) else [2, 1, 1]
    assert sizes == expected


def test_the_deadline_is_passed_to_the_prediction() -> None:
    with Batcher(FakePredict(seconds=0.7), max_wait_ms=0.0) as batcher:
        with pytest.raises(DeadlineError, match="deadline of 600 ms passed") as caught:
            batcher.submit(face(1), deadline_ms=600.0).result(30.0)
        assert not isinstance(caught.value, TooLateError), "no run time was known yet"


def test_only_similar_deadlines_share_a_batch() -> None:
    predict = FakePredict()
    predict.open.clear()
    budgets = (None, 30_000.0, None, 31_000.0, 60_000.0)
    with Batcher(predict, max_wait_ms=0.0, workers=1) as batcher:
        batcher.submit(face(0))
        assert predict.begun.acquire(timeout=30.0)
        for number, budget_ms in enumerate(budgets, start=1):
            batcher.submit(face(number), deadline_ms=budget_ms)
        predict.open.set()
    assert predict.batches == [[0], [1, 3], [2, 4], [5]]
    earliest = predict.deadlines[2]
    assert earliest is not None
    assert earliest.budget_ms == 30_000.0


@pytest.mark.parametrize("outcome", [AgeEstimate, PredictionError, DeadlineError])
def test_each_caller_reads_its_own_deadline(outcome: type) -> None:
    def late(faces: Any, /, *, deadline_ms: Any = None) -> Any:
        missing = {"slow": deadline_ms.reason, "broken": "no memory"}
        if outcome is DeadlineError:
            raise DeadlineError(missing)
        result = AgeEstimate(5.0, {}, missing) if outcome is AgeEstimate else outcome(missing)
        return [result] * len(faces)

    budgets = (31_000, Deadline.of(30_000.0), 30_500.0)
    with Batcher(late, max_batch=3, max_wait_ms=60_000.0, workers=1) as batcher:
        futures = [batcher.submit(face(n), deadline_ms=ms) for n, ms in enumerate(budgets)]
        results: list[Any] = [f.exception(30.0) or f.result(30.0) for f in futures]
    assert [type(result) for result in results] == [outcome] * 3
    for result, budget in zip(results, ("31000", "30000", "30500"), strict=True):
        reasons = {"slow": f"deadline of {budget} ms passed", "broken": "no memory"}
        assert result.missing == reasons
        if isinstance(result, PredictionError):
            assert reasons["slow"] in str(result)


def test_closing_completes_accepted_faces_and_rejects_new_ones() -> None:
    predict = FakePredict()
    predict.open.clear()
    batcher = Batcher(predict, max_batch=2, max_wait_ms=60_000.0, workers=2)
    futures = [batcher.submit(face(number)) for number in range(7)]
    closer = threading.Thread(target=batcher.close)
    closer.start()
    assert predict.begun.acquire(timeout=30.0)
    predict.open.set()
    closer.join(30.0)
    assert [future.result(0.0) for future in futures] == [estimate(n) for n in range(7)]
    with pytest.raises(ClosedError, match="closed"):
        batcher.submit(face(1))
    batcher.close()


def test_a_single_face_waits_for_the_maximum_delay() -> None:
    waits: list[float] = []
    with Batcher(
        FakePredict(),
        max_batch=8,
        max_wait_ms=20.0,
        on_batch=lambda _, waited: waits.append(waited),
    ) as batcher:
        assert batcher.submit(face(5)).result(30.0) == estimate(5)
        hurried = batcher.submit(face(6), deadline_ms=600_000.0)
        assert hurried.result(30.0) == estimate(6)
    assert waits[0] >= 0.0195


def test_a_face_waits_at_most_a_tenth_of_its_time() -> None:
    predict, waits = FakePredict(seconds=0.01), []
    with Batcher(
        predict, max_wait_ms=60_000.0, workers=1, on_batch=lambda _, waited: waits.append(waited)
    ) as batcher:
        for number in range(2):  # without measured run times, and with
            future = batcher.submit(face(number), deadline_ms=2000.0)
            assert future.result(30.0) == estimate(number)
        patient = batcher.submit(face(2))
        hurried = batcher.submit(face(3), deadline_ms=2000.0)
        assert [f.result(30.0) for f in (patient, hurried)] == [estimate(2), estimate(3)]
    assert predict.batches == [[0], [1], [2], [3]]
    assert min(waits) >= 0.1995


def test_a_failing_callback_does_not_fail_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    def failing(_size: int, _waited: float) -> None:
        raise RuntimeError("callback error")

    with Batcher(FakePredict(), max_wait_ms=0.0, workers=1, on_batch=failing) as batcher:
        assert [batcher.submit(face(n)).result(30.0) for n in range(3)] == [
            estimate(n) for n in range(3)
        ]
    assert "callback error" in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        {"max_batch": 0},
        {"queue_limit": 0},
        {"workers": 0},
        {"max_wait_ms": -1.0},
        {"max_wait_ms": math.inf},
        {"max_wait_ms": math.nan},
    ],
)
def test_options_out_of_range_are_rejected(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Batcher(FakePredict(), **options)
