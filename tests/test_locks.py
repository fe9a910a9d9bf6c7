"""The locks: hashes for every file, no index, and versions that agree with pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
LOCKS = sorted([ROOT / "requirements.lock", *ROOT.glob("*/locks/*.lock")])
SLIM = ("cpu", "serve", "label", "openvino", "test")
"""The extras of the slim environments, as in the Makefile."""
PIN = re.compile(r"([a-z0-9-]+)==(\S+)( ; .+)?( --hash=sha256:[0-9a-f]{64})+")


def entries(lock: Path) -> list[str]:
    """Returns the entries of a lock, each on one line with its hashes."""
    text = re.sub(r" \\\n +", " ", lock.read_text(encoding="utf-8"))
    return [line for line in text.splitlines() if not line.startswith("#")]


def pinned(lock: str) -> dict[str, set[Version]]:
    """Returns the versions of each distribution in a lock; several depend on Python's."""
    found: dict[str, set[Version]] = {}
    for entry in entries(ROOT / lock):
        name, number = entry.split(" ")[0].split("==")
        found.setdefault(name, set()).add(Version(number))
    return found


def requirements(*extras: str) -> list[Requirement]:
    """Returns the direct requirements of the runtime and of extras."""
    lines = [*PROJECT["project"]["dependencies"], *(line for e in extras for line in EXTRAS[e])]
    found = [Requirement(line) for line in lines]
    return [item for item in found if item.name != PROJECT["project"]["name"]]


def floor(requirement: Requirement) -> Version:
    (least,) = (s.version for s in requirement.specifier if s.operator == ">=")
    return Version(least)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_entry_is_a_version_with_hashes(lock: Path) -> None:
    found = entries(lock)
    assert found
    for entry in found:  # neither an option (an index, a path) nor a version without a hash
        assert PIN.fullmatch(entry), entry


def test_the_lowest_versions_are_the_floors() -> None:
    lowest = pinned("tests/locks/lowest.lock")
    wrong = {
        requirement.name: (str(requirement.specifier), sorted(map(str, lowest[requirement.name])))
        for requirement in requirements(*SLIM)
        if min(lowest[canonicalize_name(requirement.name)]) != floor(requirement)
    }
    assert not wrong


def test_a_distribution_has_one_floor() -> None:
    found: dict[str, set[str]] = {}
    for requirement in requirements(*EXTRAS):
        found.setdefault(requirement.name, set()).add(str(requirement.specifier))
    assert not {name: both for name, both in found.items() if len(both) > 1}


@pytest.mark.parametrize("lock", ["requirements.lock", "tests/locks/lowest.lock"])
def test_locked_versions_are_those_that_the_project_allows(lock: str) -> None:
    found = pinned(lock)
    for requirement in requirements(*(("export", "ray", "dev", *SLIM) if lock[0] == "r" else SLIM)):
        versions = found[canonicalize_name(requirement.name)]
        assert all(requirement.specifier.contains(number) for number in versions), requirement


def test_opencv_5_is_tested() -> None:
    (number,) = pinned("tests/locks/opencv5.lock")["opencv-python-headless"]
    assert number.major == 5


@pytest.mark.parametrize("lock", ["cpu", "cpu-openvino"])
def test_the_image_has_the_tested_versions(lock: str) -> None:
    tested = pinned("requirements.lock")
    image = pinned(f"deploy/locks/{lock}.lock")
    assert image == {name: tested[name] for name in image}


def test_the_wheel_is_built_by_what_the_project_requires() -> None:
    (backend,) = map(Requirement, PROJECT["build-system"]["requires"])
    assert f"'{backend}'" in (ROOT / "Makefile").read_text(encoding="utf-8")
    (number,) = pinned("deploy/locks/build.lock")[backend.name]
    assert backend.specifier.contains(number)
