"""Progress of jobs that take long, with the time left, on standard error.

On a terminal one line is rewritten in place and removed at the end; elsewhere, as in a log, there
is a line now and then. Jobs that are done in a moment, and those of one item, print nothing.

    with Progress("photographs") as progress:
        for photograph in progress.over(photographs):
            ...
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Self, TextIO, TypeVar

T = TypeVar("T")
Report = Callable[[int, int], None]
"""Progress callback: the number of finished items and of all items. The first call, before any
work, states what earlier runs finished: it takes no time and does not count for the rate."""

_TERMINAL_SECONDS, _LOG_SECONDS = 1.0, 10.0
"""Least time between two lines, and before the first."""
_RECENT_SECONDS = 60.0
"""The rate is that of this time, or of the last two reports where they are further apart."""
_MOST_REPORTS = 1000
"""Kept to compute the rate."""
_NARROWEST = 20


def unreported(done: int, total: int) -> None:
    """Reports nothing, as a `Report`."""
    del done, total


class Progress:
    """Prints the progress of one job. Not safe to use from several threads."""

    def __init__(
        self,
        things: str,
        *,
        quiet: bool = False,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prints nothing yet.

        Args:
            things: name of the items, plural.
            quiet: print nothing at all.
            file: where to print; None means standard error.
            clock: returns seconds.
        """
        self._things, self._clock = things, clock
        self._file = sys.stderr if file is None else file
        self._quiet = quiet
        self._terminal = self._file.isatty()
        self._interval = _TERMINAL_SECONDS if self._terminal else _LOG_SECONDS
        self._printed = clock()
        self._reports: deque[tuple[float, int]] = deque(maxlen=_MOST_REPORTS)
        self._shown, self._hidden = "", False
        self._resumed = 0

    def __enter__(self) -> Self:
        """Returns this progress."""
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the line from a terminal."""
        self.hide()

    def report(self, done: int, total: int) -> None:
        """Notes that so many of all items are done, and prints it if it is time; a `Report`."""
        now = self._clock()
        if not self._reports:
            self._resumed = done
        self._reports.append((now, done))
        while len(self._reports) > 2 and now - self._reports[1][0] >= _RECENT_SECONDS:
            self._reports.popleft()
        due = self._hidden or now - self._printed >= self._interval
        if self._quiet or total <= 1 or done >= total or not due:
            return
        self._printed, self._hidden = now, False
        self._print(*self._parts(done, total))

    def over(self, items: Sequence[T]) -> Iterator[T]:
        """Yields items and reports each as done when the next one is asked for."""
        self.report(0, len(items))
        for number, item in enumerate(items, 1):
            yield item
            self.report(number, len(items))

    def hide(self) -> None:
        """Removes the line from a terminal, to print something else; `report` brings it back."""
        if self._shown:
            self._hidden = True
            self._file.write(f"\r{' ' * len(self._shown)}\r")
            self._file.flush()
            self._shown = ""

    def _parts(self, done: int, total: int) -> tuple[str, ...]:
        """Returns what is done and, once anything is, the rate and the time left."""
        text = f"{done:,} of {total:,} {self._things}"
        if self._resumed:
            text += f" ({self._resumed:,} of an earlier run)"
        (first, before), (last, _) = self._reports[0], self._reports[-1]
        if done <= before or last <= first:
            return (text,)
        rate = (done - before) / (last - first)
        return text, _rate_text(rate), f"{duration_text((total - done) / rate)} left"

    def _print(self, *parts: str) -> None:
        text = ", ".join(parts)
        if not self._terminal:
            self._file.write(f"{text}\n")
        else:
            # No terminal sequences: a line that is rewritten with spaces works on all of them.
            width = max(_NARROWEST, shutil.get_terminal_size().columns - 1)
            if len(text) > width:  # the time left is worth more than the rate
                text = ", ".join(parts[::2])[:width]
            self._file.write(f"\r{text.ljust(len(self._shown))}")
            self._shown = text
        self._file.flush()


class Steps:
    """Counts the steps of a job that learns on the way how many there are."""

    def __init__(self, report: Report = unreported) -> None:
        """Expects no step yet."""
        self._report = report
        self._done = self._total = 0

    def expect(self, count: int) -> None:
        """Notes that so many more steps are to be done."""
        self._total += count
        self._report(self._done, self._total)

    def advance(self) -> None:
        """Notes that another step is done."""
        self._done += 1
        self._report(self._done, self._total)


def add_progress_option(parser: argparse._ActionsContainer) -> None:
    """Adds the option that turns progress off, as `no_progress`, to a parser or a group of one."""
    text = "print no progress on standard error"
    parser.add_argument("--no-progress", action="store_true", help=text)


def duration_text(seconds: float) -> str:
    """Formats a duration for people: `12 s`, `3:05 min`, `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02} min"


def _rate_text(per_second: float) -> str:
    if per_second >= 1.0:
        return f"{per_second:.1f} per second"
    return f"{60.0 * per_second:.1f} per minute"
