"""The shared budget: order, size, deadlines, and that nothing is left held."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from runtime.deadline import Deadline
from runtime.decoding import Budget, Hold
from tests.runtime.decoders import wait_until


def entered(budget: Budget, amount: int) -> Hold:
    hold = Hold(amount)
    assert budget.enter(hold, Deadline.of(60_000))
    return hold


def waits_for(budget: Budget, callers: int) -> bool:
    return budget.waiting == callers


def give_back(budget: Budget, hold: Hold) -> None:
    budget.leave(hold)
    budget.wake()


def test_shares_are_given_in_order_and_a_large_one_is_not_passed_over() -> None:
    budget, order = Budget(10), []
    first = entered(budget, 6)

    def take(amount: int) -> None:
        hold = entered(budget, amount)
        order.append(amount)
        give_back(budget, hold)

    with ThreadPoolExecutor(3) as threads:
        for place, amount in enumerate((9, 1, 2), 1):
            threads.submit(take, amount)
            wait_until(partial(waits_for, budget, place))
        assert order == [], "a small share would fit, but came later"
        give_back(budget, first)
    assert order[0] == 9
    assert sorted(order[1:]) == [1, 2]
    assert (budget.used, budget.waiting) == (0, 0)


def test_a_share_larger_than_the_budget_is_given_alone() -> None:
    budget = Budget(10)
    small = entered(budget, 1)
    assert not budget.enter(Hold(99), Deadline.of(1))
    give_back(budget, small)
    large = entered(budget, 99)
    assert budget.used == 99
    assert not budget.enter(Hold(1), Deadline.of(1))
    budget.shrink(large, 9)
    assert budget.enter(Hold(1), Deadline.of(1))
    budget.shrink(large, 50)
    assert budget.used == 10, "a share only shrinks"


def test_a_share_that_is_given_up_is_not_waited_for() -> None:
    budget = Budget(1)
    held, late = entered(budget, 1), Hold(1)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(budget.enter, late)
        wait_until(lambda: budget.waiting == 1)
        late.given_up = True
        assert waiting.result(30.0) is False
    assert budget.waiting == 0
    give_back(budget, held)
    assert budget.used == 0


def test_an_interrupt_leaves_nothing_held_and_nobody_waiting() -> None:
    budget, hold = Budget(1), Hold(1)
    held = entered(budget, 1)

    class Interrupting:
        """A lock, as far as waiting goes, during which Ctrl-C arrives."""

        def acquire(self, **_: float) -> bool:
            raise KeyboardInterrupt

        def release(self) -> None:
            raise RuntimeError

    hold.wake = Interrupting()  # type: ignore[assignment]
    try:
        with pytest.raises(KeyboardInterrupt):
            budget.enter(hold)
    finally:
        budget.leave(hold)
    assert (budget.used, budget.waiting) == (1, 0)
    budget.leave(held)  # without waking: an interrupt came in between
    assert budget.enter(Hold(1), Deadline.of(60_000))


def test_who_was_not_woken_looks_again() -> None:
    budget = Budget(1)
    held = entered(budget, 1)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(entered, budget, 1)
        wait_until(lambda: budget.waiting == 1)
        budget.leave(held)  # without `wake`
        assert waiting.result(30.0)


def test_many_threads_never_hold_more_than_the_budget() -> None:
    budget, lock = Budget(10), threading.Lock()
    now, most = 0, 0

    def use(seed: int) -> None:
        nonlocal now, most
        rng = np.random.default_rng(seed)
        for amount in map(int, rng.integers(1, 11, 50)):
            hold = Hold(amount)
            try:
                given = budget.enter(hold, Deadline.of(0.2) if rng.random() < 0.3 else None)
                if given:
                    with lock:
                        now += amount
                        most = max(most, now)
                    with lock:
                        now -= amount
            finally:
                give_back(budget, hold)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(use, range(16)))
    assert 1 < most <= 10
    assert (budget.used, budget.waiting) == (0, 0)
