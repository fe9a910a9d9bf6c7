"""The log of the service: one format for all records, as text or JSON, with request ids.

Loggers: `agemoe` (engines, reloads, audit), `agemoe.access` (one record for each request),
`agemoe.connections` (what clients send that is not HTTP, and tracebacks of unexpected errors),
`uvicorn.error` (start and stop of the server) and `py.warnings`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO
from urllib.parse import quote

from runtime.commands import PrintableFormatter, printable_text, start_logging
from runtime.printing import json_line, printable
from runtime.serving.request_ids import CurrentRequest, request_id

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")

_MOST_METHOD = 20
_QUIET = ("/health/live", "/health/ready", "/metrics")
"""Paths that machines ask every few seconds: a success is logged for `debug` only."""
_access = logging.getLogger("agemoe.access")
_warnings = logging.getLogger("py.warnings")


class TextFormatter(PrintableFormatter):
    """Formats a record as a line: time, level, logger, request id and message."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - of `logging`
        """Returns the line without a traceback."""
        of_request = request_id()
        place = "" if of_request is None else f" [{of_request}]"
        return f"{_time(record)} {record.levelname} {record.name}{place}: {record.message}"


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns an object with the members of `docs/serving.md`."""
        values: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": printable_text(record.getMessage()),
            "request_id": request_id(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            values["exception"] = printable_text(self.formatException(record.exc_info))
        return json_line(values)


@contextmanager
def logging_started(level: str, layout: str, *, access: bool) -> Iterator[None]:
    """Logs to standard error within the context, warnings included.

    Args:
        level: one of `LEVELS`; records below it are left out.
        layout: one of `FORMATS`.
        access: whether each request is logged.
    """
    formatter = JsonFormatter() if layout == "json" else TextFormatter()
    start_logging(formatter, getattr(logging, level.upper()))
    before = _access.disabled
    _access.disabled = not access
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _log_warning
            yield
    finally:
        _access.disabled = before


def log_access(
    method: str, path: str, status: int, seconds: float, request: CurrentRequest
) -> None:
    """Logs a request that was answered: no query, no header, and nothing of the body."""
    quiet = path in _QUIET and status < 400
    level = logging.DEBUG if quiet else logging.INFO
    if not _access.isEnabledFor(level):
        return
    fields = {
        "method": printable(method, _MOST_METHOD),
        "path": printable(quote(path)),
        "status": status,
        "ms": round(seconds * 1000.0, 1),
        "key": None if request.key is None else printable(request.key),
    }
    layout = "%(method)s %(path)s %(status)d %(ms).1f ms"
    layout += "" if request.key is None else " key=%(key)s"
    _access.log(level, layout, fields, extra={"fields": fields})


def _time(record: logging.LogRecord) -> str:
    """Returns the time of a record in UTC, as in 2026-11-27T09:30:00.125Z."""
    time = datetime.fromtimestamp(record.created, UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Replaces `warnings.showwarning`: logs the message without its place in the code."""
    del filename, lineno, file, line
    _warnings.warning("%s: %s", category.__name__, message)
