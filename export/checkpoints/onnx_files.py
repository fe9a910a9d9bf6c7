"""External data of ONNX files: which other files hold an ONNX file's weights.

The file is walked as protobuf, field by field, and weights are skipped unread, so that neither the
package `onnx` nor memory for the weights is needed. Field numbers are those of onnx.proto:
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from export.errors import CheckpointError
from runtime.files import is_regular

Messages: TypeAlias = "dict[int, Messages]"
"""By field number: the messages within a message that may lead to external data."""

_STRINGS: Messages = {}
"""StringStringEntryProto, whose fields are read as text."""
_TENSOR: Messages = {13: _STRINGS}
_SPARSE: Messages = {1: _TENSOR, 2: _TENSOR}
_GRAPH: Messages = {}
_ATTRIBUTE: Messages = {
    5: _TENSOR,
    6: _GRAPH,
    10: _TENSOR,
    11: _GRAPH,
    22: _SPARSE,
    23: _SPARSE,
}
_NODE: Messages = {5: _ATTRIBUTE}
_GRAPH.update({1: _NODE, 5: _TENSOR, 15: _SPARSE})
_MODEL: Messages = {7: _GRAPH, 25: {7: _NODE, 11: _ATTRIBUTE}}
"""The graph, and the nodes of functions."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DEEPEST = 64
"""Nested messages; graphs within graphs of real files need a dozen."""


def external_data_files(path: Path) -> list[Path]:
    """Returns the files beside an ONNX file that hold its weights, sorted; none for other files.

    Args:
        path: a checkpoint of any kind. Symbolic links, as in the Hugging Face hub's cache, are kept
            as they are.

    Raises:
        CheckpointError: a location lies outside the file's folder, or nothing is there.
    """
    files = []
    for name in external_data_names(path):
        file = path.parent / name
        if not is_regular(file):
            raise CheckpointError(
                f"{path} keeps weights in {name!r}, which is missing. Put that file beside it, "
                f"under this name."
            )
        files.append(file)
    return files


def external_data_names(path: Path) -> list[str]:
    """Returns the locations of an ONNX file's external data, relative to its folder, sorted.

    A file that is not ONNX has none; what reads it reports that.

    Raises:
        CheckpointError: a location lies outside the file's folder.
    """
    if not is_regular(path) or path.stat().st_size == 0:
        return []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[0] != 0x08:  # ir_version, the first field of every ONNX file
            return []
        try:
            names = sorted(set(_locations(data, 0, len(data), _MODEL, 0)))
        except (IndexError, ValueError):
            return []
    for name in names:
        pure = PurePosixPath(name.replace("\\", "/"))
        if not pure.parts or pure.is_absolute() or ".." in pure.parts or ":" in pure.parts[0]:
            raise CheckpointError(
                f"{path} keeps weights in {name!r}, outside its own folder, which is not allowed. "
                f"Save the model again with its external data beside it."
            )
    return names


def _locations(
    data: mmap.mmap, start: int, end: int, message: Messages, depth: int
) -> Iterator[str]:
    """Yields the locations in a message's bytes.

    Raises:
        IndexError, ValueError: the bytes are not protobuf.
    """
    if depth > _DEEPEST:
        raise ValueError("messages nested too deeply")
    entry: dict[int, bytes] = {}
    for field, begin, stop in _fields(data, start, end):
        if message is _STRINGS:
            entry[field] = data[begin:stop]
        elif field in message:
            yield from _locations(data, begin, stop, message[field], depth + 1)
    if entry.get(1) == b"location":
        yield entry.get(2, b"").decode()


def _fields(data: mmap.mmap, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields number, start and end of every field of a message that is bytes."""
    while position < end:
        key, position = _varint(data, position)
        kind = key & 7
        if kind == _VARINT:
            _, position = _varint(data, position)
        elif kind == _BYTES:
            size, position = _varint(data, position)
            if position + size > end:
                raise ValueError("a field ends behind its message")
            yield key >> 3, position, position + size
            position += size
        elif kind in (_FIXED32, _FIXED64):
            position += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind}")


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # the last byte of a number
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
