"""Which photographs are done: what lets bulk labeling go on after it was killed.

A journal is a file of JSON lines beside the table. The first line says what the rows were made
with; each further one holds a photograph's path and rows. A batch is on the disk before the next
one is begun. What a kill tore off the end is cut away when the journal is opened again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Self

from runtime.files import sync
from runtime.label_tables import LabelingError, Row

Labeled = tuple[str, Sequence[Row]]
"""A photograph's path and its rows."""

_OPENING = b'{"agemoe_journal": 1, '
"""How the first line begins, by which a journal is known."""


def journal_of(output: Path) -> Path:
    """Where the journal of a table is."""
    return output.with_name(f"{output.name}.journal")


class Journal:
    """The photographs that are done, and their rows. Belongs to one process at a time."""

    def __init__(self, path: Path, file: IO[bytes], places: dict[str, int]) -> None:
        """Use `opened`."""
        self._path = path
        self._file = file
        self._places = places

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path, settings: Mapping[str, str]) -> Iterator[Self]:
        """Begins a journal, or goes on with the one that is there.

        Args:
            path: of the journal.
            settings: what decides on the rows, by name.

        Raises:
            LabelingError: another process has it, its rows were made with other settings, or it
                is no journal.
        """
        with path.open("a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise LabelingError(
                    f"Another process is writing {path}. Wait for it, or choose another output."
                ) from error
            yield cls(path, file, _resumed(path, file, settings))

    def __contains__(self, path: str) -> bool:
        """Whether a photograph is done."""
        return path in self._places

    def add(self, batch: Iterable[Labeled]) -> None:
        """Notes photographs as done, on the disk."""
        place = self._file.seek(0, 2)
        lines = [(path, _line({"path": path, "rows": rows})) for path, rows in batch]
        self._file.write(b"".join(line for _, line in lines))
        _flushed(self._file)
        for path, line in lines:
            self._places[path] = place
            place += len(line)

    def rows(self, path: str) -> list[Row]:
        """The rows of a photograph that is done."""
        self._file.seek(self._places[path])
        rows: list[Row] = json.loads(self._file.readline())["rows"]
        return rows

    def discard(self) -> None:
        """Removes the journal: the table is written."""
        self._path.unlink()
        sync(self._path.parent)


def _resumed(path: Path, file: IO[bytes], settings: Mapping[str, str]) -> dict[str, int]:
    """Where the photographs that are done stand in the file, which ends there afterwards."""
    file.seek(0)
    first = file.readline()
    if not first.endswith(b"\n"):
        _begin(path, file, first, settings)
        return {}
    _check_settings(path, first, settings)
    places: dict[str, int] = {}
    place = file.tell()
    while (name := _path_in(line := file.readline())) is not None:
        places[name] = place
        place += len(line)
    file.truncate(place)
    return places


def _begin(path: Path, file: IO[bytes], torn: bytes, settings: Mapping[str, str]) -> None:
    if not torn.startswith(_OPENING[: len(torn)]):
        raise _not_a_journal(path)
    file.truncate(0)
    file.write(_OPENING + _line({"settings": dict(settings)})[1:])
    _flushed(file)
    sync(path.parent)


def _check_settings(path: Path, first: bytes, settings: Mapping[str, str]) -> None:
    try:
        found: dict[str, str] = json.loads(first)["settings"] if first.startswith(_OPENING) else {}
    except (ValueError, KeyError):
        found = {}
    if not found:
        raise _not_a_journal(path)
    changed = [
        f"\n- {name} was {found.get(name, 'not given')}, is {settings.get(name, 'not given')}"
        for name in sorted(found.keys() | settings.keys())
        if found.get(name) != settings.get(name)
    ]
    if changed:
        raise LabelingError(
            f"{path} was begun with other settings:{''.join(changed)}\nGo on with those it was "
            f"begun with, choose another output, or delete the journal to begin again."
        )


def _not_a_journal(path: Path) -> LabelingError:
    return LabelingError(f"{path} is no journal of this program. Move it, or delete it.")


def _path_in(line: bytes) -> str | None:
    """The photograph a line is about; None if it is not whole, and at the end."""
    if not line.endswith(b"\n"):
        return None
    try:
        path = json.loads(line)["path"]
    except (ValueError, KeyError, TypeError):
        return None
    return path if isinstance(path, str) else None


def _line(value: Mapping[str, object]) -> bytes:
    return f"{json.dumps(value, allow_nan=False)}\n".encode("ascii")


def _flushed(file: IO[bytes]) -> None:
    file.flush()
    sync(Path(file.name))
