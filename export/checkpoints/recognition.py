"""Recognizes what is given in place of a checkpoint, before anything else reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from export.errors import CheckpointError
from runtime import files
from runtime.files import check_regular

_HEAD_BYTES = 512
_MOST_JSON_BYTES = 64 << 20
"""Indexes of the largest published models take some hundred kB."""
_AGAIN = "Download the weights themselves."
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file", "Fetch it: git lfs pull."),
    (b"<!doctype html", "an HTML page", f"A site answered instead of sending the file. {_AGAIN}"),
    (b"<html", "an HTML page", f"A site answered instead of sending the file. {_AGAIN}"),
    (b"<?xml", "an XML document", f"A site answered instead of sending the file. {_AGAIN}"),
    (b"\x1f\x8b", "compressed by gzip", "Unpack it: gunzip."),
    (b"bzh", "compressed by bzip2", "Unpack it: bunzip2."),
    (b"\xfd7zxz", "compressed by xz", "Unpack it: unxz."),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it."),
    (b"rar!", "a RAR archive", "Unpack it."),
    (b"\x89hdf", "an HDF5 file, as Keras writes them", "Export the model to ONNX."),
    (b"gguf", "a GGUF file", "Take the weights as safetensors."),
    (b"\x93numpy", "a NumPy array", "Save the weights as safetensors."),
)
"""Beginnings in lower case, what they are, and the cure."""
_TAR_MARK = slice(257, 262)


def check_file(path: Path) -> None:
    """Verifies that a path is a file that may be a checkpoint.

    Raises:
        CheckpointError: it is missing, no file, empty, or recognized as something else.
    """
    try:
        check_regular(path)
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    if not head:
        raise CheckpointError(f"{path} is empty. Download or copy it again.")
    text = head.removeprefix(b"\xef\xbb\xbf")
    start = text.lstrip().lower()
    for magic, what, cure in _MAGIC:
        if start.startswith(magic):
            raise CheckpointError(f"{path} is {what}. {cure}")
    if head[_TAR_MARK] == b"ustar":
        raise CheckpointError(f"{path} is a tar archive. Unpack it.")
    if text is not head:
        raise CheckpointError(
            f"{path} begins with a byte order mark: a program treated it as text, which damages "
            f"weights. {_AGAIN}"
        )
    if start.startswith((b"{", b"[")) and b"\0" not in head:
        raise CheckpointError(
            f"{path} is JSON or another text, not weights: {_shown(start)}. {_AGAIN}"
        )


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object beside a checkpoint, with or without byte order mark.

    Raises:
        CheckpointError: it cannot be read, is no JSON or no object.
    """
    try:
        content = files.read_json(path, _MOST_JSON_BYTES)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}. Download it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object. Download it again.")
    return content


def _shown(start: bytes) -> str:
    return repr(start[:60].decode("ascii", "replace"))
