"""Paths and names on which readers and writers of files stumble."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

EVIL = "name\nline\u202egpj.exe\x1b[2J\udcff"
"""A name that forges a line, turns what follows around, clears a screen and is not UTF-8."""


def hostile_paths(folder: Path) -> Mapping[str, Path]:
    """Returns paths at which there is no ordinary file of any use, by what is there."""
    found = {
        "folder": folder / "folder",
        "pipe": folder / "pipe",
        "broken link": folder / "broken",
        "loop": folder / "loop",
        "endless device": Path("/dev/zero"),
        "nothing": folder / "nothing",
        "in a file": folder / "empty" / "below",
        "empty": folder / "empty",
        "binary": folder / "binary",
        "long name": folder / ("n" * 300),
        "name not in UTF-8": folder / os.fsdecode(b"caf\xe9"),
        "evil name": folder / EVIL,
        "evil and missing": folder / f"missing {EVIL}",
    }
    found["folder"].mkdir()
    os.mkfifo(found["pipe"])
    found["broken link"].symlink_to(folder / "nowhere")
    found["loop"].symlink_to(found["loop"])
    found["empty"].touch()
    for name in ("binary", "name not in UTF-8", "evil name"):
        found[name].write_bytes(bytes(range(256)) * 4)
    return found


def with_path(command: tuple[str, ...], path: Path) -> list[str]:
    """Returns the arguments of a command, with a path in the place of `{}`."""
    return [argument.replace("{}", str(path)) for argument in command]


def unprintable(text: str) -> Iterator[str]:
    """Yields the characters of an output that a terminal must not get."""
    for character in text:
        if not (character.isprintable() or character in "\n\t"):
            yield character
