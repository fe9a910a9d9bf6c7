"""The engines folder stays usable when a build is killed at any moment; a rerun completes it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.build import publish
from export.errors import ExportError
from runtime.geometry import Geometry
from runtime.manifest import (
    Artifact,
    BatchProfile,
    Expert,
    InputSpec,
    Manifest,
    Source,
    verify_files,
)
from runtime.manifest_file import read_manifest


def staged(folder: Path, name: str, content: str) -> Expert:
    """Returns an expert whose two files are staged."""
    staging = publish.staging_folder(folder, name)
    files = []
    for suffix in (".fp32.onnx", ".fp32.onnx.data"):
        path = staging / f"{name}{suffix}"
        path.write_text(f"{content} {suffix}")
        files.append(publish.file_record(folder, path))
    artifact = Artifact("onnx", "fp32", tuple(files), {"checkpoint": content}, 0.0, None)
    inputs = (InputSpec("face", 8, 8, Geometry()),)
    source = Source("random", "seed 0", None)
    return Expert("vgg16", source, inputs, ("age_years",), None, BatchProfile(), (artifact,))


def manifest_of(**experts: Expert) -> Manifest:
    return Manifest("2026-01-01T00:00:00+00:00", {}, experts)


def contents(folder: Path) -> str:
    """Verifies every file of the manifest and returns the content of the first."""
    manifest = read_manifest(folder)
    for name, expert in manifest.experts.items():
        for artifact in expert.artifacts:
            verify_files(folder, name, artifact)
    first = manifest.experts["a"].artifacts[0].files[0]
    return (folder / first.path).read_text().split()[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    publish.publish(tmp_path, manifest_of(a=staged(tmp_path, "a", "old")))
    return tmp_path


def test_published_files_have_their_final_names(folder: Path) -> None:
    assert contents(folder) == "old"
    assert sorted(p.name for p in (folder / "a").iterdir()) == [
        "a.fp32.onnx",
        "a.fp32.onnx.data",
    ]
    assert not (folder / publish.STAGING).exists()


class Killed(BaseException):
    pass


def killing(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Permits a number of file system changes, then simulates the end of the process."""
    left = [after]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real(*args, **kwargs)

        return call

    for owner, name in (
        (os, "link"),
        (os, "fsync"),
        (Path, "replace"),
        (Path, "write_bytes"),
        (Path, "mkdir"),
        (Path, "unlink"),
        (shutil, "rmtree"),
    ):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))


@pytest.mark.parametrize("hard_links", [True, False])
def test_killed_at_any_moment(
    folder: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError

    seen, moment = [], 0
    while True:
        shutil.rmtree(folder)
        folder.mkdir()
        publish.publish(folder, manifest_of(a=staged(folder, "a", "old")))
        renewed = manifest_of(a=staged(folder, "a", "new"))
        with monkeypatch.context() as patched:
            if not hard_links:
                patched.setattr(os, "link", no_links)
            killing(patched, moment)
            try:
                publish.publish(folder, renewed)
            except Killed:
                finished = False
            else:
                finished = True
        seen.append(contents(folder))
        publish.recover(folder)
        assert contents(folder) == seen[-1]  # recovery changes no content …
        assert not (folder / publish.STAGING).exists()  # … and removes everything else
        assert not list(folder.rglob("*.tmp"))
        if finished:
            break
        moment += 1
    assert moment > 10
    assert seen == sorted(seen, reverse=True)  # old, then new: a single switch
    assert {"old", "new"} == set(seen)


def test_concurrent_builds_are_rejected(tmp_path: Path) -> None:
    with (
        publish.exclusively(tmp_path),
        pytest.raises(ExportError, match="Another build is running"),
        publish.exclusively(tmp_path),
    ):
        pass
    with publish.exclusively(tmp_path):
        pass


def test_files_that_no_manifest_lists_are_removed(folder: Path) -> None:
    former = read_manifest(folder)
    (folder / "a" / "notes.txt").write_text("mine")
    both = manifest_of(a=former.experts["a"], b=staged(folder, "b", "other"))
    publish.publish(folder, both)
    both = read_manifest(folder)
    assert (folder / "b" / "b.fp32.onnx").exists()
    alone = manifest_of(a=former.experts["a"])
    publish.publish(folder, alone)
    publish.remove_strays(folder, alone, both)
    assert not (folder / "b" / "b.fp32.onnx").exists()
    assert (folder / "a" / "a.fp32.onnx").exists()
    assert (folder / "a" / "notes.txt").exists()
