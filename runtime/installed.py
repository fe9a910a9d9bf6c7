"""Modules as they are imported, and the distributions that own their files."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distributions, version
from pathlib import Path
from types import ModuleType


@dataclass(frozen=True, slots=True)
class Installed:
    """A module as it is imported."""

    name: str
    version: str | None
    """Its own `__version__`; None if it has none."""
    file: str | None
    """Absolute path; None for a folder without `__init__.py`."""
    distributions: tuple[str, ...]
    """Name and version of each distribution that owns that file."""
    problem: str | None
    """Why it may not work, and the cure; None if nothing is wrong."""


def installed_version(package: str) -> str | None:
    """Returns the version of a distribution; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def imported(name: str, wanted: str) -> Installed:
    """Imports a module and reports on it.

    Args:
        name: of the module.
        wanted: the distribution to install, as the cure names it.
    """
    try:
        module = importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - a mixture of two versions fails in any way
        cure = f"pip install --force-reinstall '{wanted}'"
        return Installed(name, None, None, (), f"cannot be imported ({error}). Run: {cure}")
    return described(module, wanted)


def described(module: ModuleType, wanted: str) -> Installed:
    """Reports on an imported module; see `imported`."""
    name, file = module.__name__, getattr(module, "__file__", None)
    number = getattr(module, "__version__", None)
    owners = [(d.name, d.version) for d in _owners(name, file)]
    return Installed(
        name,
        None if number is None else str(number),
        file,
        tuple(f"{owner} {owned}" for owner, owned in owners),
        _problem(file, number, owners, wanted),
    )


def _problem(
    file: str | None, number: str | None, owners: Sequence[tuple[str, str]], wanted: str
) -> str | None:
    names = " ".join(owner for owner, _ in owners)
    if file is None:
        return f"an empty folder. Run: pip install --force-reinstall '{wanted}'"
    cure = f"Run: pip uninstall -y {names}; pip install '{wanted}'"
    if len(owners) > 1:
        return f"{names.replace(' ', ' and ')} install the same files, the last one wins. {cure}"
    if owners and number is not None and not _same(str(number), owners[0][1]):
        return f"the files are those of {number}, not of {' '.join(owners[0])}. {cure}"
    return None


def _owners(name: str, file: str | None) -> list[Distribution]:
    """Returns the distributions that list a module's file, without repetition, sorted by name."""
    if file is None:
        return []
    entry, real = f"{name}/{Path(file).name}", Path(file).resolve()
    found = {
        d.name: d
        for d in distributions()
        if _lists(d, name, entry) and Path(str(d.locate_file(entry))).resolve() == real
    }
    return [found[key] for key in sorted(found)]


def _lists(distribution: Distribution, name: str, entry: str) -> bool:
    record = distribution.read_text("RECORD")
    if record is None:  # packages of a system or of conda have none
        return name in (distribution.read_text("top_level.txt") or "").split()
    return record.startswith(f"{entry},") or f"\n{entry}," in record


def _same(number: str, owned: str) -> bool:
    """Returns whether a module's version is its distribution's, less a suffix of either."""
    return owned.startswith(number) or number.startswith(owned)
