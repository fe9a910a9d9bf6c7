"""Reads, validates and writes `manifest.json`.

The exporter writes it last, the runtime reads it first.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import asdict
from pathlib import Path

from runtime.errors import ManifestError
from runtime.files import read_json, write_json
from runtime.fusion_file import FILE_NAME as FUSION_FILE_NAME
from runtime.json_reader import JsonReader, read_dataclass, shown
from runtime.manifest import Manifest
from runtime.program import build_command

FILE_NAME = "manifest.json"
SCHEMA_VERSION = 4
"""Incremented whenever the meaning or the layout of manifest.json changes."""
_OLDEST_VERSION = 2
"""Versions 2 and 3 lack keys whose defaults are what they mean."""


def read_manifest(folder: Path) -> Manifest:
    """Reads and validates the manifest of an engines folder.

    Raises:
        ManifestError: it is missing, unreadable, of another version or inconsistent; every
            problem is listed.
    """
    path = folder / FILE_NAME
    try:
        document = read_json(path)
    except FileNotFoundError as error:
        cure = f"Build the engines first: {build_command(folder)}"
        raise ManifestError(str(path), ["there is no such file"], cure) from error
    except (OSError, ValueError) as error:
        raise ManifestError(
            str(path), [f"cannot be read: {error}"], f"Rebuild: {build_command(folder)}"
        ) from error
    version = document.pop("schema_version", None) if isinstance(document, dict) else None
    known = isinstance(version, int) and _OLDEST_VERSION <= version <= SCHEMA_VERSION
    if isinstance(version, int) and not known:
        raise _version_error(path, version)
    problems: list[str] = []
    manifest = read_dataclass(Manifest, JsonReader(document, "", problems))
    if not known:
        problems.append(f"schema_version: must be {SCHEMA_VERSION}, got {shown(version)}")
    if problems:
        raise ManifestError(str(path), problems, f"Rebuild: {build_command(folder)}")
    return manifest


def _version_error(path: Path, version: int) -> ManifestError:
    newer = version > SCHEMA_VERSION
    limit = SCHEMA_VERSION if newer else _OLDEST_VERSION
    problem = (
        f"schema_version {version} is {'newer' if newer else 'older'} than the {limit} "
        f"this runtime reads"
    )
    cure = f"{'Update agemoe-runtime, or rebuild' if newer else 'Rebuild'}: "
    return ManifestError(str(path), [problem], cure + build_command(path.parent))


def engines_fingerprint(folder: Path, *others: str) -> str:
    """Returns a SHA-256, 64 hex digits, of the manifest and the fusion tables of an engines folder.

    Args:
        folder: the engines folder.
        others: names of further files in it that count, as `policy.json` for decisions; they may
            be absent.

    Raises:
        ManifestError: there is no valid manifest.
    """
    read_manifest(folder)
    digest = hashlib.sha256()
    for name in (FILE_NAME, FUSION_FILE_NAME, *others):
        with contextlib.suppress(FileNotFoundError):
            digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
        digest.update(name.encode())
    return digest.hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes a manifest atomically."""
    write_json(folder / FILE_NAME, {"schema_version": SCHEMA_VERSION, **asdict(manifest)})
