"""A disk that is full and folders that cannot be read: an error, and no half-written file."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.test_command_lines import check, outcome, place

__all__ = ["place"]
LABEL = ("label", "--faces", "whole", "light.png", "--engines", "engines", "--output")


def denied(list_folder: Callable[..., Any]) -> Callable[..., Any]:
    def listed(path: Any = ".") -> Any:
        if "folder0" in str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return list_folder(path)

    return listed


WRITERS = [
    ("runtime.__main__", (*LABEL, "t.csv"), "t.csv"),
    ("runtime.__main__", (*LABEL, "t.parquet"), "t.parquet"),
]


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(("module", "command", "target"), WRITERS)
def test_a_full_disk_ends_in_an_error(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    command: tuple[str, ...],
    target: str,
) -> None:
    def full(_: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    found = outcome(module, list(command), capsys)
    check(found, command)
    assert found.status not in (0, None), found.text
    assert "No space left on device" in found.text
    assert not Path(target).exists()


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("runtime.__main__", ("predict", "folder0", "--engines", "engines")),
        ("runtime.__main__", ("label", "folder0", "--engines", "engines", "--output", "t.csv")),
        ("export.calibrate", ("--faces", "folder0", "--engines", "engines", "--output", "o")),
        ("export.build_engines", ("--experts", "one.toml", "--checkpoint", "a=folder0",
                                  "--output", "o")),
        ("export.demo.__main__", ("show", "folder0")),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_read_is_named(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    command: tuple[str, ...],
) -> None:
    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, denied(getattr(os, name)))
    found = outcome(module, list(command), capsys)
    check(found, command)
    assert found.status not in (0, None), found.text
    assert "folder0" in found.text
