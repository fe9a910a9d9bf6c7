"""The formats of the log, and what `serve` makes of its options."""

from __future__ import annotations

import json
import logging
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from runtime.serving.command import main
from runtime.serving.logs import JsonFormatter, TextFormatter

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@contextmanager
def new_process() -> Iterator[None]:
    """Takes the root logger's handlers away, as at the start of a process."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = []
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)


def hostile() -> logging.LogRecord:
    error = ValueError("two\nlines\x1b[31m")
    place = "agemoe", logging.ERROR, __file__, 1
    quoted = "\u202e\nx" + "y" * 9_000
    return logging.LogRecord(*place, "name %s", (quoted,), (ValueError, error, None))


def test_a_text_record_is_escaped() -> None:
    first, *others = TextFormatter().format(hostile()).split("\n")
    assert re.match(rf"{TIME} ERROR agemoe: name \\u202e$", first)
    assert all(line.startswith("  ") and len(line) < 2_100 for line in others)
    assert others[-1] == r"  lines\x1b[31m"


def test_a_json_record_is_one_line() -> None:
    line = JsonFormatter().format(hostile())
    assert line.isprintable()
    values = json.loads(line)
    assert values.keys() == {"time", "level", "logger", "message", "request_id", "exception"}
    assert re.fullmatch(TIME, values["time"])
    assert values["message"].startswith("name \\u202e\nxy")
    assert len(values["message"]) < 2_100
    assert values["exception"].endswith("ValueError: two\nlines\\x1b[31m")


def run(*_: object) -> int:
    """Logs and warns in place of the server."""
    warnings.simplefilter("always")
    warnings.warn("a warning", UserWarning, stacklevel=1)
    for name in ("agemoe", "uvicorn.error", "agemoe.access"):
        logging.getLogger(name).info("information")
    logging.getLogger("agemoe.connections").warning(f"bad client {time.monotonic_ns()}")
    return 0


@pytest.mark.parametrize(
    ("options", "loggers"),
    [
        ("", "py.warnings agemoe uvicorn.error agemoe.access agemoe.connections"),
        ("--no-access-log", "py.warnings agemoe uvicorn.error agemoe.connections"),
        ("--log-level warning", "py.warnings agemoe.connections"),
        ("--log-level error", ""),
    ],
)
def test_the_options_of_the_log(
    options: str,
    loggers: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = warnings.showwarning
    monkeypatch.setattr("runtime.serving.server.run", run)
    with new_process():
        assert main(["--log-format", "json", *options.split()]) == 0
    records = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [record["logger"] for record in records] == loggers.split()
    if records:
        message = records[0]["message"]
        assert (records[0]["level"], message) == ("WARNING", "UserWarning: a warning")
    assert warnings.showwarning is before
    assert not logging.getLogger("agemoe.access").disabled


@pytest.mark.parametrize(
    ("options", "start"),
    [
        ("--engines nowhere", "nowhere/manifest.json has 1 problem:\n- there is no such file\n"),
        ("--keys nowhere", "The key file nowhere cannot be read: "),
        ("--host 0.0.0.0", "--host 0.0.0.0 accepts connections from other machines"),
    ],
)
def test_what_prevents_a_start_is_a_record_of_a_json_log(
    options: str, start: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with new_process():
        assert main(["--log-format", "json", "--port", "0", *options.split()]) == 1
    records = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (records[-1]["level"], records[-1]["logger"]) == ("ERROR", "agemoe")
    assert records[-1]["message"].startswith(start)


def test_an_interrupted_start_is_a_record_of_a_json_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("runtime.serving.server.run", interrupted)
    with new_process():
        assert main(["--log-format", "json"]) == 130
    assert json.loads(capsys.readouterr().err)["message"] == "Interrupted."
