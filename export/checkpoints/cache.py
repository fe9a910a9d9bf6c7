"""The cache of fetched weights: a folder of whole files, shared by all builds of a user."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "AGEMOE_CACHE"
"""Environment variable with the folder of the cache."""
MOST_BYTES = 16 << 30
"""Largest file that is fetched or unpacked; the largest published checkpoint has 15 GB."""
_PROJECT = "agemoe-runtime"


def weights_folder() -> Path:
    """Returns the folder of fetched weights.

    It is `weights` in the folder that `AGEMOE_CACHE` names; by default in `agemoe-runtime` of the
    user's cache folder (`XDG_CACHE_HOME`, else ~/.cache).
    """
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given) / "weights"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / _PROJECT / "weights"


@contextmanager
def filling(target: Path) -> Iterator[Path]:
    """Locks the place of a file in the cache and yields an empty folder beside it to work in.

    Another build that fetches the same file waits for this one.
    """
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".{target.name}.fetching")
    with FileLock(target.with_name(f".{target.name}.lock")):
        shutil.rmtree(folder, ignore_errors=True)  # of a build that was killed
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
