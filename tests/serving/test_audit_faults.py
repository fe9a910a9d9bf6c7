"""Audit logs whose process is killed, whose disk is full or fails, or whose file others change."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.audit import AuditError, verify
from runtime.serving.audit import AuditLog
from tests.serving.audit_logs import assert_sound, decided, records_in


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


@pytest.fixture
def log_(path: Path) -> Iterator[AuditLog]:
    with AuditLog(path) as log:
        yield log


def test_a_log_torn_at_any_byte_keeps_its_complete_lines(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    with AuditLog(path) as log:
        log.append(decided(1))
        log.append({**decided(2), "note": "x" * 300})  # longer than the record of an opening
    data = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        with AuditLog(path) as log:
            log.append(decided(3))
        complete = max((end for end in ends if end <= length), default=0)
        now = path.read_bytes()
        assert now.startswith(data[:complete]), length
        lines = ends.index(complete) + 1 if complete else 0
        assert_sound(path, lines + 2)
        torn = data[complete:length]
        note = {"bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()} if torn else None
        assert records_in(path)[lines].get("torn") == note


def test_a_torn_end_of_zeros_is_replaced(path: Path) -> None:
    with AuditLog(path) as log:
        log.append(decided())
    with path.open("ab") as file:  # a file system may lengthen a file before it writes it
        file.write(bytes(4096))
    AuditLog(path).close()
    assert_sound(path, 3)
    assert records_in(path)[-1]["torn"]["bytes"] == 4096


def full_disk(monkeypatch: pytest.MonkeyPatch, after_bytes: int) -> None:
    """Lets `os.pwrite` write so many bytes, in two pieces, and then fail."""
    pwrite, left = os.pwrite, [after_bytes]

    def limited(file: int, data: bytes, offset: int) -> int:
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = pwrite(file, data[: max(left[0] // 2, 1)], offset)
        left[0] -= written
        return written

    monkeypatch.setattr(os, "pwrite", limited)


def test_a_full_disk_fails_the_decision_and_not_the_log(log_: AuditLog, path: Path) -> None:
    log_.append(decided(1))
    before = path.read_bytes()
    for after_bytes in (0, 1, 2, 50, 200):
        with pytest.MonkeyPatch.context() as patch:
            full_disk(patch, after_bytes)
            with pytest.raises(AuditError, match="No space left on device") as found:
                log_.append(decided(2))
        assert str(path) not in str(found.value)  # it is shown to clients
        assert path.read_bytes() == before
    log_.check()
    log_.append(decided(3))  # there is room again
    assert_sound(path, 3)


def test_a_full_disk_at_the_opening_keeps_the_torn_line(path: Path) -> None:
    with AuditLog(path) as log:
        log.append(decided())
    data = path.read_bytes() + b'{"hash":"'
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        full_disk(patch, 0)
        with pytest.raises(AuditError, match="No space left"):
            AuditLog(path)
    assert path.read_bytes() == data
    AuditLog(path).close()
    assert_sound(path, 3)


def test_after_a_failed_flush_nothing_is_acknowledged(
    log_: AuditLog, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(AuditError, match="cannot be flushed to disk"):
            log_.append(decided())
    for _ in range(2):  # the disk works again, but what it lost is not known
        with pytest.raises(AuditError, match="Restart the service"):
            log_.append(decided())
        with pytest.raises(AuditError):
            log_.check()
    assert str(path) in caplog.text
    log_.close()
    AuditLog(path).close()
    assert verify(path).breaks == []


def test_a_line_that_cannot_be_taken_back_ends_the_log(log_: AuditLog) -> None:
    def failing(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.MonkeyPatch.context() as patch:
        full_disk(patch, 10)
        patch.setattr(os, "ftruncate", failing)
        with pytest.raises(AuditError, match="kept consistent"):
            log_.append(decided())
    with pytest.raises(AuditError, match="kept consistent"):
        log_.append(decided())


def shortened(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def lengthened(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def moved(path: Path) -> None:
    path.rename(path.with_suffix(".1"))


def replaced(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.with_suffix(".new").write_bytes(data)
    path.with_suffix(".new").rename(path)


@pytest.mark.parametrize("change", [shortened, lengthened, moved, replaced])
def test_a_file_that_others_change_is_not_written_to(
    log_: AuditLog, path: Path, change: Any
) -> None:
    log_.append(decided())
    change(path)
    for _ in range(2):
        with pytest.raises(AuditError, match=r"audit log (was|cannot be examined)"):
            log_.append(decided())


WRITER = """
import sys, threading
from pathlib import Path
from runtime.serving.audit import AuditLog
log = AuditLog(Path(sys.argv[1]))
def write(thread):
    for number in range(10**9):
        log.append({"outcome": "pass", "thread": thread, "number": number, "note": "x" * 200})
        sys.stdout.write(f"{thread} {number}\\n")
        sys.stdout.flush()
for thread in range(4):
    threading.Thread(target=write, args=(thread,)).start()
"""


def test_a_killed_process_loses_nothing_that_was_acknowledged(path: Path) -> None:
    rng = random.Random(5)
    acknowledged: set[tuple[int, int, int]] = set()
    for life in range(3):
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            seen = [process.stdout.readline() for _ in range(rng.randrange(20, 60))]
            process.send_signal(signal.SIGKILL)
            seen += process.stdout.readlines()
        whole = [line.split() for line in seen if line.endswith("\n")]
        acknowledged |= {(life, int(thread), int(number)) for thread, number in whole}
    AuditLog(path).close()
    report = verify(path)
    assert report.breaks == []
    kept, life = set(), -1
    for record in records_in(path):
        life += record["event"] == "opened"
        if record["event"] == "decision":
            kept.add((life, record["thread"], record["number"]))
    assert acknowledged <= kept
