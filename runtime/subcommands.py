"""Commands of the program: those of the runtime, and those of installed packages.

A package adds commands by entry points of the group `agemoe.commands`, each a module with the
functions of `Command`, and in brackets the extra of `agemoe-runtime` that brings what it needs:
`build = "export.build_engines [export]"`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Protocol, cast

from runtime.commands import Parser
from runtime.errors import AgeMoEError
from runtime.program import PROJECT

GROUP, DISTRIBUTION = "agemoe.commands", "agemoe-runtime"
OWN = {
    "predict": "estimates the age of every face in photographs, or of a person in a video",
    "label": "writes the ages in many photographs to a table",
    "serve": "runs the HTTP service and its web page",
    "doctor": "reports what is installed and what works",
    "audit": "verifies an audit log",
    "completion": "prints a script that completes commands in a shell",
}
"""Commands of the runtime, and what they do."""
_MODULES = {
    "serve": "runtime.serving.command",
    "audit": "runtime.audit_command",
    "completion": "runtime.completion_command",
}
"""Of the runtime's commands that are modules of their own."""


class Command(Protocol):
    """A module with a command."""

    def parser(self) -> Parser:
        """Returns the parser of the command's arguments."""
        ...

    def main(self, arguments: Sequence[str]) -> int:
        """Runs the command and returns its exit status."""
        ...


class CommandMissingError(AgeMoEError):
    """A command needs packages that are not installed."""


@dataclass(frozen=True, slots=True)
class Subcommand:
    """A command that is not imported yet."""

    name: str
    entry: EntryPoint

    def load(self) -> Command:
        """Imports the command.

        Raises:
            CommandMissingError: a package that it needs is not installed.
        """
        try:
            return cast(Command, self.entry.load())
        except ModuleNotFoundError as error:
            raise self._missing(error) from error

    def run(self, arguments: Sequence[str]) -> int:
        """Runs the command and returns its exit status.

        Raises:
            CommandMissingError: a package that it needs is not installed.
        """
        try:
            return self.load().main(arguments)
        except ModuleNotFoundError as error:
            raise self._missing(error) from error

    def _missing(self, error: ModuleNotFoundError) -> CommandMissingError:
        wanted = DISTRIBUTION + f"[{','.join(self.entry.extras)}]" if self.entry.extras else ""
        return CommandMissingError(
            f"The command {self.name} needs the package {error.name!r}, which is not installed. "
            f"Run: pip install '{wanted or error.name}'"
        )

    def summary(self) -> str | None:
        """Returns what the command does, from its docstring; None if its package is missing.

        The module is read and not imported, as it may import large packages.
        """
        try:
            found = importlib.util.find_spec(self.entry.module)
        except ModuleNotFoundError:  # of a package that it is in
            return None
        if found is None or found.origin is None:
            return None
        text = ast.get_docstring(ast.parse(Path(found.origin).read_bytes())) or ""
        first = text.partition("\n")[0].rstrip(".")
        return first[:1].lower() + first[1:]


def runtime_command(name: str) -> Command | None:
    """Returns a command of the runtime that is a module of its own."""
    module = _MODULES.get(name)
    return None if module is None else cast(Command, importlib.import_module(module))


def added_commands() -> Mapping[str, Subcommand]:
    """Returns the commands of installed packages, and in a checkout its own, by name."""
    entries = [*entry_points(group=GROUP), *_of_checkout()]
    found = {entry.name: Subcommand(entry.name, entry) for entry in entries}
    return {name: found[name] for name in sorted(found.keys() - OWN.keys())}


def _of_checkout() -> list[EntryPoint]:
    """Returns the entry points that an installation of this checkout would have."""
    if not PROJECT.is_file():
        return []
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    entries = project["entry-points"][GROUP].items()
    return [EntryPoint(name=name, value=value, group=GROUP) for name, value in entries]
