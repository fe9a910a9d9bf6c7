"""The log that jobs resume from: its content when torn, damaged or contended for."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.resume_log import ResumeLog, ResumeLogError

SETTINGS = {"engine": "00", "faces": "photo"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log of three items."""
    path = tmp_path / "ages.csv.journal"
    with ResumeLog.open(path, SETTINGS) as log:
        log.add([("a", [{"age": 1.5}]), ("b", [{"age": 2.0}, {"age": None}])])
        log.add([("c", [])])
    return path


def test_a_log_keeps_its_items(path: Path) -> None:
    with ResumeLog.open(path, SETTINGS) as log:
        assert [key in log for key in "abcd"] == [True, True, True, False]
        assert log["b"] == [{"age": 2.0}, {"age": None}]
        log.add([("d", [{"age": 4.0}])])
        assert (log["a"], log["d"], len(log)) == ([{"age": 1.5}], [{"age": 4.0}], 4)


def test_a_log_torn_at_any_byte_keeps_the_complete_items(path: Path) -> None:
    data = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        with ResumeLog.open(path, SETTINGS) as torn:
            kept = [key for key in "abc" if key in torn]
            assert kept == list("abc")[: sum(end <= length for end in ends[1:])]
            torn.add([("z", [{"age": 9.0}])])
        with ResumeLog.open(path, SETTINGS) as again:
            assert again["z"] == [{"age": 9.0}]
            assert [key for key in "abc" if key in again] == kept


def test_items_after_a_damaged_line_are_dropped(path: Path) -> None:
    header, a, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(header + a + b"\0\0\0\n" + b"".join(rest))
    with ResumeLog.open(path, SETTINGS) as damaged:
        assert [key in damaged for key in "abc"] == [True, False, False]
    assert path.read_bytes() == header + a


def test_a_log_is_open_in_one_process_at_a_time(path: Path) -> None:
    with (
        ResumeLog.open(path, SETTINGS),
        pytest.raises(ResumeLogError, match="Another process is writing"),
        ResumeLog.open(path, SETTINGS),
    ):
        pass


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("content", [b"my diary", b"my diary\n", b'{"agemoe_log": 1, "x": 2}\n'])
def test_a_file_of_the_user_is_never_overwritten(
    tmp_path: Path, content: bytes, *, restart: bool
) -> None:
    path = tmp_path / "ages.csv.journal"
    path.write_bytes(content)
    with (
        pytest.raises(ResumeLogError, match="is not a log"),
        ResumeLog.open(path, SETTINGS, restart=restart),
    ):
        pass
    assert path.read_bytes() == content


def test_other_settings_are_refused_or_restart_the_log(path: Path) -> None:
    data, other = path.read_bytes(), {"engine": "01", "device": ["cpu"]}
    with (
        pytest.raises(ResumeLogError) as caught,
        ResumeLog.open(path, other),
    ):
        pass
    assert "- device was not given, is ['cpu']\n- engine was 00, is 01\n- faces" in str(
        caught.value
    )
    assert path.read_bytes() == data
    with ResumeLog.open(path, other, restart=True) as log:
        assert "a" not in log
    with ResumeLog.open(path, other) as log:
        assert len(log) == 0
