"""Writes the audit log of decisions: `serve --audit FILE`. Its format is in `runtime.audit`."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from runtime.audit import (
    DECISION,
    FORMAT,
    HEAD,
    MOST_LINE_BYTES,
    OPENED,
    START,
    AuditError,
    Entry,
    encoded,
    parsed,
)
from runtime.file_system import flush, lock, sync_folder
from runtime.files import check_regular
from runtime.program import command_line
from runtime.serving.settings import Settings

log = logging.getLogger("agemoe")

_HEAD_SECONDS = 3600.0
"""Between two heads in the service's own log, which a change of the file does not reach."""
_KEY_BYTES = (16, 4096)


class AuditLog:
    """An audit log that is being written: by one process, from any number of threads.

    A line is on disk before `append` returns. What cannot be recorded raises, so that no decision
    is given without its record.
    """

    def __init__(
        self,
        path: Path,
        *,
        key: bytes | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Creates a log, readable by its owner only, or continues the chain of an existing one.

        A last line without line end, torn by a crash, was never acknowledged. The record of this
        opening takes its place and names its length and SHA-256. Complete lines never change.

        Args:
            path: of the log.
            key: of the pictures' digests, as `read_key`; None: they have none.
            clock: returns the time in UTC.

        Raises:
            AuditError: another process writes the log, its end is not sound, it cannot be written,
                or this system is Windows.
        """
        self.path, self._key, self._clock = path, key, clock
        self._writing, self._flushing = threading.Lock(), threading.Lock()
        self._failure: str | None = None
        self._flushed = 0
        self._next_head = 0.0
        self._file = _locked(path)
        try:
            self._head, self._size, torn = _end_of(self._file, path)
            note = {"torn": torn} if torn else {}
            self._append(OPENED, {"format": FORMAT, **note}, torn_bytes=torn.get("bytes", 0))
            sync_folder(path.parent)
        except OSError as error:
            os.close(self._file)
            raise _unusable(path, error) from error
        except BaseException:
            os.close(self._file)
            raise
        if torn:
            log.warning("audit log %s: a torn last line was replaced by its digest: %s", path, torn)

    @property
    def head(self) -> Entry:
        """The last line."""
        return self._head

    def digest(self, picture: bytes) -> str:
        """Returns the digest of an encoded picture, with the name of its kind in front."""
        if self._key is None:
            return f"sha256:{hashlib.sha256(picture).hexdigest()}"
        return f"hmac-sha256:{hmac.new(self._key, picture, hashlib.sha256).hexdigest()}"

    def append(self, record: Mapping[str, object]) -> None:
        """Appends the record of a decision; it is on disk when this returns.

        Args:
            record: ready for JSON; its place in the chain and the time are added.

        Raises:
            AuditError: it is not on disk, or cannot be relied on to be.
        """
        self._append(DECISION, record)

    def check(self) -> None:
        """Raises `AuditError` if nothing can be appended any more."""
        if self._failure is not None:
            raise AuditError(self._failure)

    def close(self) -> None:
        """Releases the file after the appends in progress."""
        with self._writing:
            if self._file < 0:
                return
            with contextlib.suppress(AuditError):  # the appends that wait for it raise the error
                self._flush(self._head.sequence)
            with self._flushing:
                self._log_head()
                os.close(self._file)
                self._file, self._failure = -1, "The audit log is closed."

    def __enter__(self) -> Self:
        """Returns this log."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes this log."""
        self.close()

    def _append(self, event: str, record: Mapping[str, object], torn_bytes: int = 0) -> None:
        with self._writing:
            self.check()
            line, entry = self._line(event, record)
            self._require_untouched(self._size + torn_bytes)
            self._write(line, torn_bytes)
            self._size, self._head = self._size + len(line), entry
        self._flush(entry.sequence)
        if time.monotonic() >= self._next_head:
            self._log_head()

    def _line(self, event: str, record: Mapping[str, object]) -> tuple[bytes, Entry]:
        sequence = self._head.sequence + 1
        own = {
            "sequence": sequence,
            "previous": self._head.hash,
            "time": self._clock().isoformat(timespec="milliseconds"),
            "event": event,
        }
        if taken := {*own, "hash"} & record.keys():
            raise AuditError(f"A record must not hold {', '.join(sorted(taken))}.")
        try:
            line, digest = encoded({**record, **own})
            parsed(line)  # nothing is written that does not verify
        except ValueError as error:
            raise AuditError(f"A record cannot be written: {error}.") from error
        return line, Entry(sequence, digest)

    def _require_untouched(self, size: int) -> None:
        """Raises `AuditError` for good if the file was removed, replaced, cut or written to."""
        try:
            here, there = os.fstat(self._file), self.path.stat()
        except OSError as error:
            raise self._failed(f"cannot be examined ({error.strerror})") from error
        if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
            raise self._failed("was moved or replaced while it was written")
        if here.st_size != size:
            raise self._failed("was changed by another program while it was written")

    def _write(self, line: bytes, torn_bytes: int) -> None:
        """Writes a line at the end, or over a torn one; on failure the file has its old size."""
        done = 0
        try:
            while done < len(line):
                done += os.pwrite(self._file, line[done:], self._size + done)
            if torn_bytes > len(line):
                os.ftruncate(self._file, self._size + len(line))
        except OSError as error:
            try:
                os.ftruncate(self._file, self._size + torn_bytes)
            except OSError:
                raise self._failed("cannot be kept consistent") from error
            log.error("audit log %s: %s", self.path, error)  # noqa: TRY400 - expected
            raise AuditError(f"The audit log cannot be written ({error.strerror}).") from error

    def _flush(self, sequence: int) -> None:
        """Waits until a line is on disk; one flush serves all lines written before it."""
        with self._flushing:
            if self._flushed >= sequence:
                return
            self.check()
            last = self._head.sequence
            try:
                flush(self._file)
            except OSError as error:
                # A later flush may succeed although these lines were lost.
                raise self._failed(f"cannot be flushed to disk ({error.strerror})") from error
            self._flushed = last

    def _failed(self, reason: str) -> AuditError:
        """Refuses every further append; the message is for clients, so it names no path."""
        self._failure = f"The audit log {reason}. Restart the service when this is mended."
        log.error("audit log %s %s: no decision is given any more", self.path, reason)
        return AuditError(self._failure)

    def _log_head(self) -> None:
        self._next_head = time.monotonic() + _HEAD_SECONDS
        log.info("audit log %s: sequence %d, head %s", self.path, *self._head)


def opened_log(settings: Settings) -> AuditLog | None:
    """Opens the audit log of a service, if it has one; raises what `AuditLog` raises."""
    if settings.audit is None:
        return None
    key = None if settings.audit_key is None else read_key(settings.audit_key)
    return AuditLog(settings.audit, key=key)


def read_key(path: Path) -> bytes:
    """Reads the key of the pictures' digests; line ends around it do not count.

    Raises:
        AuditError: the file cannot be read, or the key is too short or too long.
    """
    least, most = _KEY_BYTES
    try:
        check_regular(path)
        with path.open("rb") as file:
            key = file.read(most + 3).strip(b"\r\n")
    except (OSError, ValueError) as error:
        raise AuditError(f"The audit key {path} cannot be read: {error}") from error
    if not least <= len(key) <= most:
        raise AuditError(f"The audit key {path} must have {least} to {most:,} bytes.")
    return key


def _locked(path: Path) -> int:
    """Opens a file for reading and writing, created if there is none, and locks it."""
    if not hasattr(os, "pwrite"):
        raise AuditError(
            "An audit log needs writes at a position and files that only their owner reads, which "
            "this system does not offer (no os.pwrite). Serve on Linux or macOS; verifying works "
            "here, too."
        )
    try:
        if os.path.lexists(path):
            check_regular(path)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o600)
    except (OSError, ValueError) as error:
        raise _unusable(path, error) from error
    try:
        lock(file)
    except BlockingIOError as error:
        os.close(file)
        raise AuditError(
            f"Another process writes the audit log {path}. Each service needs a log of its own."
        ) from error
    except OSError as error:
        os.close(file)
        raise _unusable(path, error) from error
    return file


def _unusable(path: Path, error: Exception) -> AuditError:
    return AuditError(f"The audit log {path} cannot be opened: {error}")


def _end_of(file: int, path: Path) -> tuple[Entry, int, dict[str, Any]]:
    """Returns the last complete line, where it ends, and what is torn behind it.

    Raises:
        AuditError: the last complete line is not sound, or there is none in a file with content.
    """
    size = os.fstat(file).st_size
    start = max(size - 2 * MOST_LINE_BYTES, 0)
    tail = os.pread(file, size - start, start)
    end = tail.rfind(b"\n") + 1
    torn = tail[end:]
    if not end and (start or torn[: len(HEAD)] != HEAD[: len(torn)]):
        raise AuditError(f"{path} is not an audit log. Choose another file.")
    last = Entry(0, START)
    if end:
        line = tail[tail.rfind(b"\n", 0, end - 1) + 1 : end]
        try:
            last = parsed(line).entry
        except ValueError as error:
            raise AuditError(
                f"The last line of the audit log {path} is not sound: {error}. Examine it with "
                f"`{command_line('audit')}`, keep it, and start another one."
            ) from error
    note = {"bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()} if torn else {}
    return last, start + end, note
