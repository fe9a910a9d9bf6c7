"""Text from files, requests and file names, made fit for a terminal, a log and a response.

A name may hold line ends, terminal sequences, characters that reorder what surrounds them (U+202E),
halves of surrogate pairs, or megabytes. Data are never changed, only what is printed of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

MOST_NAME = 200
"""Characters printed of one name or value."""
MOST_LINE = 2_000
"""Characters printed of one line of a message, which may hold several names."""
MOST_LISTED = 100
"""Problems listed of one file."""


class Readable:
    """Has the `repr` of a result: its kind and its `str`, which is one line."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Returns the kind and the text, as in `<AgeEstimate 24.3 years (17.9 to 31.0), …>`."""
        return f"<{type(self).__name__} {self}>"


def counted(number: int, thing: str) -> str:
    """Returns a number of things, as in `1 expert` and `1,204 faces`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def printable(text: object, most: int = MOST_NAME) -> str:
    """Returns a text as one line of printable characters.

    Control, format and unassigned characters, line ends, spaces other than U+0020 and lone
    surrogates are escaped as in Python's literals. A backslash stays, so the text cannot be read
    back. Of a longer text the middle is left out, and its length named.

    Args:
        text: a string, or something else whose `str` is printed.
        most: characters that are kept, before escaping.
    """
    whole = str(text)
    if len(whole) > most:
        half = most // 2
        whole = f"{whole[:half]}… ({len(whole):,} characters) …{whole[-half:]}"
    return whole if whole.isprintable() else "".join(map(_escaped, whole))


def printable_lines(text: str) -> str:
    """Returns a message of several lines with each of them printable."""
    return "\n".join(printable(line, MOST_LINE) for line in bounded(text.split("\n")))


def bounded(lines: Sequence[str]) -> list[str]:
    """Returns the first lines, and how many more there are."""
    rest = len(lines) - MOST_LISTED
    return [*lines[:MOST_LISTED], *([f"… and {rest:,} more"] if rest > 0 else [])]


def bullets(problems: Sequence[str]) -> list[str]:
    """Returns the lines of a list of problems."""
    return [f"- {problem}" for problem in bounded(problems)]


def json_line(value: Mapping[str, Any]) -> str:
    """Returns JSON in one line of printable ASCII; parsing it gives the true values.

    Other characters would be no JSON on a terminal or in a file of another encoding, where Python
    escapes them in its own way.
    """
    return json.dumps(value).replace("\x7f", "\\u007f")


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()
