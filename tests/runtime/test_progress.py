"""Progress: what is printed when, on a terminal and in a log, and how much time it says is left."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import pytest
from PIL import Image

from runtime.__main__ import main
from runtime.progress import Progress, Steps, add_progress_option, duration_text
from tests.runtime.tiny_engines import Tiny, write_engines


class Clock:
    """A clock that goes only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A terminal, which shows what was written since the last return of the carriage."""

    def isatty(self) -> bool:
        return True

    @property
    def line(self) -> str:
        shown = ""
        for part in self.getvalue().split("\r"):
            shown = part + shown[len(part) :]
        return shown.rstrip()


def test_a_log_has_a_line_every_ten_seconds_with_the_rate_of_the_recent_past() -> None:
    clock, log = Clock(), io.StringIO()
    with Progress("faces", file=log, clock=clock) as progress:
        progress.report(500, 2000)  # an earlier run's, which took no time
        for _ in range(30):  # ten a second
            clock.now += 1.0
            progress.report(500 + 10 * round(clock.now - 100.0), 2000)
        for done in range(1, 11):  # one in ten seconds, for more than the window
            clock.now += 10.0
            progress.report(800 + done, 2000)
    lines = log.getvalue().splitlines()
    assert lines[0] == (
        "600 of 2,000 faces (500 of an earlier run), 10.0 per second, 2:20 min left"
    )
    assert len(lines) == 13
    assert lines[-1] == (
        "810 of 2,000 faces (500 of an earlier run), 6.0 per minute, 3 h 18 min left"
    )


def test_a_terminal_has_one_line_that_is_removed() -> None:
    clock, terminal = Clock(), Terminal()
    with Progress("fits", file=terminal, clock=clock) as progress:
        progress.report(0, 10)
        clock.now += 0.5
        progress.report(1, 10)
        assert terminal.getvalue() == ""
        clock.now += 1.5
        progress.report(2, 10)
        assert terminal.line == "2 of 10 fits, 1.0 per second, 8 s left"
        clock.now += 0.1
        progress.report(3, 10)
        assert terminal.line.startswith("2 of 10")
        progress.hide()
        assert terminal.line == ""
        progress.report(3, 10)
        assert terminal.line.startswith("3 of 10 fits")
    assert terminal.line == ""
    assert "\n" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("columns", "line"), [(31, "2 of 10 photographs, 8 s left"), (25, "2 of 10 photographs, 8 s")]
)
def test_a_narrow_terminal_keeps_one_line_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, columns: int, line: str
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    clock, terminal = Clock(), Terminal()
    progress = Progress("photographs", file=terminal, clock=clock)
    progress.report(0, 10)
    clock.now += 2.0
    progress.report(2, 10)
    assert terminal.line == line


@pytest.mark.parametrize(
    ("items", "seconds", "quiet"), [(1, 100.0, False), (20, 0.4, False), (20, 100.0, True)]
)
def test_one_item_short_jobs_and_quiet_ones_print_nothing(
    items: int, seconds: float, quiet: bool
) -> None:
    clock, log = Clock(), io.StringIO()
    with Progress("photographs", quiet=quiet, file=log, clock=clock) as progress:
        for _ in progress.over(range(items)):
            clock.now += seconds
    assert log.getvalue() == ""


def test_no_time_left_is_claimed_before_anything_is_done() -> None:
    clock, log = Clock(), io.StringIO()
    progress = Progress("fits", file=log, clock=clock)
    progress.report(3, 10)
    clock.now += 20.0
    progress.report(3, 10)
    assert log.getvalue() == "3 of 10 fits (3 of an earlier run)\n"


def test_steps_that_are_expected_later_count() -> None:
    reports: list[tuple[int, int]] = []
    steps = Steps(lambda done, total: reports.append((done, total)))
    steps.expect(1)
    steps.advance()
    steps.expect(2)
    steps.advance()
    assert reports == [(0, 1), (1, 1), (1, 3), (2, 3)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (3599.0, "59:59 min"), (7630, "2 h 07 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_the_option_is_off_by_default() -> None:
    parser = argparse.ArgumentParser()
    add_progress_option(parser)
    assert not parser.parse_args([]).no_progress
    assert parser.parse_args(["--no-progress"]).no_progress


@pytest.mark.parametrize("silent", [True, False])
def test_predict_shows_progress_on_standard_error_only(
    empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    silent: bool,
) -> None:
    write_engines(empty_folder / "engines", {"a": Tiny()})
    Image.new("RGB", (9, 9), (90, 90, 90)).save(empty_folder / "a.png")
    monkeypatch.setattr("runtime.progress._LOG_SECONDS", 0.0)
    options = ["--whole", "--json", "--device", "cpu", *(["--no-progress"] if silent else [])]
    assert main(["predict", *["a.png"] * 40, *options]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 40
    assert all(line.startswith("{") for line in out.splitlines())
    assert ("32 of 40 photographs" in err) is not silent
