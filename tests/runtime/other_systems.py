"""Makes a Python process on Linux lack what macOS or Windows lack, as far as that can be imitated.

Imported before anything of the runtime; decoders' processes execute this file, too. The modules of
the standard library that are loaded by then keep working. What Windows forbids is forbidden:
removing or replacing open files, opening folders, flushing files that are open for reading only.
"""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures.thread
import contextlib
import errno
import fcntl
import importlib.abc
import io
import multiprocessing
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import types
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

LOADED = (
    asyncio,
    concurrent.futures.thread,
    multiprocessing,
    shutil,
    subprocess,
    tempfile,
    uuid,
    np,
)
NEITHER = ("sched_getaffinity", "posix_fadvise", "memfd_create")
"""Of `os`, on Linux only, or different on macOS."""
NO_WINDOWS = (
    *(
        "O_DIRECTORY",
        "O_NOFOLLOW",
        "O_NONBLOCK",
        "O_CLOEXEC",
        "O_SYNC",
        "O_DSYNC",
        "fork",
        "forkpty",
    ),
    *("getuid", "geteuid", "getgid", "getpgid", "setpgid", "setsid", "killpg", "pread", "pwrite"),
    *("sysconf", "uname", "mkfifo", "chown", "fchown", "fchmod", "nice", "getloadavg", "statvfs"),
)
NO_WINDOWS_SIGNALS = ("SIGHUP", "SIGPROF", "SIGUSR1", "SIGALRM", "SIGPIPE", "setitimer", "alarm")
UNIX_MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "readline")
_HIDDEN = ("/proc/", "/sys/")
_REAL = types.SimpleNamespace(
    fcntl=fcntl, stat=os.stat, open=os.open, fsync=os.fsync, listdir=os.listdir, fstat=os.fstat
)


class _Blocked(importlib.abc.MetaPathFinder):
    """Finds no module of Unix."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> None:
        del path, target
        if name in UNIX_MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def imitate(system: str) -> None:
    """Turns this process into one of `darwin` or `win32`."""
    _remove(os, NEITHER)
    _hide_folders()
    if system == "darwin":
        _remove(fcntl, ("F_SETPIPE_SZ",))
        fcntl.F_FULLFSYNC = 51  # type: ignore[attr-defined]  # Linux refuses it, as some disks do
        return
    for name in UNIX_MODULES:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, _Blocked())
    sys.modules["msvcrt"] = _msvcrt()
    _remove(os, NO_WINDOWS)
    _remove(signal, NO_WINDOWS_SIGNALS)
    signal.SIGBREAK = signal.SIGTTIN  # type: ignore[attr-defined]
    closed = {n: _only_closed(getattr(os, n)) for n in ("unlink", "remove", "replace", "rename")}
    vars(os).update(closed, open=_open, fsync=_fsync)


def _remove(module: types.ModuleType, names: Sequence[str]) -> None:
    for name in names:
        with contextlib.suppress(AttributeError):
            delattr(module, name)


def _hide_folders() -> None:
    def hiding(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(path: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(path, int) and os.fspath(path).startswith(_HIDDEN):
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
            return real(path, *args, **kwargs)

        return wrapped

    os.stat = hiding(os.stat)
    io.open = builtins.open = hiding(builtins.open)


def _msvcrt() -> types.ModuleType:
    """Returns a module with the part of msvcrt that locks, by Linux's locks of open files."""
    module = types.ModuleType("msvcrt")
    real = _REAL.fcntl

    def locking(descriptor: int, mode: int, size: int) -> None:
        assert mode == module.LK_NBLCK
        request = struct.pack("hhqqi", real.F_WRLCK, os.SEEK_CUR, 0, size, 0)
        try:
            real.fcntl(descriptor, real.F_OFD_SETLK, request)
        except OSError as error:
            raise PermissionError(errno.EACCES, "Permission denied") from error

    module.LK_NBLCK = 2  # type: ignore[attr-defined]
    module.locking = locking  # type: ignore[attr-defined]
    return module


def _open(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
    with contextlib.suppress(OSError):
        if pathlib.Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", path)
    return int(_REAL.open(path, flags, *args, **kwargs))


def _fsync(descriptor: int) -> None:
    if _REAL.fcntl.fcntl(descriptor, _REAL.fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")
    _REAL.fsync(descriptor)


def _only_closed(real: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that refuses paths which this process has open."""

    def wrapped(*paths: Any, **kwargs: Any) -> Any:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):  # a new name
                if _identity(_REAL.stat(path)) in _open_files():
                    raise PermissionError(errno.EACCES, "The file is in use", path)
        return real(*paths, **kwargs)

    return wrapped


def _open_files() -> set[tuple[int, int]]:
    found = set()
    for name in _REAL.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(_identity(_REAL.fstat(int(name))))
    return found


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


if "IMITATED_SYSTEM" in globals():  # executed in a decoder's process
    imitate(globals()["IMITATED_SYSTEM"])
