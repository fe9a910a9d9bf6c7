"""The help of every command line: a text for each option, and examples that can be run."""

from __future__ import annotations

import argparse
import ast
import importlib
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.arguments import PARSERS, parsed_arguments
from runtime.commands import Parser
from runtime.program_help import program_parser
from runtime.subcommands import OWN, added_commands

ROOT = Path(__file__).parents[1]
PACKAGES = ("runtime", "export", "benchmarks")
SHARED = {"runtime.arguments", "runtime.program_help", "runtime.commands", "benchmarks.options"}
"""Modules that make parsers for others."""
HIDDEN = {"--photo"}
"""Options of earlier versions, whose error names the new ones."""


def makers() -> Iterator[str]:
    """Yields the modules that call a class or function for parsers, but for `SHARED`."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            calls = [node for node in ast.walk(ast.parse(path.read_bytes()))
                     if isinstance(node, ast.Call)]  # fmt: skip
            called = {ast.unparse(call.func).rpartition(".")[2] for call in calls}
            assert "ArgumentParser" not in called, f"{name} makes a parser without our help"
            if called & {"Parser", "parser_of"} and name not in SHARED:
                yield name


COMMANDS = (*PARSERS, "", *makers())
"""Commands of `runtime.arguments`, the program as a whole, and modules with a command."""


def parsers_of(command: str) -> Iterator[argparse.ArgumentParser]:
    """Yields the parser of a command, and those of the steps in it."""
    if command in PARSERS:
        yield PARSERS[command]()
        return
    if not command:
        yield program_parser("agemoe", added_commands(), {})
        return
    parser = importlib.import_module(command).parser()
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def test_every_command_is_walked() -> None:
    added = {command.entry.module for command in added_commands().values()}
    assert added <= set(COMMANDS)
    assert {"runtime.serving.command", "benchmarks.latency", "export.demo.__main__"} <= set(
        COMMANDS
    )
    assert set(PARSERS) <= set(OWN)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_help_text_and_every_help_ends_with_examples(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("FGNET", "UTKFACE", "labels.csv"):  # which an example requires
        Path(name).mkdir()
    monkeypatch.setenv("COLUMNS", "1000")
    for parser in parsers_of(command):
        assert isinstance(parser, Parser)
        assert parser.description
        for action in parser._actions:
            name = "/".join(action.option_strings) or action.dest
            if HIDDEN & set(action.option_strings):
                continue
            if isinstance(action, argparse._SubParsersAction):
                assert all(choice.help for choice in action._choices_actions)
                continue
            assert action.help, name
            assert action.help is not argparse.SUPPRESS, name
            assert (
                action.help[0].islower()
                or action.help.split()[0].isupper()
                or (action.help.split()[0] in ("CPU", "Python", "SHA-256"))
            ), (name, action.help)
            assert not action.help.endswith("."), name
            shown = parser._get_formatter()._expand_help(action)
            assert shown.count("default") <= 1, shown
            assert shown.count("default") == shown.count("(default: "), shown
            assert "(default: )" not in shown, name
            if action.default not in (None, "", [], (), argparse.SUPPRESS) and action.nargs != 0:
                assert "(default: " in shown, name
        text = parser.format_help().rstrip("\n")
        lines = [f"  {parser.prog} {example}".rstrip() for example in parser.examples]
        assert lines
        assert text.endswith("\n".join(["examples:", *lines]))
        for example in parser.examples:
            check_example(parser, command, shlex.split(example.partition(" > ")[0]))
    capsys.readouterr()


def check_example(parser: Parser, command: str, arguments: list[str]) -> None:
    """Parses an example as the command does; SystemExit fails the test."""
    if command in PARSERS:
        parsed_arguments(command, arguments)
    elif not command:
        name, *rest = arguments
        if name == "help":
            assert rest[0] in OWN
        else:
            parsed_arguments(name, rest) if name in PARSERS else check_serve(rest)
    else:
        parser.parse_args(arguments)


def check_serve(arguments: list[str]) -> None:
    importlib.import_module("runtime.serving.command").parser().parse_args(arguments)


def test_a_narrow_help_breaks_no_name_at_its_hyphens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "79")
    words = "one two three four five six seven eight nine ten eleven twelve agemoe-runtime[cpu]"
    parser = Parser(prog="x", description=words, examples=())
    parser.add_argument("--option", help=words)
    assert parser.format_help().count("agemoe-runtime[cpu]") == 2
