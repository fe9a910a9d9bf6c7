"""Help of the program as a whole: its commands, its version, and names that are no command."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence

import runtime
from runtime.arguments import PARSERS
from runtime.commands import Parser
from runtime.json_reader import shown
from runtime.names import listed, suggestion
from runtime.program import NAME, command_line, program
from runtime.subcommands import OWN, CommandMissingError, Subcommand, runtime_command

_NOTES = """exit status:
  0    success
  1    something failed: a photograph, an expert, a check
  2    invalid command line; for calibrate and evaluate also unusable data
  130  interrupted by Ctrl-C
  141  the reader of the output closed the pipe, as in: %(prog)s predict *.jpg | head -1"""
_EXAMPLES = ("help predict", "predict family.jpg", "serve --engines engines", "doctor")


def without_command(arguments: Sequence[str], added: Mapping[str, Subcommand]) -> int:
    """Answers a command line that names no command: --help, --version, or an error.

    Args:
        arguments: of the program.
        added: the commands of other packages.

    Returns:
        The exit status, or ends the process as `argparse` does.
    """
    parser = program_parser(program(), added, {})
    if arguments and not arguments[0].startswith("-"):
        parser.error(_unknown(arguments[0], [*OWN, *added]))
    if arguments:
        parser.parse_args(arguments[:1])  # ends the process, but for --
    parser.print_help(sys.stderr)
    return 2


def whole_parser(added: Mapping[str, Subcommand]) -> Parser:
    """Returns a parser of all commands with their options, for completion.

    A command whose packages are missing has no options.
    """
    parsers = {name: _own_parser(name) for name in OWN}
    for name, command in added.items():
        with contextlib.suppress(CommandMissingError):
            parsers[name] = command.load().parser()
    return program_parser(NAME, added, parsers)


def _own_parser(name: str) -> Parser:
    command = runtime_command(name)
    return PARSERS[name]() if command is None else command.parser()


def program_parser(
    prog: str, added: Mapping[str, Subcommand], parsers: Mapping[str, Parser]
) -> Parser:
    """Returns the parser of the program.

    Args:
        prog: the command as it was started.
        added: the commands of other packages.
        parsers: those whose options the commands have.
    """
    parser = Parser(
        prog=prog,
        description="Age estimation by a mixture of experts.",
        notes=_NOTES,
        examples=_EXAMPLES,
    )
    version = f"{NAME} {runtime.__version__}"
    parser.add_argument(
        "--version", action="version", version=version, help="print the version and exit"
    )
    commands = parser.add_subparsers(
        title="commands",
        description="For the options of a command: %(prog)s COMMAND --help.",
        metavar="COMMAND",
        parser_class=argparse.ArgumentParser,
    )
    texts = OWN | {name: command.summary() for name, command in added.items()}
    for name, text in texts.items():
        if text is not None:
            parents = [parsers[name]] if name in parsers else []
            commands.add_parser(name, help=text, parents=parents, add_help=False)
    return parser


def _unknown(name: str, known: Sequence[str]) -> str:
    """Returns the error of a word that is no command."""
    cure = suggestion(name, known, "Did")
    if not cure and os.path.exists(name):  # noqa: PTH110 - false for a name that is too long
        cure = f"For the ages in a photograph: {command_line('predict')} {name}"
    return f"there is no command {shown(name)}. {cure or f'There are {listed(known)}.'}"
