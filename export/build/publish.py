"""Publishes finished files in the engines folder, which stays usable at every moment.

Many files with fixed names cannot be replaced atomically, but the manifest can. New files are
therefore completed in a staging folder first. Then

1. the manifest is replaced by one that points into staging: the new files are in use from here on,
2. staged files are linked to their final names,
3. the manifest is replaced by one that points to the final names,
4. staging is removed.

A process killed between any two of these steps leaves a manifest whose files are all complete.
`recover` performs the remaining steps.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from export.errors import ExportError
from runtime.errors import ManifestError
from runtime.files import TEMPORARY_SUFFIX, replacing, sha256_of
from runtime.manifest import Artifact, FileRecord, Manifest
from runtime.manifest_file import read_manifest, write_manifest

STAGING = ".staging"
_LOCK = ".lock"


@contextmanager
def exclusively(folder: Path) -> Iterator[None]:
    """Creates and locks an engines folder; raises `ExportError` if another build runs in it."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / _LOCK, timeout=0):
            yield
    except Timeout as error:
        raise ExportError(
            f"Another build is running in {folder}. Wait for it, or give another --output."
        ) from error


def current_manifest(folder: Path) -> Manifest | None:
    """Returns the manifest of a folder, or None if it is missing or damaged.

    With a damaged manifest everything is built again.
    """
    try:
        return read_manifest(folder)
    except ManifestError:
        return None


def recover(folder: Path) -> None:
    """Completes the publication of a killed build and removes its leftover files."""
    manifest = current_manifest(folder)
    if manifest is not None and any(_staged_paths(manifest)):
        _settle(folder, manifest)
    shutil.rmtree(folder / STAGING, ignore_errors=True)
    for leftover in folder.rglob(f".*{TEMPORARY_SUFFIX}"):
        leftover.unlink()


def staging_folder(folder: Path, name: str) -> Path:
    """Returns an empty folder for the new files of an expert, or of the detector."""
    staging = folder / STAGING / name
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    return staging


def file_record(folder: Path, path: Path) -> FileRecord:
    """Returns the path within the folder, hash and size of a finished file."""
    relative = path.relative_to(folder).as_posix()
    return FileRecord(relative, sha256_of(path), path.stat().st_size)


def publish(folder: Path, manifest: Manifest) -> None:
    """Replaces the folder's manifest and moves staged files to their final names.

    The files of the new manifest are staged or already in place.
    """
    write_manifest(folder, manifest)
    _settle(folder, manifest)
    shutil.rmtree(folder / STAGING, ignore_errors=True)


def remove_strays(folder: Path, manifest: Manifest, former: Manifest) -> None:
    """Deletes files that a former manifest lists and the present one does not."""
    listed = {record.path for record in _records(manifest)}
    for record in _records(former):
        path = folder / record.path
        if record.path not in listed:
            path.unlink(missing_ok=True)
            if path.parent.is_dir() and not any(path.parent.iterdir()):
                path.parent.rmdir()


def _settle(folder: Path, manifest: Manifest) -> None:
    for path in _staged_paths(manifest):
        target = folder / _final(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            _link(folder / path, temporary)
    experts = {
        name: replace(expert, artifacts=tuple(_unstaged(a) for a in expert.artifacts))
        for name, expert in manifest.experts.items()
    }
    detector = manifest.detector
    if detector is not None:
        detector = replace(detector, files=_final_records(detector.files))
    write_manifest(folder, replace(manifest, experts=experts, detector=detector))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _unstaged(artifact: Artifact) -> Artifact:
    return replace(artifact, files=_final_records(artifact.files))


def _final_records(files: tuple[FileRecord, ...]) -> tuple[FileRecord, ...]:
    return tuple(replace(record, path=_final(record.path)) for record in files)


def _final(path: str) -> str:
    return path.removeprefix(f"{STAGING}/")


def _staged_paths(manifest: Manifest) -> Iterator[str]:
    for record in _records(manifest):
        if record.path.startswith(f"{STAGING}/"):
            yield record.path


def _records(manifest: Manifest) -> Iterator[FileRecord]:
    for expert in manifest.experts.values():
        for artifact in expert.artifacts:
            yield from artifact.files
    if manifest.detector is not None:
        yield from manifest.detector.files
