"""Verifying audit logs: every byte, every line, and what the command says of them."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime import audit
from runtime.__main__ import main
from runtime.audit import MOST_LINE_BYTES, AuditError, encoded, verify
from runtime.printing import MOST_LISTED
from tests.hostile_paths import hostile_paths

TIMES = [f"2026-01-02T03:04:{second:02d}.000+00:00" for second in range(60)]


def lines_of(records: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """Chains records as the format is documented, without the code that is tested."""
    previous, lines = "0" * 64, []
    for number, record in enumerate(records, 1):
        whole = {"sequence": number, "previous": previous, "time": TIMES[number % 60], **record}
        body = json.dumps(whole, sort_keys=True, separators=(",", ":"))
        previous = hashlib.sha256(body.encode()).hexdigest()
        lines.append(f'{{"hash":"{previous}",{body[1:]}\n'.encode())
    return lines


def decided(outcome: str = "pass", **more: Any) -> dict[str, Any]:
    return {"event": "decision", "outcome": outcome, "reasons": ["challenge_met"], **more}


def small_log(decisions: int = 6) -> list[bytes]:
    outcomes = ["pass", "refer", "fail"]
    return lines_of(
        [{"event": "opened", "format": 1}, *(decided(outcomes[i % 3]) for i in range(decisions))]
    )


def twin_is_sound(data: bytes) -> bool:
    """Verifies a log the slow way: parse, take `hash` out, write the rest again, compare."""
    previous = "0" * 64
    if not data.endswith(b"\n"):
        return False
    for number, line in enumerate(data[:-1].split(b"\n"), 1):
        try:
            text = line.decode("ascii")
            record = json.loads(text)
            given = record.pop("hash")
            body = json.dumps(record, sort_keys=True, separators=(",", ":"))
            again = f'{{"hash":"{given}",{body[1:]}'
        except (ValueError, KeyError, AttributeError, TypeError):
            return False
        own = hashlib.sha256(body.encode()).hexdigest()
        first = number > 1 or (record.get("event"), record.get("format")) == ("opened", 1)
        expected = (own, number, previous, text, True)
        if (given, record.get("sequence"), record.get("previous"), again, first) != expected:
            return False
        previous = own
    return True


def found_in(path: Path, data: bytes, expected: Sequence[str] = ()) -> list[tuple[int, str]]:
    path.write_bytes(data)
    return [(found.line, found.problem) for found in verify(path, expected).breaks]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def test_a_sound_log_is_summed_up(path: Path) -> None:
    lines = small_log(7)
    path.write_bytes(b"".join(lines))
    report = verify(path)
    assert twin_is_sound(path.read_bytes())
    assert (report.lines, report.break_count, report.breaks) == (8, 0, [])
    assert report.outcomes == {"pass": 3, "refer": 2, "fail": 2}
    assert (report.first_time, report.last_time) == (TIMES[1], TIMES[8])
    assert report.head == (8, json.loads(lines[-1])["hash"])


def test_the_line_of_a_record_is_the_documented_one() -> None:
    record = {"sequence": 1, "previous": "0" * 64, "time": TIMES[1], "event": "opened", "format": 1}
    assert encoded(record)[0] == small_log(0)[0]


def test_every_changed_byte_is_found(path: Path) -> None:
    data = b"".join(small_log(1))
    for place in range(len(data)):
        for change in (1, 32):  # another digit, another case
            mutant = bytearray(data)
            mutant[place] ^= change
            assert found_in(path, bytes(mutant)), (place, change)
            assert not twin_is_sound(bytes(mutant))


def test_every_inserted_or_removed_byte_is_found(path: Path) -> None:
    data = b"".join(small_log(1))
    ends = {index + 1 for index, byte in enumerate(data) if byte == 10}
    for place in range(len(data)):
        assert found_in(path, data[:place] + data[place + 1 :]), place
        for extra in (b" ", b"\n"):
            assert found_in(path, data[:place] + extra + data[place:]), (place, extra)
    for length in range(1, len(data)):  # a cut at a line's end is the only one without a trace
        assert (length in ends) == (not found_in(path, data[:length])), length


def test_random_changes_are_judged_as_by_a_twin(path: Path) -> None:
    rng = random.Random(3)
    lines = small_log(5)
    sound = 0
    for _ in range(400):
        mutant = list(lines)
        for _ in range(rng.randrange(3)):
            match rng.randrange(4):
                case 0:
                    del mutant[rng.randrange(len(mutant))]
                case 1:
                    mutant.insert(rng.randrange(len(mutant) + 1), rng.choice(lines))
                case 2:
                    rng.shuffle(mutant)
                case _:
                    place = rng.randrange(len(mutant))
                    mutant[place] = mutant[place].replace(b"pass", b"fail")
            if not mutant:
                mutant = list(lines)
        data = b"".join(mutant)
        assert twin_is_sound(data) == (not found_in(path, data))
        sound += twin_is_sound(data)
    assert 50 < sound < 350


def test_an_edited_line_is_the_only_break(path: Path) -> None:
    lines = small_log()
    lines[3] = lines[3].replace(b'"fail"', b'"pass"')
    assert found_in(path, b"".join(lines)) == [
        (4, "its content does not match its hash: it was edited")
    ]


def test_an_edited_line_with_a_new_hash_breaks_the_next_one(path: Path) -> None:
    lines = small_log()
    record = json.loads(lines[3])
    del record["hash"]
    lines[3] = encoded({**record, "outcome": "pass"})[0]
    assert found_in(path, b"".join(lines)) == [
        (5, "it does not continue the line before: one of them was replaced")
    ]


def test_removed_lines_are_counted(path: Path) -> None:
    lines = small_log()
    assert found_in(path, b"".join(lines[:2] + lines[5:])) == [
        (3, "sequence 6 follows 2; lines missing between them: 3")
    ]
    assert found_in(path, b"".join(lines[2:]))[0] == (
        1,
        "sequence 3 follows 0; lines missing between them: 2",
    )


def test_inserted_and_moved_lines_are_named(path: Path) -> None:
    lines = small_log()
    again = "it was inserted, repeated or moved"
    inserted = [*lines[:4], lines[2], *lines[4:]]
    assert found_in(path, b"".join(inserted)) == [
        (5, f"sequence 3 follows 4: {again}"),
        (6, "sequence 5 follows 3; lines missing between them: 1"),
    ]
    moved = [lines[0], lines[2], lines[1], *lines[3:]]
    assert found_in(path, b"".join(moved)) == [
        (2, "sequence 3 follows 1; lines missing between them: 1"),
        (3, f"sequence 2 follows 3: {again}"),
        (4, "sequence 4 follows 2; lines missing between them: 1"),
    ]


def test_all_of_several_breaks_are_found(path: Path) -> None:
    lines = small_log(40)
    for place in (3, 17, 30):
        lines[place] = lines[place].replace(b"challenge_met", b"challenge_mat")
    assert [line for line, _ in found_in(path, b"".join(lines))] == [4, 18, 31]


def test_a_line_removed_behind_a_damaged_one_is_found(path: Path) -> None:
    lines = small_log()
    lines[2] = b"garbage\n"
    assert [line for line, _ in found_in(path, b"".join(lines))] == [3]
    del lines[3]
    assert [line for line, _ in found_in(path, b"".join(lines))] == [3, 4]


def test_a_missing_end_needs_a_hash_kept_elsewhere(path: Path) -> None:
    lines = small_log()
    kept = json.loads(lines[-1])["hash"]
    assert found_in(path, b"".join(lines), [kept, kept.upper()]) == []
    assert found_in(path, b"".join(lines[:-1])) == []
    problem = f"no sound line has the hash {kept}: its end is missing, or replaced"
    assert found_in(path, b"".join(lines[:-1]), [kept]) == [(7, problem)]
    more = [*small_log(9)]
    assert found_in(path, b"".join(more), [kept]) == []  # the log has grown since


def test_a_first_line_of_another_kind_is_a_break(path: Path) -> None:
    for first in ({"event": "opened", "format": 2}, {"event": "opened"}, decided()):
        assert found_in(path, b"".join(lines_of([first, decided()]))) == [
            (1, "it is no first line of format 1")
        ]


@pytest.mark.parametrize(
    "wrong",
    [{"sequence": 1.0}, {"sequence": True}, {"sequence": "2"}, {"time": None}, {"event": 3}],
)
def test_a_line_without_what_every_line_has_is_a_break(path: Path, wrong: dict[str, Any]) -> None:
    data = b"".join(lines_of([{"event": "opened", "format": 1}, {**decided(), **wrong}]))
    assert found_in(path, data) == [(2, f"it has no valid {next(iter(wrong))}")]


def test_a_second_hash_in_a_line_is_a_break(path: Path) -> None:
    data = b"".join(lines_of([{"event": "opened", "format": 1}, decided(hash="0" * 64)]))
    assert "comes twice" in found_in(path, data)[0][1]


def test_an_empty_file_is_no_sound_log(path: Path) -> None:
    assert found_in(path, b"") == [(1, "the log is empty")]


def test_memory_does_not_grow_with_a_line_or_with_breaks(path: Path) -> None:
    lines = small_log(3)
    data = lines[0] + lines[1] + b"x" * (MOST_LINE_BYTES * 5 + 7) + b"\n" + b"".join(lines[3:])
    held = [len(line) for line in audit._lines(io.BytesIO(data))]
    assert max(held) == MOST_LINE_BYTES + 1
    assert [line for line, _ in found_in(path, data)] == [3]
    path.write_bytes(b"{}\n" * 1000)
    report = verify(path)
    assert (report.break_count, len(report.breaks)) == (1000, MOST_LISTED)


def test_a_record_too_large_or_no_json_is_refused() -> None:
    with pytest.raises(ValueError, match=r"it takes 300,\d{3} bytes, a line holds 262,144"):
        encoded({"reasons": ["x" * 300_000]})
    for value in (float("nan"), object(), {1, 2}):
        with pytest.raises(ValueError, match="JSON"):
            encoded({"value": value})
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="cannot be written"):
        encoded({"value": deep})


def test_outcomes_of_a_forged_log_are_bounded(path: Path) -> None:
    records = [decided(f"o{i}", reasons=[]) for i in range(300)]
    path.write_bytes(b"".join(lines_of([{"event": "opened", "format": 1}, *records])))
    assert verify(path).outcomes == {"other": 300}


def test_what_is_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="is a folder, expected a file"):
        verify(tmp_path)
    with pytest.raises(AuditError, match="No such file"):
        verify(tmp_path / "none.log")


def test_the_command_verifies_a_log(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = small_log()
    path.write_bytes(b"".join(lines))
    head = json.loads(lines[-1])["hash"]
    assert main(["audit", str(path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{path}: 7 lines, 6 decisions (2 fail, 2 pass, 2 refer)"
    assert printed[1] == f"from {TIMES[1]} to {TIMES[7]}"
    assert printed[2] == f"head: sequence 7, hash {head}"
    assert printed[3].endswith("compare with a hash kept elsewhere, --expect HASH")
    assert main(["audit", str(path), "--expect", head]) == 0
    assert capsys.readouterr().out.endswith("the hashes kept elsewhere are those of its lines\n")
    path.write_bytes(b"".join(lines[:-1]))
    assert main(["audit", str(path), "--expect", head]) == 1
    assert f"line 7: no sound line has the hash {head}" in capsys.readouterr().out


def test_the_command_names_breaks(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = small_log(300)
    path.write_bytes(b"".join(lines[::2]))
    assert main(["audit", str(path)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[3] == "line 2: sequence 3 follows 1; lines missing between them: 1"
    assert printed[-2:] == ["… and 50 more", "breaks: 150"]
    assert main(["audit", str(path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["break_count"], len(report["breaks"])) == (150, MOST_LISTED)
    assert report["decisions"] == {"refer": 50, "fail": 50, "pass": 50}


def test_the_command_prints_hostile_content_escaped(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = lines_of([{"event": "opened", "format": 1, "time": "\x1b[2J\u202e" * 500}])
    path.write_bytes(b"".join(line))
    assert main(["audit", str(path)]) == 0
    printed = capsys.readouterr().out
    assert all(text.isprintable() and len(text) < 4_000 for text in printed.splitlines())


@pytest.mark.parametrize("wrong", ["", "0" * 63, "g" * 64, "0" * 65])
def test_the_command_refuses_what_is_no_hash(
    wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["audit", "some.log", "--expect", wrong])
    assert exit_.value.code == 2
    assert "expected 64 hex digits" in capsys.readouterr().err


def test_the_command_reports_a_missing_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", str(tmp_path / "none.log")]) == 1
    assert re.match(
        r"error: The audit log \S+ cannot be read: .*No such file", capsys.readouterr().err
    )


def test_hostile_paths_are_errors_or_unsound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for what, hostile in hostile_paths(tmp_path).items():
        assert main(["audit", str(hostile)]) == 1, what
        out, err = capsys.readouterr()
        assert all(line.isprintable() for line in (out + err).splitlines()), what
