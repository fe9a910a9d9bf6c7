"""Pieces of Markdown: tables, and names from files that do nothing but appear."""

from __future__ import annotations

import re
from collections.abc import Sequence

from runtime.printing import MOST_NAME, printable


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table whose first column is text and whose others are numbers."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    lines = [list(map(_cell, heads)), rule, *(map(_cell, row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(text: str) -> str:
    return printable(text).replace("|", r"\|")


def plain(name: object, most: int = MOST_NAME) -> str:
    """Returns a name from a file as Markdown that shows it and does nothing else.

    Args:
        name: something whose `str` is shown.
        most: characters that are kept.
    """
    return re.sub(r"([\\`*\[\]<>&~])", r"\\\1", printable(name, most))
