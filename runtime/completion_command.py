"""`agemoe completion SHELL`: prints a script that completes the command in a shell."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from runtime.commands import Parser, run_command
from runtime.errors import AgeMoEError
from runtime.program import command_line

SHELLS = ("bash", "zsh", "fish", "tcsh")
_FOLDERS = ("DIR", "FOLDER")
_FILES = ("CSV", "FILE", "FOLDER|CSV", "FILE|NAME", "FUSION", "JSON", "PHOTO", "PHOTOS", "TOML")
"""Placeholders of paths in usage lines."""


def parser() -> Parser:
    """Returns the parser of the arguments."""
    parser = Parser(
        prog=command_line("completion"),
        description="Prints a script that completes commands, options, choices and files in a "
        "shell. It needs the extra completion: pip install 'agemoe-runtime[completion]'.",
        notes="New shells read these files. For zsh, ~/.zshrc needs two lines: "
        "fpath=(~/.zfunc $fpath) and autoload -U compinit && compinit.",
        examples=(
            "bash > ~/.local/share/bash-completion/completions/agemoe",
            "zsh > ~/.zfunc/_agemoe",
            "fish > ~/.config/fish/completions/agemoe.fish",
        ),
    )
    parser.add_argument("shell", choices=SHELLS, help="shell to print the script for")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the arguments and runs the command; returns the exit status."""
    return run_command(partial(_print_script, parser().parse_args(arguments).shell))


def _print_script(shell: str) -> int:
    try:
        import shtab
    except ImportError as error:
        raise AgeMoEError(
            f"Completion needs shtab, which cannot be imported ({error}). "
            "Run: pip install 'agemoe-runtime[completion]'"
        ) from error
    from runtime.program_help import whole_parser
    from runtime.subcommands import added_commands

    program = whole_parser(added_commands())
    for action in _actions(program):
        if action.metavar in _FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.metavar in _FILES or action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    sys.stdout.write(f"{shtab.complete(program, shell)}\n")
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yields the arguments of a parser and of its commands."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to list them
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for command in action.choices.values():
                yield from _actions(command)
