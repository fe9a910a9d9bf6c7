"""The executor: order, splitting, deadlines and faults."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from runtime.backends import Batch, Inputs, Outputs, Views
from runtime.backends.cpu import CpuDevice
from runtime.deadline import Deadline
from runtime.errors import DeadlineError, PredictionError
from runtime.executor import Executor
from runtime.geometry import Geometry
from runtime.manifest import BatchProfile, Expert, InputSpec, Source
from runtime.stats import Statistics
from tests.runtime.fakes import FakeSession, Hold, Predicts, bright

Run = Callable[..., Executor]
pytestmark = pytest.mark.usefixtures("no_thread_left")


SPEC = InputSpec("face", 2, 2, Geometry())


def expert(largest: int = 4, outputs: tuple[str, ...] = ("age_years",)) -> Expert:
    grid = (0.0, 50.0, 100.0) if "age_probs" in outputs else None
    source = Source("random", "", None)
    return Expert("tiny", source, (SPEC,), outputs, grid, BatchProfile(1, 1, largest), ())


def executor_of(sessions: dict[str, FakeSession]) -> Executor:
    experts = {name: expert() for name in sessions}
    return Executor(experts, [CpuDevice(experts, sessions)], Statistics(experts))


@pytest.fixture
def opened() -> Iterator[Callable[[dict[str, FakeSession]], Executor]]:
    with ExitStack() as stack:

        def open_executor(sessions: dict[str, FakeSession]) -> Executor:
            executor = executor_of(sessions)
            stack.callback(executor.close)
            return executor

        yield open_executor


def faces(*values: int) -> Views:
    return {SPEC: np.stack([np.full((2, 2, 3), value, np.uint8) for value in values])}


def fails(error: Exception) -> Predicts:
    def answer(_: Inputs) -> Outputs:
        raise error

    return answer


def predicts(array: list[object], name: str = "age_years") -> Predicts:
    return lambda _: {name: np.array(array, np.float32)}


def test_batches_over_the_profile_are_split_and_joined_in_order(opened: Run) -> None:
    session = FakeSession()
    values = list(range(0, 220, 20))
    answers = opened({"a": session}).run(faces(*values))
    assert session.batches == [4, 4, 3]
    assert answers.outputs["a"]["age_years"] == pytest.approx([v / 2.55 for v in values])
    assert answers.missing == {}


def test_experts_run_at_the_same_time(opened: Run) -> None:
    meeting = threading.Barrier(3, timeout=30.0)

    def meet(inputs: Inputs) -> Outputs:
        meeting.wait()
        return bright(inputs)

    executor = opened({name: FakeSession(meet) for name in "abc"})
    assert list(executor.run(faces(1)).outputs) == ["a", "b", "c"]


def test_a_failing_expert_is_missing_and_the_others_answer(opened: Run) -> None:
    executor = opened({"a": FakeSession(fails(RuntimeError("no luck"))), "b": FakeSession()})
    answers = executor.run(faces(1, 2))
    assert answers.missing == {"a": "failed: RuntimeError: no luck"}
    assert list(answers.outputs) == ["b"]


@pytest.mark.parametrize("with_deadline", [False, True])
def test_when_all_fail_every_reason_is_reported(opened: Run, *, with_deadline: bool) -> None:
    executor = opened({n: FakeSession(fails(OSError(n))) for n in "ab"})
    deadline = Deadline.of(60_000) if with_deadline else None
    with pytest.raises(PredictionError, match=r"None of the 2 experts.*a: failed.*b: failed") as e:
        executor.run(faces(1), deadline)
    assert not isinstance(e.value, DeadlineError)
    assert set(e.value.missing) == {"a", "b"}


def test_an_experts_own_timeout_is_a_failure_not_a_deadline(opened: Run) -> None:
    executor = opened({"a": FakeSession(fails(TimeoutError("disk"))), "b": FakeSession()})
    answers = executor.run(faces(1), Deadline.of(60_000))
    assert answers.missing == {"a": "failed: TimeoutError: disk"}


@pytest.mark.parametrize(
    "shape",
    [[1.0], [1.0, 2.0, 3.0], [[1.0], [2.0]], []],
    ids=["too few", "too many", "a column", "none"],
)
def test_an_answer_of_another_shape_is_a_failure(opened: Run, shape: list[object]) -> None:
    executor = opened({"a": FakeSession(predicts(shape)), "b": FakeSession()})
    answers = executor.run(faces(1, 2))
    assert "ContractError: age_years must have shape (2,)" in answers.missing["a"]


def test_an_answer_without_ages_is_a_failure(opened: Run) -> None:
    executor = opened({"a": FakeSession(predicts([1.0], "years")), "b": FakeSession()})
    assert "KeyError" in executor.run(faces(1)).missing["a"]


def test_an_enqueue_that_raises_is_a_failure(opened: Run) -> None:
    closed = FakeSession()
    closed.close()
    executor = opened({"a": closed, "b": FakeSession()})
    answers = executor.run(faces(1))
    assert answers.missing["a"].startswith("failed: RuntimeError")


def test_a_late_expert_is_missing_and_its_queued_parts_are_cancelled(opened: Run) -> None:
    hold = Hold()
    slow = FakeSession(hold)
    executor = opened({"a": slow, "b": FakeSession()})
    hold.holding = True
    answers = executor.run(faces(*range(12)), Deadline.of(400))
    assert answers.missing == {"a": "deadline of 400 ms passed"}
    assert len(answers.outputs["b"]["age_years"]) == 12
    hold.holding = False
    hold.released.set()
    executor.run(faces(1))
    assert slow.batches in ([4, 1], [1])  # the two other parts were never computed


def test_all_experts_late_is_a_deadline_error(opened: Run) -> None:
    hold = Hold()
    executor = opened({"a": FakeSession(hold)})
    hold.holding = True
    with pytest.raises(DeadlineError, match="deadline of 20 ms passed"):
        executor.run(faces(1), Deadline.of(20))
    hold.released.set()


def test_late_and_failed_experts_together_are_not_a_deadline_error(opened: Run) -> None:
    hold = Hold()
    executor = opened({"a": FakeSession(hold), "b": FakeSession(fails(ValueError("bad")))})
    hold.holding = True
    with pytest.raises(PredictionError) as caught:
        executor.run(faces(1), Deadline.of(400))
    hold.released.set()
    assert not isinstance(caught.value, DeadlineError)


def test_after_the_deadline_nothing_is_started(opened: Run) -> None:
    session = FakeSession()
    executor = opened({"a": session})
    with pytest.raises(DeadlineError):
        executor.run(faces(1), Deadline(0.0, 5.0))
    assert session.batches == []


@pytest.mark.parametrize("budget", [0, -1, math.nan])
def test_a_deadline_has_to_be_positive(budget: float) -> None:
    with pytest.raises(ValueError, match="deadline_ms must be positive"):
        Deadline.of(budget)


@pytest.mark.parametrize("budget", [math.inf, 1e300, 1e14])
def test_a_deadline_may_be_arbitrarily_far(opened: Run, budget: float) -> None:
    def slow(inputs: Inputs) -> Outputs:
        time.sleep(0.05)  # the executor has to wait
        return bright(inputs)

    executor = opened({"a": FakeSession(slow)})
    assert executor.run(faces(1), Deadline.of(budget)).missing == {}


def test_a_session_that_fails_to_close_does_not_stop_the_others() -> None:
    class Stuck(FakeSession):
        def close(self) -> None:
            super().close()
            raise OSError("stuck")

    sessions = {"a": FakeSession(), "b": Stuck(), "c": FakeSession()}
    executor = executor_of(sessions)
    with pytest.raises(OSError, match="stuck"):
        executor.close()
    assert [session.closes for session in sessions.values()] == [1, 1, 1]


def in_sequence(sessions: dict[str, FakeSession]) -> Executor:
    executor = executor_of(sessions)
    executor.mode = "sequence"
    return executor


def test_in_sequence_one_expert_runs_at_a_time() -> None:
    running, most = 0, 0
    lock = threading.Lock()

    def alone(inputs: Inputs) -> Outputs:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with lock:
            running -= 1
        return bright(inputs)

    sessions = {name: FakeSession(alone) for name in "abc"}
    executor = in_sequence(sessions)
    answers = executor.run(faces(*range(10)))
    executor.close()
    assert most == 1
    assert [session.batches for session in sessions.values()] == [[4, 4, 2]] * 3
    for name in "abc":
        assert answers.outputs[name]["age_years"] == pytest.approx([v / 2.55 for v in range(10)])


def test_with_a_deadline_a_slow_expert_does_not_delay_a_sequence() -> None:
    hold = Hold()
    hold.holding = True
    executor = in_sequence({"a": FakeSession(hold), "b": FakeSession()})
    answers = executor.run(faces(1), Deadline.of(400))
    hold.released.set()
    executor.close()
    assert list(answers.outputs) == ["b"]


class OneSlot:
    """A device for one batch at a time, as a GPU with one slot."""

    def __init__(self, experts: dict[str, Expert], sessions: dict[str, FakeSession]) -> None:
        self.cpu = CpuDevice(experts, sessions)
        self.free = threading.Semaphore(1)
        self.backends = self.cpu.backends
        self.close = self.cpu.close

    def take(self, views: Views, timeout: float | None = None) -> Batch:
        if not self.free.acquire(timeout=timeout):
            raise TimeoutError
        return SlotBatch(self, self.cpu.take(views))


class SlotBatch:
    def __init__(self, device: OneSlot, batch: Batch) -> None:
        self.device = device
        self.enqueue = batch.enqueue

    def release(self) -> None:
        self.device.free.release()


def test_parts_wait_for_slots_without_a_deadlock_of_callers() -> None:
    experts = {name: expert() for name in "ab"}
    devices = [OneSlot({name: experts[name]}, {name: FakeSession()}) for name in "ab"]
    executor = Executor(experts, devices, Statistics(experts))
    values = list(range(0, 220, 20))
    found: list[list[float]] = []

    def call() -> None:
        answers = executor.run(faces(*values))
        found.append(list(answers.outputs["b"]["age_years"]))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(30.0)
    executor.close()
    assert found == [pytest.approx([v / 2.55 for v in values])] * 4
    assert all(device.free.acquire(blocking=False) for device in devices)


def test_experts_on_a_device_without_a_free_slot_are_late() -> None:
    experts = {name: expert() for name in "ab"}
    full = OneSlot({"a": experts["a"]}, {"a": FakeSession()})
    full.free.acquire()
    free = CpuDevice({"b": experts["b"]}, {"b": FakeSession()})
    statistics = Statistics(experts)
    executor = Executor(experts, [free, full], statistics)
    answers = executor.run(faces(1, 2), Deadline.of(100))
    executor.close()
    assert answers.missing == {"a": "deadline of 100 ms passed"}
    counted = statistics.snapshot().experts
    assert (counted["a"].late, counted["a"].answers, counted["b"].answers) == (2, 0, 2)
