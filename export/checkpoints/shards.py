"""Shards: weights in several files of a folder, listed by an index."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from export.checkpoints.recognition import read_json
from export.errors import CheckpointError
from runtime.files import is_regular
from runtime.printing import printable

INDEX_SUFFIX = ".index.json"
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""Of transformers, in the order of preference."""


def folder_index(folder: Path) -> Path | None:
    """Returns the index of a folder with shards; None for others."""
    return next((folder / name for name in INDEXES if (folder / name).exists()), None)


def shard_files(index: Path) -> list[Path]:
    """Returns the files that an index lists, sorted.

    Raises:
        CheckpointError: it is no index, a file lies outside its folder, or is missing.
    """
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise CheckpointError(
            f"{index} has no weight_map, which names the file of every weight. Download it again."
        )
    names = sorted({str(name) for name in files.values()})
    outside = [name for name in names if not is_inside(name)]
    if outside:
        raise CheckpointError(
            f"{index} lists {outside[0][:200]!r}, which is outside its folder. Shards lie beside "
            f"their index."
        )
    missing = [name for name in names if not is_regular(index.parent / name)]
    if missing:
        raise CheckpointError(
            f"{index.parent} lacks {len(missing)} of {len(names)} shards: "
            f"{', '.join(map(printable, missing[:8]))}. Download the whole folder again."
        )
    return [index.parent / name for name in names]


def is_inside(name: str) -> bool:
    """Returns whether a relative name, of any system, stays within its folder."""
    windows = PureWindowsPath(name)
    absolute = PurePosixPath(name).is_absolute() or windows.drive or windows.root
    return bool(name) and "\0" not in name and not absolute and ".." not in windows.parts
