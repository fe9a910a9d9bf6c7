"""Frame of all command lines: a user's file, name or machine is no reason for a traceback."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable

from runtime.errors import PicklableError
from runtime.printing import MOST_LINE, printable

BROKEN_PIPE = 141
"""Exit status where the reader of the output is gone, by shell convention."""


def run_command(command: Callable[[], int], refused: int = 1) -> int:
    """Runs a command and returns its exit status; prints what a user can cause as an error.

    These are the errors of this project; those of the operating system, such as a full disk or a
    folder in the place of a file; names that cannot be encoded; and too little memory. Readers of
    files turn everything else that a file can cause into errors of this project.

    Args:
        command: returns its exit status.
        refused: the status after an error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # of a terminal that is not UTF-8
            stream.reconfigure(errors="backslashreplace")
    try:
        status = command()
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes standard output once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except PicklableError as error:
        print_error(str(error))
    except (OSError, UnicodeError) as error:
        print_error(printable(error, MOST_LINE))
    except MemoryError:
        print_error("There is not enough memory for this. Use smaller files, or fewer at a time.")
    else:
        return status
    return refused


def print_error(message: str) -> None:
    """Prints an error on standard error."""
    sys.stderr.write(f"error: {message}\n")
