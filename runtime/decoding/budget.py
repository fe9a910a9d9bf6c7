"""A budget that several callers share, first come first served."""

from __future__ import annotations

import contextlib
import math
import threading

from runtime.deadline import Deadline

_RECHECK_SECONDS = 0.25
"""A waiting caller looks again after this time, if an interrupt kept it from being woken."""


class Hold:
    """A share of a budget; holds nothing until it is entered, and once only."""

    __slots__ = ("amount", "given_up", "wake")

    def __init__(self, amount: int) -> None:
        """Asks for an amount, in the unit of the budget."""
        self.amount = amount
        self.given_up = False
        """Set where nobody needs the share any more: waiting for it ends soon."""
        self.wake = threading.Lock()
        self.wake.acquire()


class Budget:
    """An amount, such as bytes of memory, of which callers hold shares.

    Callers are served in the order of their arrival, so that a large share is not passed over for
    ever by small ones. A share larger than the whole budget is given when nothing else is held.

    Usable under Ctrl-C, as `runtime.active_calls`: a share is given back by a builtin, and no lock
    can be left locked.

    Example:
        hold = Hold(amount)
        try:
            if budget.enter(hold, deadline): …
        finally:
            budget.leave(hold)
        budget.wake()
    """

    def __init__(self, total: int) -> None:
        """Takes the whole amount."""
        self.total = total
        self._held: set[Hold] = set()
        self._waiting: dict[Hold, None] = {}
        self._lock = threading.Lock()
        self.leave = self._held.discard
        """Gives a share back; does nothing for one that was not entered. `wake` has to follow."""

    @property
    def used(self) -> int:
        """The amount that is held; more than the total where one share is larger."""
        return sum(hold.amount for hold in tuple(self._held))

    @property
    def waiting(self) -> int:
        """Number of callers that wait."""
        return len(self._waiting)

    def enter(self, hold: Hold, deadline: Deadline | None = None) -> bool:
        """Waits until a share is given.

        Returns:
            False if the deadline passed or the share was given up first.
        """
        self._waiting[hold] = None
        try:
            while not self._given(hold):
                if hold.given_up or (deadline is not None and deadline.passed):
                    return False
                left = math.inf if deadline is None else deadline.remaining_seconds()
                hold.wake.acquire(timeout=min(left, _RECHECK_SECONDS))
        finally:
            self._waiting.pop(hold, None)
            self.wake()
        return True

    def shrink(self, hold: Hold, amount: int) -> None:
        """Gives a part of a share back: what is held becomes `amount`, if that is less."""
        hold.amount = min(hold.amount, amount)
        self.wake()

    def wake(self) -> None:
        """Makes the first caller in the queue look again."""
        for first in tuple(self._waiting)[:1]:
            with contextlib.suppress(RuntimeError):  # it is awake already
                first.wake.release()

    def _given(self, hold: Hold) -> bool:
        with self._lock:
            if next(iter(tuple(self._waiting))) is not hold:
                return False
            used = self.used
            if used and used + hold.amount > self.total:
                return False
            self._held.add(hold)
            return True
