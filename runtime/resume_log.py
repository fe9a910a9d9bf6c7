"""A log of finished work, from which an interrupted job resumes.

A log is a file of JSON lines. The first line holds the settings of the job, each further line the
key and the value of one finished item. Lines are only appended, and a batch is flushed to disk
before the next one starts. What a kill tore off the end is cut away when the log is opened again.

Example:
    with ResumeLog.open(path, {"model": sha256, "precision": "fp16"}) as log:
        for batch in batches(key for key in keys if key not in log):
            log.add([(key, compute(key)) for key in batch])
        write_result(log[key] for key in keys)
        log.discard()
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Self

from runtime.errors import AgeMoEError
from runtime.file_system import flush, lock, removes_open_files, sync_folder
from runtime.printing import bullets

_HEADER_START = b'{"agemoe_log": 1, '
"""Start of the first line, by which a log is recognized."""


class ResumeLogError(AgeMoEError, RuntimeError):
    """A log is in use, was started with other settings, or is another kind of file."""


class ResumeLog:
    """Finished items by key, on disk. One process at a time; not safe for threads.

    Only keys and file offsets are held in memory; values are read from the file.
    """

    def __init__(self, path: Path, file: IO[bytes], offsets: dict[str, int]) -> None:
        """Use `open`."""
        self._path = path
        self._file = file
        self._offsets = offsets

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, path: Path, settings: Mapping[str, Any], *, restart: bool = False
    ) -> Iterator[Self]:
        """Starts a log, or resumes the one at `path`.

        Args:
            path: of the log; its folder exists.
            settings: everything that the values depend on, ready for JSON, by name.
            restart: whether a log with other settings is emptied instead of refused.

        Raises:
            ResumeLogError: another process has the log open, it was started with other settings,
                or the file is no log.
        """
        with path.open("a+b") as file:
            try:
                lock(file.fileno())
            except BlockingIOError as error:
                raise ResumeLogError(
                    f"Another process is writing {path}. Wait for it, or choose another output."
                ) from error
            yield cls(path, file, _resumed(path, file, settings, restart=restart))

    def __contains__(self, key: str) -> bool:
        """Returns whether an item is finished."""
        return key in self._offsets

    def __len__(self) -> int:
        """Returns the number of finished items."""
        return len(self._offsets)

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401 - any JSON value
        """Reads the value of a finished item."""
        self._file.seek(self._offsets[key])
        return json.loads(self._file.readline())["value"]

    def add(self, items: Iterable[tuple[str, object]]) -> None:
        """Appends finished items, keys with values ready for JSON, and flushes them to disk."""
        offset = self._file.seek(0, 2)
        lines = [(key, _line({"key": key, "value": value})) for key, value in items]
        self._file.write(b"".join(line for _, line in lines))
        _flush(self._file)
        for key, line in lines:
            self._offsets[key] = offset
            offset += len(line)

    def discard(self) -> None:
        """Removes the file, once the result of the job is on disk; ends the use of this log."""
        if not removes_open_files():
            self._file.close()
        self._path.unlink()
        sync_folder(self._path.parent)


def _resumed(
    path: Path, file: IO[bytes], settings: Mapping[str, Any], *, restart: bool
) -> dict[str, int]:
    """Returns the offsets of the finished items; the file then ends after the last of them."""
    file.seek(0)
    first = file.readline()
    complete = first.endswith(b"\n")
    if not first.startswith(_HEADER_START if complete else _HEADER_START[: len(first)]):
        raise _not_a_log(path)
    changes = _changes(path, first, settings) if complete else []
    if changes and not restart:
        raise ResumeLogError(
            f"{path} was started with other settings:",
            *bullets(changes),
            "Continue with those settings, choose another output, or delete the log to start over.",
        )
    if changes or not complete:
        file.truncate(0)
        file.write(_HEADER_START + _line({"settings": settings})[1:])
        _flush(file)
        sync_folder(path.parent)
        return {}
    offsets: dict[str, int] = {}
    offset = file.tell()
    while (key := _key(line := file.readline())) is not None:
        offsets[key] = offset
        offset += len(line)
    file.truncate(offset)
    return offsets


def _changes(path: Path, header: bytes, settings: Mapping[str, Any]) -> list[str]:
    """Returns a sentence for each setting that differs from the header's."""
    try:
        found: dict[str, Any] = json.loads(header)["settings"]
    except (ValueError, KeyError) as error:
        raise _not_a_log(path) from error
    wanted: dict[str, Any] = json.loads(_line(settings))
    return [
        f"{name} was {found.get(name, 'not given')}, is {wanted.get(name, 'not given')}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]


def _not_a_log(path: Path) -> ResumeLogError:
    return ResumeLogError(f"{path} is not a log of this program. Move it, or delete it.")


def _key(line: bytes) -> str | None:
    """Returns the key of a line; None for a torn or damaged line and at the end of the file."""
    if not line.endswith(b"\n"):
        return None
    try:
        key = json.loads(line)["key"]
    except (ValueError, KeyError, TypeError):
        return None
    return key if isinstance(key, str) else None


def _line(value: Mapping[str, Any]) -> bytes:
    return f"{json.dumps(value, allow_nan=False)}\n".encode("ascii")


def _flush(file: IO[bytes]) -> None:
    file.flush()
    flush(file.fileno())
