"""Files that belong to a checkpoint beside its main file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_TENSORFLOW_JS = "-weights_manifest.json"
"""End of the name of a TensorFlow.js weights manifest, which describes a file of raw weights."""


def companions(main: str, others: Iterable[str]) -> list[str]:
    """Returns which of the files beside a checkpoint's main file belong to it.

    A TensorFlow.js weights manifest `NAME-weights_manifest.json` comes with the files whose names
    begin with `NAME.` or `NAME-`: its weights, whole (`NAME.bin`) or in shards. Any other file
    comes alone. No file is read for this, so that hashes are verified before anything else.

    Args:
        main: name of the main file.
        others: names of the files in its folder.
    """
    if not main.endswith(_TENSORFLOW_JS):
        return []
    stem = main.removesuffix(_TENSORFLOW_JS)
    begins = tuple(f"{stem}{mark}" for mark in ".-")
    return sorted(name for name in others if name.startswith(begins) and name != main)


def companion_paths(main: Path) -> list[Path]:
    """Returns the files beside a checkpoint's main file that belong to it."""
    if not main.name.endswith(_TENSORFLOW_JS):  # a folder of downloads may be large
        return []
    names = companions(main.name, (path.name for path in main.parent.iterdir() if path.is_file()))
    return [main.with_name(name) for name in names]
