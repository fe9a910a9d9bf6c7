"""Made-up packages, and clients of PyPI and npm that deliver them, for tests of the sources."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

Content = Mapping[str, bytes]
"""Files of a package, by their path in it."""


def write_wheel(path: Path, content: Content) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in content.items():
            wheel.writestr(name, data)
    return path


def write_tarball(path: Path, content: Content, *, links: Mapping[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as tarball:
        for name, data in content.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            tarball.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(f"package/{name}")
            info.type, info.linkname = tarfile.SYMTYPE, target
            tarball.addfile(info)
    return path


class Registries:
    """Stands for `subprocess.run` with pip and npm."""

    def __init__(self) -> None:
        self.wheels: dict[str, Content] = {}
        """By requirement, `NAME==VERSION`."""
        self.tarballs: dict[str, Content] = {}
        """By `NAME@VERSION`."""
        self.links: dict[str, str] = {}
        self.commands: list[list[str]] = []
        self.failure = ""

    def run(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert options["stdin"] == subprocess.DEVNULL
        assert options["timeout"] > 0
        self.commands.append(command)
        if self.failure:
            return subprocess.CompletedProcess(command, 1, "", self.failure)
        cwd = Path(options["cwd"])
        if "pip" in command:
            folder = Path(command[command.index("--dest") + 1])
            write_wheel(folder / "package-1-py3-none-any.whl", self.wheels[command[-1]])
        else:
            assert "--ignore-scripts" in command
            folder = Path(command[command.index("--pack-destination") + 1])
            name = command[command.index("pack") + 1]
            write_tarball(folder / "package-1.tgz", self.tarballs[name], links=self.links)
        assert folder.is_relative_to(cwd)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Registries:
    """Clients that deliver made-up packages into a cache of this test."""
    found = Registries()
    monkeypatch.setenv("AGEMOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(subprocess, "run", found.run)
    which: Callable[[str], str] = lambda name: f"/usr/bin/{name}"  # noqa: E731
    monkeypatch.setattr(shutil, "which", which)
    return found
