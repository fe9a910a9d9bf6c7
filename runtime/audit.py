"""The audit log of decisions: its format, and `agemoe audit FILE`, which verifies one.

A line is one JSON object. `hash` is the SHA-256 of the rest of the object as the line has it: from
`{` and the key after `hash` up to the last `}`. `previous` is the hash of the line before, so that
no line can be edited, removed, inserted or moved without a trace. The service writes the log
(`runtime.serving.audit`); verifying needs neither the service's packages nor any lock.

The chain has no key: with write access to the file, all of it can be replaced or its end cut off.
Only a hash that was kept elsewhere shows that: see `--expect`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from runtime.errors import AgeMoEError
from runtime.files import check_regular, parse_json
from runtime.printing import MOST_LISTED, printable

FORMAT = 1
"""Incremented whenever the meaning or the layout of a line changes."""
OPENED, DECISION = "opened", "decision"
"""Events: the service opened the log; it decided on one person."""
START = "0" * 64
"""`previous` of the first line."""
MOST_LINE_BYTES = 256 << 10
"""Of one line, its line end included: the digests of some thousand pictures."""
OUTCOMES = ("pass", "refer", "fail")
HEAD = b'{"hash":"'
"""Start of every line."""
_HASH_END = len(HEAD) + len(START)
_SEPARATOR = b'",'
_KINDS = {"sequence": int, "previous": str, "time": str, "event": str}
"""Types of the keys that every line has."""


class AuditError(AgeMoEError, RuntimeError):
    """The audit log cannot be opened, written or read."""


class Entry(NamedTuple):
    """The place of a line in its log."""

    sequence: int
    """1 for the first line."""
    hash: str
    """Of the line; kept elsewhere, it shows later that no line up to this one was changed."""


class Line(NamedTuple):
    """What a sound line says of the chain."""

    entry: Entry
    previous: str
    record: Mapping[str, Any]


class Break(NamedTuple):
    """A place where a log does not verify."""

    line: int
    """Number of the line, from 1; one past the last for what is missing."""
    problem: str


@dataclass(slots=True)
class Report:
    """What verifying a log found."""

    lines: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """Number of decisions by outcome; anything but `OUTCOMES` counts as `other`."""
    first_time: str | None = None
    last_time: str | None = None
    head: Entry | None = None
    """Of the last sound line."""
    breaks: list[Break] = field(default_factory=list)
    """The first `MOST_LISTED` breaks."""
    break_count: int = 0
    """Of all breaks; the log is sound if it is 0."""

    def add_break(self, line: int, problem: str) -> None:
        """Notes a break."""
        self.break_count += 1
        if len(self.breaks) < MOST_LISTED:
            self.breaks.append(Break(line, problem))

    def to_dict(self) -> dict[str, Any]:
        """Returns numbers, strings, lists and dicts, ready for JSON."""
        return {
            "lines": self.lines,
            "decisions": dict(self.outcomes),
            "first_time": self.first_time,
            "last_time": self.last_time,
            "head": None if self.head is None else self.head._asdict(),
            "breaks": [found._asdict() for found in self.breaks],
            "break_count": self.break_count,
        }


def encoded(record: Mapping[str, object]) -> tuple[bytes, str]:
    """Returns the line of a record, in ASCII with its line end, and the line's hash.

    Raises:
        ValueError: the record is no JSON object, or too large for a line.
    """
    try:
        text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"it cannot be written as JSON ({error})") from error
    body = text.encode("ascii")
    digest = hashlib.sha256(body).hexdigest()
    line = HEAD + digest.encode() + _SEPARATOR + body[1:] + b"\n"
    if len(line) > MOST_LINE_BYTES:
        raise ValueError(f"it takes {len(line):,} bytes, a line holds {MOST_LINE_BYTES:,}")
    return line, digest


def parsed(line: bytes) -> Line:
    """Parses a line and verifies that its content matches its hash.

    Raises:
        ValueError: it is not sound; the text says why.
    """
    if len(line) > MOST_LINE_BYTES:
        raise ValueError(f"it has more than {MOST_LINE_BYTES:,} bytes")
    if not line.endswith(b"\n"):
        raise ValueError("it has no line end: torn by a crash, cut off, or being written")
    start, end = len(HEAD), _HASH_END + len(_SEPARATOR)
    if line[:start] != HEAD or line[_HASH_END:end] != _SEPARATOR:
        raise ValueError("it is no record of an audit log")
    digest = hashlib.sha256(b"{" + line[end:-1]).hexdigest()
    if digest.encode() != line[start:_HASH_END]:
        raise ValueError("its content does not match its hash: it was edited")
    record = parse_json(line[:-1].decode())
    if wrong := [name for name, kind in _KINDS.items() if type(record.get(name)) is not kind]:
        raise ValueError(f"it has no valid {', '.join(wrong)}")
    return Line(Entry(record["sequence"], digest), record["previous"], record)


def verify(path: Path, expected: Collection[str] = ()) -> Report:
    """Verifies a log line by line; memory does not grow with the file.

    Lines that are missing at the end leave no trace in the file: keep the hash of a late line
    elsewhere and pass it as `expected`.

    Args:
        path: of the log.
        expected: hashes of lines that the log must have.

    Raises:
        AuditError: the file cannot be read.
    """
    report, unseen = Report(), {text.lower() for text in expected}
    chain = _Chain(report)
    try:
        check_regular(path)
        with path.open("rb") as file:
            for line in _lines(file):
                chain.add(line)
                if report.head is not None:
                    unseen.discard(report.head.hash)
    except (OSError, ValueError) as error:
        raise AuditError(f"The audit log {path} cannot be read: {error}") from error
    if not report.lines:
        report.add_break(1, "the log is empty")
    for digest in sorted(unseen):
        problem = f"no sound line has the hash {printable(digest)}: its end is missing, or replaced"
        report.add_break(report.lines + 1, problem)
    return report


class _Chain:
    """Follows the lines of a log from first to last."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._last = Entry(0, START)
        """Of the last sound line."""
        self._unsound = 0
        """Lines since then, which were noted as breaks."""

    def add(self, line: bytes) -> None:
        """Verifies the next line."""
        report = self._report
        report.lines += 1
        try:
            found = parsed(line)
        except ValueError as error:
            report.add_break(report.lines, printable(error))
            self._unsound += 1
            return
        if problem := self._problem(found):
            report.add_break(report.lines, problem)
        self._count(found.record)
        self._last, self._unsound = found.entry, 0
        report.head = found.entry

    def _problem(self, found: Line) -> str | None:
        """Returns how a sound line does not continue those before it."""
        sequence, last = found.entry.sequence, self._last.sequence
        missing = sequence - last - 1 - self._unsound
        if missing > 0:
            return f"sequence {sequence} follows {last}; lines missing between them: {missing:,}"
        if missing < 0:
            return f"sequence {sequence} follows {last}: it was inserted, repeated or moved"
        if not self._unsound and found.previous != self._last.hash:
            return "it does not continue the line before: one of them was replaced"
        if self._report.lines == 1:
            kind = found.record["event"], found.record.get("format")
            if kind != (OPENED, FORMAT):
                return f"it is no first line of format {FORMAT}"
        return None

    def _count(self, record: Mapping[str, Any]) -> None:
        report, time = self._report, record["time"]
        report.first_time = report.first_time or time
        report.last_time = time
        if record["event"] == DECISION:
            outcome = record.get("outcome")
            report.outcomes[outcome if outcome in OUTCOMES else "other"] += 1


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yields the lines of a file, of a longer one only the first bytes."""
    while line := file.readline(MOST_LINE_BYTES + 1):
        yield line
        while len(line) > MOST_LINE_BYTES and not line.endswith(b"\n"):
            line = file.readline(MOST_LINE_BYTES + 1)


def report_text(name: str, report: Report, *, compared: bool) -> Sequence[str]:
    """Returns the lines that the command prints.

    Args:
        name: of the file.
        report: of it.
        compared: whether hashes kept elsewhere were given.
    """
    counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(report.outcomes.items()))
    decisions = report.outcomes.total()
    by_outcome = f" ({counts})" if counts else ""
    text = [f"{printable(name)}: {report.lines:,} lines, {decisions:,} decisions{by_outcome}"]
    if report.head is not None:
        text += [
            f"from {printable(report.first_time)} to {printable(report.last_time)}",
            f"head: sequence {report.head.sequence}, hash {report.head.hash}",
        ]
    if not report.break_count:
        end = (
            "the hashes kept elsewhere are those of its lines"
            if compared
            else "lines cut off its end would leave no trace here: compare with a hash kept "
            "elsewhere, --expect HASH"
        )
        return [*text, f"the chain is unbroken; {end}"]
    text += [f"line {found.line}: {found.problem}" for found in report.breaks]
    rest = report.break_count - len(report.breaks)
    return [*text, *([f"… and {rest:,} more"] if rest else []), f"breaks: {report.break_count:,}"]
