"""Writing audit logs: the chain over threads and openings, what is kept and what is refused."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runtime.audit import MOST_LINE_BYTES, AuditError
from runtime.serving.audit import AuditLog, opened_log, read_key
from runtime.serving.settings import Settings
from tests.hostile_paths import hostile_paths
from tests.serving.audit_logs import assert_sound, decided, records_in
from tests.serving.live import wait_for

CLOCK = datetime(2026, 1, 2, 3, 4, 5, 6789, UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


@pytest.fixture
def log_(path: Path) -> Iterator[AuditLog]:
    with AuditLog(path, clock=lambda: CLOCK) as log:
        yield log


def test_a_record_is_kept_with_its_place_in_the_chain(log_: AuditLog, path: Path) -> None:
    log_.append(decided(1, "refer"))
    first, second = records_in(path)
    assert first | {"hash": ""} == {
        "hash": "",
        "previous": "0" * 64,
        "sequence": 1,
        "event": "opened",
        "format": 1,
        "time": "2026-01-02T03:04:05.006+00:00",
    }
    assert second | {"hash": ""} == {
        **decided(1, "refer"),
        "hash": "",
        "previous": first["hash"],
        "sequence": 2,
        "event": "decision",
        "time": "2026-01-02T03:04:05.006+00:00",
    }
    assert log_.head == (2, second["hash"])
    assert_sound(path, 2)


def test_a_line_is_in_the_file_and_flushed_before_append_returns(
    log_: AuditLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    fsync = os.fsync

    def counted(file: int) -> None:
        fsync(file)
        flushed.append(os.fstat(file).st_size)

    monkeypatch.setattr(os, "fsync", counted)
    for number in range(3):
        log_.append(decided(number))
        assert flushed[-1] == path.stat().st_size
    assert len(flushed) == 3


def test_only_its_owner_may_read_a_new_log(path: Path) -> None:
    before = os.umask(0)
    try:
        AuditLog(path).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)  # for a group of auditors: the owner's choice stays
    AuditLog(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_reopening_continues_the_chain(path: Path) -> None:
    for opening in range(4):
        with AuditLog(path) as log:
            assert log.head.sequence == 3 * opening + 1
            log.append(decided(opening))
            log.append(decided(opening))
    assert_sound(path, 12)
    events = [record["event"] for record in records_in(path)]
    assert events == ["opened", "decision", "decision"] * 4


def test_threads_share_a_chain_and_its_flushes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushes: list[int] = []
    fsync = os.fsync

    def counted(file: int) -> None:
        flushes.append(file)
        fsync(file)

    monkeypatch.setattr(os, "fsync", counted)
    with AuditLog(path) as log, ThreadPoolExecutor(16) as pool:
        assert len(list(pool.map(lambda number: log.append(decided(number)), range(400)))) == 400
    assert_sound(path, 401)
    assert sorted(int(r["policy"], 16) for r in records_in(path)[1:]) == list(range(400))
    assert len(flushes) <= 404


def test_waiting_lines_are_flushed_together(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with AuditLog(path) as log:
        going, flushing, flushes = threading.Event(), threading.Event(), list[int]()

        def slow(file: int) -> None:
            flushing.set()
            assert going.wait(30.0)
            flushes.append(file)

        monkeypatch.setattr(os, "fsync", slow)
        with ThreadPoolExecutor(8) as pool:
            first = pool.submit(log.append, decided(0))
            assert flushing.wait(30.0)
            others = [pool.submit(log.append, decided(number)) for number in range(1, 8)]
            wait_for(lambda: log.head.sequence == 9)  # all written, none of them flushed
            assert not any(one.done() for one in (first, *others))
            going.set()
            for one in (first, *others):
                one.result(30.0)
        assert len(flushes) == 2
    assert_sound(path, 9)


def test_a_log_has_one_writer(log_: AuditLog, path: Path) -> None:
    with pytest.raises(AuditError, match="Another process writes the audit log"):
        AuditLog(path)
    log_.append(decided())
    assert_sound(path, 2)
    code = (
        "from pathlib import Path; from runtime.serving.audit import AuditLog; AuditLog(Path({!r}))"
    )
    command = [sys.executable, "-c", code.format(str(path))]
    other = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Another process writes the audit log" in other.stderr
    assert_sound(path, 2)


@pytest.mark.parametrize(
    "content",
    [b"a diary without line end", b"a diary\n", b"{}\n", b"\0" * 50_000, b"\n", b"\xff"],
)
def test_another_file_is_refused_and_stays_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(AuditError, match=r"not an audit log|is not sound"):
        AuditLog(path)
    assert path.read_bytes() == content


def test_a_log_whose_last_line_was_edited_is_not_continued(path: Path) -> None:
    with AuditLog(path) as log:
        log.append(decided())
    path.write_bytes(path.read_bytes().replace(b'"pass"', b'"fail"'))
    with pytest.raises(AuditError, match=r"last line .* is not sound: .*it was edited.*start anot"):
        AuditLog(path)


def test_hostile_paths_are_refused(tmp_path: Path) -> None:
    made = {"nothing", "empty", "evil and missing"}
    for what, path in hostile_paths(tmp_path).items():
        if what in made:
            AuditLog(path).close()
            assert_sound(path, 1)
            continue
        with pytest.raises(AuditError) as found:
            AuditLog(path)
        assert all(line.isprintable() for line in str(found.value).splitlines()), what


@pytest.mark.parametrize("record", [{"x": "y" * MOST_LINE_BYTES}, {"x": float("nan")}, {"x": {1}}])
def test_what_cannot_be_recorded_raises_and_leaves_no_trace(
    log_: AuditLog, path: Path, record: dict[str, Any]
) -> None:
    before = path.read_bytes()
    with pytest.raises(AuditError, match="cannot be written"):
        log_.append(record)
    assert path.read_bytes() == before
    log_.append(decided())
    assert_sound(path, 2)


@pytest.mark.parametrize("key", ["sequence", "previous", "time", "event", "hash"])
def test_a_record_cannot_forge_its_place(log_: AuditLog, path: Path, key: str) -> None:
    with pytest.raises(AuditError, match=f"must not hold {key}"):
        log_.append({key: "x"})
    assert_sound(path, 1)


def test_any_text_is_kept_in_ascii(log_: AuditLog, path: Path) -> None:
    texts = ["ünï", "\ud800", "\u202e\x1b[2J\n\r\u2028\0", "𝄞", '"}\n{"hash":"']
    log_.append({"reasons": texts})
    assert records_in(path)[-1]["reasons"] == texts
    assert path.read_bytes().isascii()
    assert_sound(path, 2)


def test_a_closed_log_takes_nothing(path: Path) -> None:
    log = AuditLog(path)
    log.close()
    log.close()
    with pytest.raises(AuditError, match="closed"):
        log.append(decided())
    AuditLog(path).close()  # its lock is gone


def test_closing_waits_for_appends_in_progress(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(path)
    going, flushing = threading.Event(), threading.Event()

    def slow(_: int) -> None:
        flushing.set()
        assert going.wait(30.0)

    monkeypatch.setattr(os, "fsync", slow)
    with ThreadPoolExecutor(2) as pool:
        appended = pool.submit(log.append, decided())
        assert flushing.wait(30.0)
        closed = pool.submit(log.close)
        going.set()
        appended.result(30.0)
        closed.result(30.0)
    assert_sound(path, 2)


def test_on_windows_there_is_no_log(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pwrite")
    with pytest.raises(AuditError, match="Serve on Linux or macOS; verifying works here"):
        AuditLog(path)
    assert not path.exists()


def test_the_head_is_logged_when_opened_and_closed(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "agemoe"), AuditLog(path) as log:
        log.append(decided())
        log.append(decided())
    heads = [f"sequence {r['sequence']}, head {r['hash']}" for r in records_in(path)]
    assert [message.partition(": ")[2] for message in caplog.messages] == [heads[0], heads[2]]


def test_pictures_are_digested_with_or_without_a_key(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"0123456789abcdef\n")
    plain = opened_log(Settings(policy=True, audit=tmp_path / "a.log"))
    assert plain is not None
    with plain:
        assert plain.digest(b"jpeg") == f"sha256:{hashlib.sha256(b'jpeg').hexdigest()}"
    settings = Settings(policy=True, audit=tmp_path / "a.log", audit_key=tmp_path / "key")
    keyed = opened_log(settings)
    assert keyed is not None
    with keyed:
        twin = hmac.new(b"0123456789abcdef", b"jpeg", "sha256").hexdigest()
        assert keyed.digest(b"jpeg") == f"hmac-sha256:{twin}"
    assert opened_log(Settings()) is None
    with pytest.raises(ValueError, match="--audit FILE"):
        Settings(audit_key=tmp_path / "key")


@pytest.mark.parametrize("key", [b"", b"short\n", b"x" * 4097, b"x" * 10_000])
def test_a_key_of_another_length_is_refused(tmp_path: Path, key: bytes) -> None:
    (tmp_path / "key").write_bytes(key)
    with pytest.raises(AuditError, match=r"must have 16 to 4,096 bytes"):
        read_key(tmp_path / "key")
