"""Frame of all command lines: a user's file, name or machine is no reason for a traceback."""

from __future__ import annotations

import argparse
import io
import logging
import math
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import NoReturn

from runtime.errors import PicklableError
from runtime.json_reader import shown
from runtime.names import suggestion
from runtime.printing import MOST_LINE, printable

BROKEN_PIPE = 141
"""Exit status where the reader of the output is gone, by shell convention."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, by shell convention."""
MOST_COUNT = 1_000_000
"""Limit of options that count something, such as threads and faces."""
MOST_SIZE = 1 << 40
"""Limit of options in bytes or pixels: more than any machine has."""
MOST_SECONDS = 1e7
"""Limit of options that measure something: the clocks of Python overflow beyond 9e9 seconds."""


class HelpFormatter(argparse.HelpFormatter):
    """Fills paragraphs, keeps indented lines, and ends the help of an option with its default."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        blocks = [part.strip("\n") for part in text.split("\n\n")]
        filled = ("\n".join(indent + line for line in self._split_lines(b, width)) for b in blocks)
        return "\n\n".join(b if "\n  " in b else f for b, f in zip(blocks, filled, strict=True))

    def _split_lines(self, text: str, width: int) -> list[str]:
        """Replaces argparse's split, which also breaks names of packages at their hyphens."""
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def add_argument(self, action: argparse.Action) -> None:
        """Adds an argument; unlike in argparse, the column of names has room for commands."""
        super().add_argument(action)
        for command in self._iter_indented_subactions(action):
            length = len(self._format_action_invocation(command)) + 2 * self._indent_increment
            self._action_max_length = max(self._action_max_length, length + self._current_indent)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        value = action.default
        if (
            action.help is None
            or action.nargs == 0
            or value in (None, "", [], (), argparse.SUPPRESS)
        ):
            return action.help
        text = " ".join(map(_as_typed, value if isinstance(value, list | tuple) else [value]))
        return f"{action.help} (default: {text.replace('%', '%%')})"


class Parser(argparse.ArgumentParser):
    """A parser whose errors print what was given escaped, and whose help ends with examples."""

    def __init__(
        self, *, prog: str, description: str, examples: Sequence[str], notes: str = ""
    ) -> None:
        """Makes a parser with the option --help alone.

        Args:
            prog: the command as it was started.
            description: what the command does.
            examples: arguments of the command, as a shell takes them.
            notes: what the help says before the examples.
        """
        self.examples = tuple(examples)
        lines = "\n".join(["examples:", *(f"  %(prog)s {line}".rstrip() for line in examples)])
        super().__init__(
            prog=prog,
            description=description,
            epilog="\n\n".join([notes, lines] if notes else [lines]),
            formatter_class=HelpFormatter,
        )

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """Replaces argparse's check of choices by one that suggests the nearest."""
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            text = f"invalid choice: {shown(value)} (choose from {', '.join(known)})."
            raise argparse.ArgumentError(action, f"{text}{suggestion(value, known)}")

    def error(self, message: str) -> NoReturn:
        """Prints usage and message, and exits with status 2."""
        super().error(printable(message, MOST_LINE))


def whole(low: int, high: int) -> Callable[[str], int]:
    """Returns a parser of whole numbers within low..high; it raises ArgumentTypeError otherwise."""

    def parse(text: str) -> int:
        short = text.isdecimal() and len(text) <= len(str(high))
        if not short or not low <= int(text) <= high:
            problem = f"must be a whole number within {low:,}..{high:,}, got {shown(text)}"
            raise argparse.ArgumentTypeError(problem)
        return int(text)

    return parse


count = whole(1, MOST_COUNT)
seed = whole(0, (1 << 32) - 1)
size = whole(1, MOST_SIZE)


def positive(text: str) -> float:
    """Parses a number above 0, `MOST_SECONDS` at most; raises ArgumentTypeError otherwise."""
    number = _number(text)
    if not 0.0 < number <= MOST_SECONDS:
        problem = f"must be a number above 0, {MOST_SECONDS:,.0f} at most, got {shown(text)}"
        raise argparse.ArgumentTypeError(problem)
    return number


def not_negative(text: str) -> float:
    """Parses a number within 0..`MOST_SECONDS`; raises ArgumentTypeError otherwise."""
    number = _number(text)
    if not 0.0 <= number <= MOST_SECONDS:
        problem = f"must be a number within 0..{MOST_SECONDS:,.0f}, got {shown(text)}"
        raise argparse.ArgumentTypeError(problem)
    return number


def share(text: str) -> float:
    """Parses a number within 0..1; raises ArgumentTypeError otherwise."""
    number = _number(text)
    if not 0.0 <= number <= 1.0:
        raise argparse.ArgumentTypeError(f"must be a number within 0..1, got {shown(text)}")
    return number


def run_command(
    command: Callable[[], int],
    refused: int = 1,
    *,
    interrupted: str = "Interrupted.",
    tell: Callable[[str], None] | None = None,
) -> int:
    """Runs a command and returns its exit status; prints what a user can cause as an error.

    These are the errors of this project; those of the operating system, such as a full disk or a
    folder in the place of a file; names that cannot be encoded; and too little memory. Readers of
    files turn everything else that a file can cause into errors of this project.

    Args:
        command: returns its exit status.
        refused: the status after an error.
        interrupted: message printed after Ctrl-C.
        tell: takes a message in place of printing it on standard error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # of a terminal that is not UTF-8
            stream.reconfigure(encoding=_encoding(stream), errors="backslashreplace")
    try:
        status = command()
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes standard output once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        (tell or _print)(interrupted)
        return INTERRUPTED
    except PicklableError as error:
        message = str(error)
    except (OSError, UnicodeError) as error:
        message = printable(error, MOST_LINE)
    except MemoryError:
        message = "There is not enough memory for this. Use smaller files, or fewer at a time."
    else:
        return status
    (tell or print_error)(message)
    return refused


def _encoding(stream: io.TextIOWrapper) -> str | None:
    """Returns UTF-8 for what Windows would write to a file in a code page, None for the rest."""
    code_page = sys.platform == "win32" and not stream.isatty()
    return "utf-8" if code_page and "PYTHONIOENCODING" not in os.environ else None


def _as_typed(value: object) -> str:
    """Returns a default as one would type it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


class PrintableFormatter(logging.Formatter):
    """Formats records with what they quote escaped; all lines but a record's first are indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the text of a record."""
        return printable_text(super().format(record)).replace("\n", "\n  ")


def printable_text(text: str) -> str:
    """Returns the text of a log record with each line printable; a traceback stays whole."""
    return "\n".join(printable(line, MOST_LINE) for line in text.split("\n"))


def start_logging(layout: str | logging.Formatter, level: int = logging.INFO) -> None:
    """Logs to standard error, in a layout of `logging` or with a formatter."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(level)  # loggers may have a lower level of their own
    handler.setFormatter(PrintableFormatter(layout) if isinstance(layout, str) else layout)
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what it says is up to the picture


def print_error(message: str) -> None:
    """Prints an error on standard error."""
    _print(f"error: {message}")


def _print(line: str) -> None:
    sys.stderr.write(f"{line}\n")
