"""Names from files are printed in one line, escaped and cut; data keep the true names."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys

import pytest

from export.calibration.csv_tables import LabelsError
from export.calibration.markdown_text import plain, table
from export.errors import CheckpointError, OptionsError
from runtime.commands import PrintableFormatter
from runtime.console import photo_line, photo_text, summary_text
from runtime.errors import EngineFileError, ImageError, ManifestError
from runtime.json_reader import JsonReader
from runtime.labeling import Summary
from runtime.printing import MOST_LINE, json_line, printable
from tests.hostile_paths import EVIL, unprintable

LONG = "x" * 100_000


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("plain name, 90 % – é 年.jpg", "plain name, 90 % – é 年.jpg"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\u202egpj\u2066", r"\u202egpj\u2066"),
        ("\x1b[2J\x00\x7f\x9b", r"\x1b[2J\x00\x7f\x9b"),
        ("\udcff\ud800", r"\udcff\ud800"),
        ("a\u2028b\u00a0", r"a\u2028b\xa0"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_what_is_not_printable_is_escaped(text: str, printed: str) -> None:
    assert printable(text) == printed


def test_a_long_name_is_cut_and_its_length_named() -> None:
    printed = printable(LONG)
    assert "… (100,000 characters) …" in printed
    assert len(printed) < 300
    assert len(printable("\n" * 100_000)) < 600


@pytest.mark.parametrize(
    "error",
    [
        ImageError(f"{EVIL} is no picture"),
        EngineFileError(f"{EVIL} is missing"),
        CheckpointError(f"{EVIL}: {LONG}"),
        ManifestError(EVIL, [EVIL, LONG], EVIL),
        OptionsError([f"--only {EVIL}: no such expert"]),
        LabelsError(EVIL, [EVIL] * 1000),
    ],
)
def test_errors_cannot_be_forged(error: Exception) -> None:
    for text in (str(error), str(pickle.loads(pickle.dumps(error)))):  # noqa: S301 - our own
        assert not list(unprintable(text))
        assert "\nline" not in text
        assert len(text) < 102 * (MOST_LINE + 200)
    assert len(str(error).splitlines()) <= 102


def test_problems_list_keys_escaped() -> None:
    problems: list[str] = []
    reader = JsonReader({EVIL: 1, LONG: {"x": "y"}}, "", problems)
    reader.only(())
    reader.child(EVIL).string()
    reader.child(LONG).child(EVIL)
    reader.child(EVIL).choice(("a",))
    assert problems
    for problem in problems:
        assert not list(unprintable(problem))
        assert "\n" not in problem
        assert len(problem) < 1_000


def test_problems_of_a_document_are_bounded() -> None:
    problems: list[str] = []
    for element in JsonReader(list(range(5_000)), "", problems).elements():
        element.string()
    assert len(problems) == 100
    assert problems[-1] == "further problems are not listed"


def test_output_is_escaped_and_json_keeps_the_name() -> None:
    text = photo_text(EVIL, []) + summary_text(Summary(bad={EVIL: EVIL}), EVIL)
    assert not list(unprintable(text))
    assert "\nline" not in text
    line = photo_line(EVIL, [], EVIL)
    assert not list(unprintable(line))
    assert json.loads(line)["path"] == EVIL
    names = {"path": "\x7f ä \U000e0001 😀 \u202e\udcff"}
    assert json.loads(json_line(names)) == names
    assert json_line(names).isprintable()
    assert json_line(names).isascii()  # for terminals of any encoding


def test_log_records_cannot_be_forged() -> None:
    record = logging.LogRecord("agemoe", logging.INFO, "", 0, "%s is bad", (EVIL,), None)
    text = PrintableFormatter("%(levelname)s %(message)s").format(record)
    assert text.split("\n")[1].startswith("  line")
    assert not list(unprintable(text))


def test_markdown_shows_a_name_and_does_nothing_else() -> None:
    name = plain("<img src=x>|[a](b)`*\n# head")
    assert name == r"\<img src=x\>|\[a\](b)\`\*\\n# head"
    found = table([plain("a|b"), "n"], [[name, "1"]])
    assert len(found.splitlines()) == 3
    assert r"a\|b" in found


def test_warnings_of_pillow_about_data_are_not_printed() -> None:
    code = (
        "import runtime.images, warnings\n"
        "g = {'__name__': 'PIL.TiffImagePlugin', 'warnings': warnings}\n"
        "exec(\"for i in range(9): warnings.warn(f'Corrupt EXIF {i}')\", g)\n"
        "warnings.warn('of the program')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Corrupt" not in done.stderr
    assert "of the program" in done.stderr
