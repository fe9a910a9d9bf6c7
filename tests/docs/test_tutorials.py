"""The tutorials: their Python runs, all pages' options exist, quick commands print as shown."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from runtime.__main__ import main
from tests.docs.material import write_material
from tests.docs.pages import ROOT, blocks, matches, page

PAGES = ("integrator", "researcher", "operator")


def ran(*words: str) -> tuple[int | str | None, str]:
    """Runs a command in this process; returns its status and what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            return main(words), out.getvalue()
        except SystemExit as end:
            return end.code, out.getvalue()


def known_options(command: str) -> set[str]:
    """Returns the options in a command's help."""
    return set(re.findall(r"--[a-z][a-z0-9-]*", ran(command, "--help")[1]))


def commands(path: Path) -> list[tuple[str, list[str]]]:
    """Returns the subcommand and the options of each command of a page."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"(?:^ *|`|/)agemoe ([a-z]+)([^#`\n]*)", text, re.MULTILINE)
    return [(command, re.findall(r"(--[a-z][a-z0-9-]*)", rest)) for command, rest in found]


@pytest.mark.haar
@pytest.mark.filterwarnings("ignore::runtime.DetectorFallbackWarning")
@pytest.mark.parametrize("name", PAGES)
def test_the_python_runs(name: str, empty_folder: Path) -> None:
    write_material(empty_folder)
    for block in blocks(page(f"tutorials/{name}.md"), "python"):
        exec(compile(block, name, "exec"), {"__name__": name})  # noqa: S102


def test_every_command_and_option_of_all_pages_exists() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("engines/*.md"), *ROOT.glob("docs/**/*.md")]
    used = [(path.name, *entry) for path in pages for entry in commands(path)]
    assert len(used) > 100
    known = {command: known_options(command) for _, command, _ in used}
    wrong = [(name, c, o) for name, c, options in used for o in options if o not in known[c]]
    assert not wrong
    assert all(options for options in known.values()), "a page names a command that is none"
    assert known.keys() > {"build", "calibrate", "evaluate", "predict", "label", "serve", "audit"}


def test_quick_commands_print_what_the_pages_show(empty_folder: Path) -> None:
    write_material(empty_folder)
    status, text = ran("doctor", "--engines", "engines")
    assert status == 0
    for line in ("engines", "dlib_age", "opening"):
        assert re.search(rf"^  {line} +\S", text, re.MULTILINE)
    _, text = ran("serve", "--new-key", "phone-app")
    shown = next(b for b in blocks(page("tutorials/operator.md"), "") if "shown only once" in b)
    pattern = re.sub(r"(once: )\S+(\n.*\t)\S+", r"\1…\2…", shown.strip())
    assert matches(text, pattern)
