"""Fusion tables that come with a preset: copied into an engines folder, never over a user's own."""

from __future__ import annotations

import json
from pathlib import Path

from runtime.errors import FusionTableError
from runtime.files import sha256_of, write_json, write_whole
from runtime.fusion_file import FILE_NAME, check_fusion_fits, read_fusion
from runtime.manifest_file import read_manifest

NOTE = "fusion.preset.json"
"""Beside fusion.json: the SHA-256 of the tables that were copied, while they are unchanged."""


def update_fusion(engines: Path, shipped: Path | None) -> str:
    """Copies a preset's tables where they fit and where none of the user's own are.

    Tables that were copied earlier and are unchanged are replaced, or removed where they do not fit
    the experts any more.

    Args:
        engines: the engines folder, with a manifest.
        shipped: the preset's tables; None: the experts come with none.

    Returns:
        What was done, a sentence; empty where nothing was to be done.
    """
    path = engines / FILE_NAME
    copied = _is_copy(engines)
    if path.exists() and not copied:
        if misfit := _misfit(engines, path):
            return f"Your own tables stay, but AgeMoE refuses them: {misfit}"
        if shipped is None:
            return ""
        return f"{path} is your own and stays; the preset's tables are in {shipped}."
    misfit = "" if shipped is None else _misfit(engines, shipped)
    if shipped is not None and not misfit:
        if copied and sha256_of(path) == sha256_of(shipped):
            return ""
        write_whole(path, shipped.read_bytes())
        write_json(engines / NOTE, {"sha256": sha256_of(path), "preset": shipped.name})
        return f"{path} was copied from {shipped}."
    if copied and _misfit(engines, path):
        path.unlink()
        (engines / NOTE).unlink()
        removed = f"{path} came with a preset, does not fit these experts, and was removed. "
    else:
        removed = ""
    unused = f"The preset's tables are not used: {misfit}" if misfit else ""
    return f"{removed}{unused}".strip()


def _is_copy(engines: Path) -> bool:
    """Returns whether fusion.json is as it was copied from a preset."""
    try:
        note = json.loads((engines / NOTE).read_bytes())
        return bool(note["sha256"] == sha256_of(engines / FILE_NAME))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _misfit(engines: Path, tables: Path) -> str:
    """Returns why tables do not fit the experts of an engines folder; empty if they do."""
    try:
        check_fusion_fits(tables, read_fusion(tables), read_manifest(engines).experts)
    except FusionTableError as error:
        return str(error)
    return ""
