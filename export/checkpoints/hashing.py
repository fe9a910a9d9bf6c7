"""Hashes of checkpoints: all files that an answer depends on."""

from __future__ import annotations

import hashlib
from pathlib import Path

from export.checkpoints.description import config_file
from export.checkpoints.onnx_files import external_data_files
from export.checkpoints.recognition import check_file
from export.checkpoints.shards import folder_index, shard_files
from export.errors import CheckpointError
from runtime.files import sha256_of


def hash_checkpoint(path: Path) -> str:
    """Returns the SHA-256 of a checkpoint file, or of the names and hashes of several files.

    Several files are those of a folder with its shards, wherever in it they are; an index and its
    shards; an ONNX file and its external data; or a file and the config.json beside it that
    describes it.

    Raises:
        CheckpointError: a file is missing, outside the folder, or no file.
    """
    files = checkpoint_files(path)
    if list(files.values()) == [path]:
        return sha256_of(path)
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        digest.update(f"{name} {sha256_of(file)}\n".encode())
    return digest.hexdigest()


def checkpoint_files(path: Path) -> dict[str, Path]:
    """Returns the files that a checkpoint's answers depend on, by their name within its folder.

    Raises:
        CheckpointError: as for `hash_checkpoint`.
    """
    if path.is_dir():
        index = folder_index(path)
        found = {child.name: child for child in path.iterdir() if child.is_file()}
        shards = shard_files(index) if index else []
    else:
        _check(path)
        config = config_file(path)
        found = {file.name: file for file in (path, config) if file}
        shards = shard_files(path) if path.name.endswith(".index.json") else []
    folder = path if path.is_dir() else path.parent
    outside = [*shards, *external_data_files(path)]
    found |= {file.relative_to(folder).as_posix(): file for file in outside}
    for file in found.values():
        if not file.is_file():
            raise CheckpointError(f"{file} is missing or no file. Download the checkpoint again.")
    return found


def _check(path: Path) -> None:
    """Verifies that a path is a file that may be a checkpoint, or an index of shards."""
    if path.name.endswith(".index.json"):
        shard_files(path)
    else:
        check_file(path)
