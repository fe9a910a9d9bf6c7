"""macOS and Windows, imitated: what the runtime does where modules and functions are absent."""

from __future__ import annotations

import ast
import functools
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from runtime.commands import run_command
from runtime.files import write_whole
from runtime.label_lists import listed_faces, photographs_in
from runtime.serving.audit import AuditLog
from tests.runtime.test_imports import EXPORT, ROOT, RUNTIME
from tests.runtime.test_video import flat, write_video
from tests.runtime.tiny_engines import Tiny, write_engines


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_everything_works_without_what_other_systems_lack(system: str, tmp_path: Path) -> None:
    write_engines(tmp_path / "engines", {"a": Tiny()})
    (tmp_path / "faces" / "more").mkdir(parents=True)
    for number, name in enumerate(("0.png", "more/1.png")):
        Image.fromarray(flat(100 + 50 * number)).save(tmp_path / "faces" / name)
    write_video(tmp_path / "clip.avi", [flat(40), flat(50), flat(60)])
    AuditLog(tmp_path / "audit.log").close()
    done = subprocess.run(
        [sys.executable, "-m", "tests.runtime.other_systems_work", system, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


UNIX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "select"}
UNIX_NAMES = {
    "os": {
        *("fork", "forkpty", "register_at_fork", "getuid", "geteuid", "getgid", "getegid", "umask"),
        *("setsid", "getpgid", "setpgid", "killpg", "kill", "wait", "waitid", "nice", "mkfifo"),
        *("pread", "pwrite", "preadv", "pwritev", "sendfile", "posix_fadvise", "sysconf", "uname"),
        *("set_blocking", "sched_getaffinity", "statvfs", "fchmod", "fchown", "chown", "symlink"),
        *("O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_SYNC", "name", "sep"),
    },
    "signal": {
        *("SIGHUP", "SIGKILL", "SIGPROF", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGCHLD"),
        *("setitimer", "ITIMER_PROF", "ITIMER_REAL", "alarm", "pause", "pthread_sigmask"),
        *("SIGBREAK", "CTRL_BREAK_EVENT"),
    },
    "sys": {"platform"},
    "socket": {"AF_UNIX", "SO_REUSEPORT"},
    "ctypes": {"CDLL"},
    "time": {"tzset", "clock_gettime", "pthread_getcpuclockid"},
}
"""What Windows or macOS lack, or have with another meaning, by module."""
UNIX_ARGUMENTS = {"preexec_fn", "start_new_session", "pass_fds", "process_group"}
UNIX_PATHS = ("/proc/", "/sys/", "/dev/", "/var/", "/etc/", "/usr/")
GUARDED = {
    "runtime.file_system": {"os.sep"},
    "runtime.commands": {"sys.platform"},
    "runtime.program": {"sys.platform"},
    "runtime.cores": {"/sys/fs/cgroup", "/proc/self/cgroup"},
    "runtime.decoding.limits": {
        *("import resource", "os.sysconf", "signal.setitimer", "signal.ITIMER_PROF"),
        *("/proc/self/statm", "/proc/self/oom_score_adj"),
    },
    "runtime.decoding.process": {"import fcntl", "process_group=", "sys.platform"},
    "runtime.serving.listening": {"os.name"},
    "runtime.serving.audit": {"os.O_NONBLOCK", "os.pread", "os.pwrite"},
    "runtime.serving.process_memory": {"ctypes.CDLL", "sys.platform"},
    "runtime.backends.gpu.cuda_pycuda": {"ctypes.CDLL", "sys.platform"},
    "export.build.preflight": {"/proc/meminfo"},
}
"""Where such a name stands behind a guard; nowhere else may it be used."""


@functools.cache
def trees() -> dict[str, ast.Module]:
    """Returns the modules of runtime and export, parsed, by name."""
    return {name: ast.parse(path.read_bytes()) for name, path in (RUNTIME | EXPORT).items()}


def uses(tree: ast.AST) -> Iterator[str]:
    """Yields what a module uses of Unix alone; strings that are documentation do not count."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"import {a.name}" for a in node.names if a.name in UNIX_MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in {*UNIX_MODULES, *UNIX_NAMES}:
            names = UNIX_NAMES.get(node.module)
            yield from (
                f"{node.module}.{a.name}" for a in node.names if names is None or a.name in names
            )
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in UNIX_NAMES.get(node.value.id, ()):
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.keyword) and node.arg in UNIX_ARGUMENTS:
            yield f"{node.arg}="
        elif isinstance(node, ast.Call) and any(
            isinstance(a, ast.Constant) and str(a.value).startswith(UNIX_PATHS) for a in node.args
        ):
            yield from (str(a.value) for a in node.args if isinstance(a, ast.Constant))


def test_what_other_systems_lack_is_used_behind_guards_only() -> None:
    found = {name: set(uses(tree)) for name, tree in trees().items()}
    assert {name: used for name, used in found.items() if used} == GUARDED


def without_encoding(tree: ast.AST) -> Iterator[str]:
    """Yields calls that read or write text in the encoding of the system."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        texts = {a.value for a in node.args if isinstance(a, ast.Constant)} & {"r", "w", "a", "x"}
        least = {"open": 2 if texts else 0, "write_text": 1}.get(name, 0)
        if least and len(node.args) <= least and "encoding" not in {k.arg for k in node.keywords}:
            yield ast.unparse(node)
        if name == "read_text" and isinstance(node.func, ast.Attribute) and not node.args:
            yield from [] if node.keywords else [ast.unparse(node)]


def test_texts_are_read_and_written_in_a_stated_encoding() -> None:
    found = {name: [*without_encoding(tree)] for name, tree in trees().items()}
    assert {name: calls for name, calls in found.items() if calls} == {}
    for call in ("a.open('w')", "open(a, 'r')", "a.write_text(b)", "a.read_text()"):
        assert [*without_encoding(ast.parse(call))] == [call]


def test_tables_hold_slashes_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "sub" / "a.png")
    listing = tmp_path / "list.csv"
    listing.write_text("path,x,y,w,h\nsub/a.png,0,0,4,4\n", encoding="utf-8")
    (tmp_path / "sub_a.png").touch()  # on Windows sub\\a.png is the same file
    monkeypatch.setattr(os, "sep", "_")
    monkeypatch.chdir(tmp_path)
    for source in ("sub", "sub_a.png", "list.csv"):
        assert photographs_in([source]) == ["sub/a.png"]
    assert [*listed_faces(["list.csv"])] == ["sub/a.png"]


def test_output_in_a_file_is_utf_8_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="cp1252", newline="\n")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)

    def command() -> int:
        sys.stdout.write("żółw 🐢.png")
        return 0

    assert run_command(command) == 0
    assert written.getvalue().decode() == "żółw 🐢.png"


def test_an_open_file_that_cannot_be_replaced_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"former")

    def in_use(*_: object) -> None:
        raise PermissionError(13, "Access is denied")

    monkeypatch.setattr("runtime.file_system._msvcrt", object())
    monkeypatch.setattr(os, "replace", in_use)
    with pytest.raises(PermissionError, match=r"has open\. Close what uses it.*model\.onnx"):
        write_whole(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == b"former"
