"""Which requests go together: every rule, over any queue."""

from __future__ import annotations

import math
from concurrent.futures import Future

from hypothesis import given
from hypothesis import strategies as st

from runtime.deadline import Deadline
from runtime.results import AgeEstimate
from runtime.serving.request_queue import SHARED_BUDGET, Request, RunTimes, take
from tests.serving.fake_predict import face

NOW = 100.0


@st.composite
def queues(draw: st.DrawFn) -> list[Request]:
    specs = st.tuples(
        st.none() | st.floats(1.0, 1000.0),
        st.floats(-0.5, 1.0),
        st.sampled_from((False,) * 4 + (True,)),
    )
    requests = []
    for number, (budget_ms, until_due, cancelled) in enumerate(draw(st.lists(specs, max_size=24))):
        deadline = None if budget_ms is None else Deadline(NOW + until_due, budget_ms)
        requests.append(Request(face(number), NOW - 1.0 + number / 100.0, deadline))
        if cancelled:
            requests[-1].future.cancel()
    return requests


@st.composite
def experience(draw: st.DrawFn) -> RunTimes:
    times = RunTimes()
    for size, seconds in draw(st.dictionaries(st.integers(1, 8), st.floats(0.0, 0.6))).items():
        times.ran(size, seconds)
    return times


@given(queues(), st.integers(1, 8), experience())
def test_every_queue_is_divided_by_the_rules(
    queue: list[Request], largest: int, times: RunTimes
) -> None:
    alive = [request for request in queue if not request.future.cancelled()]
    taken = take(queue, NOW, largest, times)

    assert sorted(map(id, taken.batch + taken.late + taken.left)) == sorted(map(id, alive))
    for group in (taken.batch, taken.late, taken.left):
        assert group == [request for request in alive if request in group], "order is kept"
    assert all(request.due - NOW < times.hoped(1) or request.due <= NOW for request in taken.late)
    assert all(
        request.due > NOW and request.due - NOW >= times.hoped(1)
        for request in taken.batch + taken.left
    )
    possible = [request for request in alive if request not in taken.late]
    assert taken.batch[:1] == possible[:1], "the oldest leads"
    assert len(taken.batch) <= largest
    due = min((request.due for request in taken.batch), default=math.inf)
    for request in taken.batch:
        assert (request.deadline is None) == (due == math.inf)
        if request.deadline is not None:
            assert request.due - due <= SHARED_BUDGET * (request.due - request.arrived) + 1e-9
            assert due - NOW >= times.hoped(len(taken.batch))


class Elusive(Future[AgeEstimate]):
    """Cancelled a moment after it was looked at."""

    def cancelled(self) -> bool:
        return False


def test_what_is_cancelled_this_very_moment_neither_runs_nor_decides_who_does() -> None:
    gone = Request(face(1), NOW, Deadline(NOW + 5.0, 5000.0), Elusive())
    assert gone.future.cancel()
    stays = Request(face(2), NOW)
    taken = take([gone, stays], NOW, 8, RunTimes())
    assert (taken.batch, taken.late, taken.left) == ([stays], [], [])


def test_a_batch_does_not_grow_beyond_its_time() -> None:
    times = RunTimes()
    times.ran(1, 0.01)
    times.ran(2, 0.5)
    queue = [Request(face(n), NOW, Deadline(NOW + 0.1, 100.0)) for n in range(3)]
    taken = take(queue, NOW, 8, times)
    assert (taken.batch, taken.left) == (queue[:1], queue[1:])


@given(st.lists(st.floats(0.001, 1.0), min_size=1))
def test_hope_lies_between_the_quickest_and_the_latest(seconds: list[float]) -> None:
    times = RunTimes()
    for duration in seconds:
        times.ran(4, duration)
    assert min(seconds) * (1 - 1e-9) <= times.hoped(4) <= seconds[-1] * (1 + 1e-9)
    assert times.hoped(3) == 0.0
    assert times.hoped(9) == times.hoped(4)


def test_refusals_wear_hope_down_until_one_is_tried() -> None:
    times = RunTimes()
    times.ran(1, 1.0)
    queue = [Request(face(1), NOW, Deadline(NOW + 0.5, 500.0))]
    refusals = 0
    while not take(list(queue), NOW, 8, times).batch:
        times.refused()
        refusals += 1
        queue = [Request(face(1), NOW, Deadline(NOW + 0.5, 500.0))]
    assert 1 < refusals < 20
