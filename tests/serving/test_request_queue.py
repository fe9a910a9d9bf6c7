"""The rules of batch selection, over arbitrary queues."""

from __future__ import annotations

import math
from concurrent.futures import Future

from hypothesis import given
from hypothesis import strategies as st

from runtime.deadline import Deadline
from runtime.results import AgeEstimate
from runtime.serving.request_queue import SHARED_FRACTION, QueuedFace, RunTimes, select_batch
from tests.serving.fake_predict import face

NOW = 100.0


@st.composite
def queues(draw: st.DrawFn) -> list[QueuedFace]:
    specs = st.tuples(
        st.none() | st.floats(1.0, 1000.0),
        st.floats(-0.5, 1.0),
        st.sampled_from((False,) * 4 + (True,)),
    )
    faces = []
    for number, (budget_ms, until_due, cancelled) in enumerate(draw(st.lists(specs, max_size=24))):
        deadline = None if budget_ms is None else Deadline(NOW + until_due, budget_ms)
        faces.append(QueuedFace(face(number), NOW - 1.0 + number / 100.0, deadline))
        if cancelled:
            faces[-1].future.cancel()
    return faces


@st.composite
def run_times(draw: st.DrawFn) -> RunTimes:
    times = RunTimes()
    for size, seconds in draw(st.dictionaries(st.integers(1, 8), st.floats(0.0, 0.6))).items():
        times.record(size, seconds)
    return times


@given(queues(), st.integers(1, 8), run_times())
def test_every_queue_is_divided_by_the_rules(
    queue: list[QueuedFace], max_batch: int, times: RunTimes
) -> None:
    alive = [queued for queued in queue if not queued.future.cancelled()]
    selection = select_batch(queue, NOW, max_batch, times)

    divided = selection.batch + selection.late + selection.remaining
    assert sorted(map(id, divided)) == sorted(map(id, alive))
    for group in (selection.batch, selection.late, selection.remaining):
        assert group == [queued for queued in alive if queued in group], "order is preserved"
    assert all(
        queued.due - NOW < times.expected(1) or queued.due <= NOW for queued in selection.late
    )
    assert all(
        queued.due > NOW and queued.due - NOW >= times.expected(1)
        for queued in selection.batch + selection.remaining
    )
    possible = [queued for queued in alive if queued not in selection.late]
    assert selection.batch[:1] == possible[:1], "the oldest starts the batch"
    assert len(selection.batch) <= max_batch
    due = min((queued.due for queued in selection.batch), default=math.inf)
    for queued in selection.batch:
        assert (queued.deadline is None) == (due == math.inf)
        if queued.deadline is not None:
            assert queued.due - due <= SHARED_FRACTION * (queued.due - queued.arrived) + 1e-9
            assert due - NOW >= times.expected(len(selection.batch))


class RacingFuture(Future[AgeEstimate]):
    """A future cancelled just after it was checked."""

    def cancelled(self) -> bool:
        return False


def test_a_concurrent_cancellation_does_not_affect_the_batch() -> None:
    gone = QueuedFace(face(1), NOW, Deadline(NOW + 5.0, 5000.0), RacingFuture())
    assert gone.future.cancel()
    stays = QueuedFace(face(2), NOW)
    selection = select_batch([gone, stays], NOW, 8, RunTimes())
    assert (selection.batch, selection.late, selection.remaining) == ([stays], [], [])


def test_a_batch_does_not_outgrow_its_deadline() -> None:
    times = RunTimes()
    times.record(1, 0.01)
    times.record(2, 0.5)
    queue = [QueuedFace(face(n), NOW, Deadline(NOW + 0.1, 100.0)) for n in range(3)]
    selection = select_batch(queue, NOW, 8, times)
    assert (selection.batch, selection.remaining) == (queue[:1], queue[1:])


@given(st.lists(st.floats(0.001, 1.0), min_size=1))
def test_estimates_lie_between_the_fastest_and_the_latest_run(seconds: list[float]) -> None:
    times = RunTimes()
    for duration in seconds:
        times.record(4, duration)
    assert min(seconds) * (1 - 1e-9) <= times.expected(4) <= seconds[-1] * (1 + 1e-9)
    assert times.expected(3) == 0.0
    assert times.expected(9) == times.expected(4)


def test_rejections_lower_the_estimate_until_a_run_is_tried() -> None:
    times = RunTimes()
    times.record(1, 1.0)
    queue = [QueuedFace(face(1), NOW, Deadline(NOW + 0.5, 500.0))]
    rejections = 0
    while not select_batch(list(queue), NOW, 8, times).batch:
        times.record_rejection()
        rejections += 1
        queue = [QueuedFace(face(1), NOW, Deadline(NOW + 0.5, 500.0))]
    assert 1 < rejections < 20
