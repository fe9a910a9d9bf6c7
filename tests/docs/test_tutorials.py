"""The tutorials: their Python runs, their options exist, quick commands print what they show."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from runtime.__main__ import main
from runtime.manifest import PRECISIONS
from tests.docs.material import write_material
from tests.docs.pages import ROOT, blocks, matches, page

PAGES = ("integrator", "researcher", "operator")
EXPORT = ("build", "calibrate", "evaluate")


def ran(*words: str) -> tuple[int | str | None, str]:
    """Runs a command in this process; returns its status and what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            return main(words), out.getvalue()
        except SystemExit as end:
            return end.code, out.getvalue()


def known_options(command: str) -> set[str]:
    """Returns the options in a command's help; those of export, which imports much, in its code."""
    if command in EXPORT:
        paths = [*(ROOT / "export").rglob("*.py"), *(ROOT / "runtime").glob("*.py")]
        texts = [path.read_text(encoding="utf-8") for path in paths]
        variants = {f"--{precision}" for precision in PRECISIONS}
        return variants | set(re.findall(r'"(--[a-z][a-z0-9-]*)"', "".join(texts)))
    return set(re.findall(r"--[a-z][a-z0-9-]*", ran(command, "--help")[1]))


def commands(name: str) -> list[tuple[str, list[str]]]:
    """Returns the subcommand and the options of each command of a page."""
    text = page(name).replace("\\\n", " ")
    found = re.findall(r"(?:^|`)agemoe ([a-z]+)([^#`\n]*)", text, re.MULTILINE)
    return [(command, re.findall(r"(--[a-z][a-z0-9-]*)", rest)) for command, rest in found]


@pytest.mark.haar
@pytest.mark.filterwarnings("ignore::runtime.DetectorFallbackWarning")
@pytest.mark.parametrize("name", PAGES)
def test_the_python_runs(name: str, empty_folder: Path) -> None:
    write_material(empty_folder)
    for block in blocks(page(f"tutorials/{name}.md"), "python"):
        exec(compile(block, name, "exec"), {"__name__": name})  # noqa: S102


def test_every_option_exists() -> None:
    pages = [f"tutorials/{name}.md" for name in PAGES]
    used = [entry for name in (*pages, "errors.md", "backends.md") for entry in commands(name)]
    assert len(used) > 10
    for command in {command for command, _ in used}:
        assert command in (*EXPORT, "predict", "label", "serve", "doctor", "audit"), command
        given = {option for one, options in used if one == command for option in options}
        assert given <= known_options(command), command


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
