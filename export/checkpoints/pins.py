"""Pins: the SHA-256 that a checkpoint has to have before anything reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from export.checkpoints.loading import hash_checkpoint
from runtime.files import sha256_of
from runtime.json_reader import JsonReader, hex_problem

Pin = str | Mapping[str, str]
"""The hash of `hash_checkpoint`, or hashes of single files by their path in a folder."""


def read_pin(entry: JsonReader) -> Pin | None:
    """Reads `sha256`: 64 hex digits, or a table of them by file name."""
    if isinstance(entry.value, dict):
        return {name: _hex(value) for name, value in entry.items()}
    return _hex(entry)


def pin_problem(path: Path, pin: Pin | None) -> str | None:
    """Describes how a checkpoint differs from its pin; None if it does not.

    Args:
        path: of the file or folder.
        pin: None fits any.
    """
    if pin is None:
        return None
    if isinstance(pin, str):
        found = hash_checkpoint(path)
        return None if found == pin else f"its SHA-256 is {found}, expected {pin}"
    for name, wanted in pin.items():
        file = path / name if path.is_dir() else path.with_name(name)
        if not file.is_file():
            return f"it has no {name}"
        found = sha256_of(file)
        if found != wanted:
            return f"the SHA-256 of {name} is {found}, expected {wanted}"
    return None


def whole_pin(pin: Pin | None) -> str | None:
    """Returns the hash of the whole checkpoint, if the pin is that."""
    return pin if isinstance(pin, str) else None


def _hex(entry: JsonReader) -> str:
    text = entry.string().lower()
    problem = hex_problem(text) if isinstance(entry.value, str) else None
    if problem:
        entry.problem(problem)
    return text
