"""Atomic writes and file fingerprints."""

from __future__ import annotations

import contextlib
import hashlib
import json
import operator
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"
"""Suffix of incomplete files; only a killed process leaves one behind."""
_CHUNK_BYTES = 1 << 20


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file, in lower-case hex, reading it in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to, which becomes `path` if the block succeeds.

    The temporary file lies in the folder of `path`, is flushed to disk and then renamed, so that a
    reader, or a crash at any moment, finds either the old file or the new one.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Writes JSON atomically, with sorted keys and a final newline.

    NumPy arrays become lists; NaN and infinities are rejected.
    """
    text = json.dumps(
        value,
        indent=1,
        sort_keys=True,
        allow_nan=False,
        ensure_ascii=False,
        default=operator.methodcaller("tolist"),
    )
    write_whole(path, f"{text}\n".encode())


def sync(path: Path) -> None:
    """Flushes a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
