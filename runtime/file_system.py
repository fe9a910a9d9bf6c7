"""Flushes and locks of files, on Linux, macOS and Windows.

Everything about files that differs between operating systems stands here; where one of them cannot
do something, the function says what it does instead.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LOCKED_BYTE = 0x7FFF_FFFE
"""Windows locks ranges of bytes, against reading, too; this one lies behind any content."""


def _optional(name: str) -> Any:  # noqa: ANN401 - a module of one operating system
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_fcntl, _msvcrt = _optional("fcntl"), _optional("msvcrt")


def sync(path: Path) -> None:
    """Flushes a file to disk."""
    # Windows cannot flush a file that is open for reading only; Unix can.
    descriptor = os.open(path, os.O_RDONLY if _msvcrt is None else os.O_RDWR)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Flushes the names in a folder to disk.

    Windows opens no folder: there a crash of the machine may undo a renaming that has just
    happened, and the file has its former content.
    """
    folder = getattr(os, "O_DIRECTORY", None)
    if folder is None:
        return
    descriptor = os.open(path, os.O_RDONLY | folder)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)


def flush(descriptor: int) -> None:
    """Flushes an open file to disk; on macOS out of the drive's own memory, too."""
    full = getattr(_fcntl, "F_FULLFSYNC", None)
    if full is not None:
        with contextlib.suppress(OSError):  # a file system without it
            _fcntl.fcntl(descriptor, full)
            return
    os.fsync(descriptor)


def lock(descriptor: int) -> None:
    """Locks an open file until it is closed.

    Raises:
        BlockingIOError: another process has locked it.
        OSError: it cannot be locked.
    """
    if _fcntl is not None:
        _fcntl.flock(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    elif _msvcrt is not None:
        _lock_byte(descriptor)
    else:
        raise OSError("this Python has no file locks (neither fcntl nor msvcrt)")


def _lock_byte(descriptor: int) -> None:
    place = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
    try:
        _msvcrt.locking(descriptor, _msvcrt.LK_NBLCK, 1)
    except OSError as error:
        raise BlockingIOError(error.errno, error.strerror) from error
    finally:
        os.lseek(descriptor, place, os.SEEK_SET)


def removes_open_files() -> bool:
    """Returns whether a file can be removed or replaced while it is open: not on Windows."""
    return _msvcrt is None


@contextlib.contextmanager
def explaining_open_files(path: Path) -> Iterator[None]:
    """Adds the cure to the error of Windows for replacing a file that a program has open."""
    try:
        yield
    except PermissionError as error:
        if removes_open_files() or not path.exists():
            raise
        text = f"{error.strerror}; Windows replaces no file that a program has open. Close"
        raise PermissionError(error.errno, f"{text} what uses it, and try again", path) from error


def portable(path: str | os.PathLike[str]) -> str:
    """Returns a path with `/` between its parts, as tables and manifests hold it everywhere."""
    return os.fspath(path).replace(os.sep, "/")
