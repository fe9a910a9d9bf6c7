"""How this program is started: for usage lines, and for messages that name a command to run."""

from __future__ import annotations

import shlex
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


def build_command(
    folder: Path | None = None, *, only: str | None = None, precision: str = "fp32"
) -> str:
    """Returns the command that builds an engines folder, as an error's remedy.

    Args:
        folder: the engines folder; None where none is known.
        only: the expert to build; None means all.
        precision: of the variant to build; FP32, which is always built, and `auto` need no option.
    """
    arguments = ["build"]
    if only is not None:
        arguments.append(f"--only {only}")
    if precision not in ("fp32", "auto"):
        arguments.append(f"--{precision}")
    if folder is not None:
        arguments.append(f"--output {_quoted(str(folder))}")
    return command_line(" ".join(arguments))


def _quoted(path: str) -> str:
    """Returns a path as this system's shell takes it; Windows has no double quotes in paths."""
    if sys.platform == "win32":
        return f'"{path}"' if " " in path else path
    return shlex.quote(path)


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
