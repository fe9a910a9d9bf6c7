"""Names as TOML, for a line that is copied into experts.toml."""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST_LINE = 500
"""Characters of a line with more than one name: of a longer line, messages leave out the middle."""
_ESCAPED = {'"': '\\"', "\\": "\\\\"}


def toml_array(names: Sequence[str]) -> str:
    """Returns an array of strings that TOML reads back as these names.

    It is one line, or several where that would be too long for a message. Every character is
    printable.
    """
    rows: list[str] = []
    for string in map(_string, names):
        if rows and len(rows[-1]) + len(string) <= _LONGEST_LINE:
            rows[-1] += f", {string}"
        else:
            rows.append(string)
    if len(rows) < 2:
        return f"[{''.join(rows)}]"
    return "\n".join(["[", *(f"    {row}," for row in rows), "]"])


def _string(name: str) -> str:
    if name.isprintable() and "'" not in name:
        return f"'{name}'"
    return f'"{"".join(map(_escaped, name))}"'


def _escaped(character: str) -> str:
    if character.isprintable():
        return _ESCAPED.get(character, character)
    code = ord(character)
    return f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"
