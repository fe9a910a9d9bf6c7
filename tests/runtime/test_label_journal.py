"""The journal of bulk labeling: what it remembers, torn, damaged or contended for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.label_journal import Journal
from runtime.label_tables import LabelingError

SETTINGS = {"engine": "00", "faces": "photo"}


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A journal of three photographs."""
    path = tmp_path / "ages.csv.journal"
    with Journal.opened(path, SETTINGS) as journal:
        journal.add([("a", [{"age": 1.5}]), ("b", [{"age": 2.0}, {"age": None}])])
        journal.add([("c", [])])
    return path


def test_a_journal_remembers(journal: Path) -> None:
    with Journal.opened(journal, SETTINGS) as again:
        assert [name in again for name in "abcd"] == [True, True, True, False]
        assert again.rows("b") == [{"age": 2.0}, {"age": None}]
        again.add([("d", [{"age": 4.0}])])
        assert (again.rows("a"), again.rows("d")) == ([{"age": 1.5}], [{"age": 4.0}])


def test_a_journal_torn_anywhere_holds_what_was_whole(journal: Path) -> None:
    data = journal.read_bytes()
    ends = [place + 1 for place, byte in enumerate(data) if byte == ord("\n")]
    for length in range(len(data) + 1):
        journal.write_bytes(data[:length])
        with Journal.opened(journal, SETTINGS) as torn:
            kept = [name for name in "abc" if name in torn]
            assert kept == list("abc")[: sum(end <= length for end in ends[1:])]
            torn.add([("z", [{"age": 9.0}])])
        with Journal.opened(journal, SETTINGS) as again:
            assert again.rows("z") == [{"age": 9.0}]
            assert [name for name in "abc" if name in again] == kept


def test_what_follows_a_damaged_line_is_done_again(journal: Path) -> None:
    header, a, *rest = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(header + a + b"\0\0\0\n" + b"".join(rest))
    with Journal.opened(journal, SETTINGS) as damaged:
        assert [name in damaged for name in "abc"] == [True, False, False]
    assert journal.read_bytes() == header + a


def test_one_process_at_a_time(journal: Path) -> None:
    with (
        Journal.opened(journal, SETTINGS),
        pytest.raises(LabelingError, match="Another process is writing"),
        Journal.opened(journal, SETTINGS),
    ):
        pass


@pytest.mark.parametrize(
    "content", [b"my diary", b"my diary\n", b'{"agemoe_journal": 1, "x": 2}\n']
)
def test_a_file_of_the_user_is_not_taken_for_a_journal(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ages.csv.journal"
    path.write_bytes(content)
    with pytest.raises(LabelingError, match="is no journal"), Journal.opened(path, SETTINGS):
        pass
    assert path.read_bytes() == content


def test_a_journal_holds_no_pixels(journal: Path) -> None:
    for line in journal.read_text(encoding="ascii").splitlines()[1:]:
        assert set(json.loads(line)) == {"path", "rows"}
