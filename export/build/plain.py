"""Console, table and status line in plain text, for environments without the package `rich`.

They have the parts of `rich`'s classes of the same names that a build uses.
"""

from __future__ import annotations

import sys

from runtime.printing import MOST_LINE, printable


class Table:
    """A table of text in columns."""

    def __init__(self, title: str, title_justify: str = "left") -> None:
        """Starts without columns; the title stands on the left."""
        del title_justify
        self._title = title
        self._right: list[bool] = []
        self._rows: list[tuple[str, ...]] = [()]

    def add_column(self, heading: str, justify: str = "left") -> None:
        """Adds a column, `left` or `right`."""
        self._right.append(justify == "right")
        self._rows[0] += (heading,)

    def add_row(self, *cells: str) -> None:
        """Adds a row."""
        self._rows.append(tuple(map(printable, cells)))

    def __str__(self) -> str:
        """Returns the title, the headings and the rows, a line each."""
        widths = [max(map(len, column)) for column in zip(*self._rows, strict=True)]
        lines = [self._title]
        for row in self._rows:
            cells = [
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, self._right, strict=True)
            ]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)


class Status:
    """A line on a terminal that is written again and again."""

    def start(self) -> None:
        """Does nothing: the first update writes the line."""

    def update(self, text: str) -> None:
        """Replaces the line."""
        sys.stdout.write(f"\r\x1b[K{text}")
        sys.stdout.flush()

    def stop(self) -> None:
        """Removes the line."""
        sys.stdout.write("\r\x1b[K")
        sys.stdout.flush()


class Console:
    """Standard output or standard error, without styles."""

    width = 0

    def __init__(self, *, stderr: bool = False, highlight: bool = False) -> None:
        """Writes to standard output, or to standard error."""
        del highlight
        self._stderr = stderr

    @property
    def is_terminal(self) -> bool:
        """True if standard output is a terminal."""
        return sys.stdout.isatty()

    def print(self, shown: object, *, style: str = "", soft_wrap: bool = False) -> None:
        """Writes a text, escaped, or a table."""
        del style, soft_wrap
        text = printable(shown, MOST_LINE) if isinstance(shown, str) else str(shown)
        file = sys.stderr if self._stderr else sys.stdout
        file.write(f"{text}\n")
        file.flush()

    def status(self, text: str) -> Status:
        """Returns a status line."""
        del text
        return Status()


def status_text(text: str) -> str:
    """Returns the text of a status line."""
    return printable(text)
