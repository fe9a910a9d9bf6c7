"""How this program is started: for usage lines, and for messages that name a command to run."""

from __future__ import annotations

import sys
from pathlib import Path

NAME = "agemoe"
"""The installed command, which is also that of `python -m runtime`."""
PROJECT = Path(__file__).parents[1] / "pyproject.toml"
"""Exists in a checkout, where nothing need be installed; an installation has none."""
_MODULE = "python -m runtime"


def program() -> str:
    """Returns how the command is started here: `agemoe`, or `python -m runtime`.

    Python that uses the runtime as a library is told `agemoe`; in a checkout `python -m runtime`,
    which works there without an installation.
    """
    started = Path(sys.argv[0] if sys.argv else "")
    if started.stem == NAME:
        return NAME
    as_module = started.parts[-2:] == ("runtime", "__main__.py") or sys.argv[:1] == ["-m"]
    if as_module or PROJECT.is_file():
        return _MODULE
    return NAME


def command_line(arguments: str) -> str:
    """Returns a command of this program as it can be typed here: `agemoe build --plan`."""
    return f"{program()} {arguments}"


def build_command(folder: Path | None = None, options: str = "") -> str:
    """Returns the command that builds an engines folder, as an error's remedy.

    Args:
        folder: the engines folder; None where none is known.
        options: further options of the command.
    """
    arguments = ["build", options, "" if folder is None else f"--output {quoted(folder)}"]
    return command_line(" ".join(filter(None, arguments)))


def quoted(path: Path) -> str:
    """Returns a path as it can be typed in any shell."""
    return f'"{path}"' if " " in str(path) else str(path)


def usage_name(command: str, file: str) -> str:
    """Returns how a command was started that is also a file, such as `export/calibrate.py`.

    Args:
        command: its name for the program.
        file: `__file__` of its module.
    """
    started = sys.argv[0] if sys.argv else ""
    if Path(started).name == Path(file).name:
        return f"python {started}"
    return command_line(command)
