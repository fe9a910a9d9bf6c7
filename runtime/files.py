"""Atomic writes, file fingerprints, and bounded reading of files that users write."""

from __future__ import annotations

import codecs
import contextlib
import csv
import hashlib
import io
import json
import operator
import os
import re
import stat
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from runtime.file_system import explaining_open_files, sync, sync_folder
from runtime.printing import printable

TEMPORARY_SUFFIX = ".tmp"
"""Suffix of incomplete files; only a killed process leaves one behind."""
_CHUNK_BYTES = 1 << 20
MOST_TEXT_BYTES = 256 << 20
"""Of a list of pictures: some millions of lines."""
MOST_JSON_BYTES = 16 << 20
"""Of a manifest or fusion tables, which take some hundred kB."""
_MOST_DIGITS = 1_000
"""Of a whole number in JSON; Python itself refuses 4,301."""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_QUOTED = re.compile('"[^"]*"')
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def check_regular(path: Path) -> None:
    """Verifies that a path is a file; reading a pipe or a device could wait or go on for ever.

    Raises:
        OSError: there is nothing at this path.
        ValueError: it is a folder, pipe, socket or device.
    """
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind != stat.S_IFREG:
        raise ValueError(f"it is {_KINDS.get(kind, 'no file')}, expected a file")


def is_regular(path: Path) -> bool:
    """Returns whether a path is a file; false too for names that no file can have."""
    try:
        check_regular(path)
    except (OSError, ValueError):
        return False
    return True


def read_text(path: Path, most_bytes: int = MOST_TEXT_BYTES) -> str:
    """Reads a text that people wrote or exported: UTF-8, or UTF-16 as its byte order mark says.

    A byte order mark is left out. Line ends are kept as they are.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no file, has more bytes, or is in another encoding.
    """
    check_regular(path)
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"it has more than {most_bytes:,} bytes")
    try:
        return data.decode("utf-16" if data.startswith(_UTF16_MARKS) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not UTF-8. Save it as UTF-8") from error


def resolved(path: Path) -> Path:
    """Returns an absolute path without links, whatever the name is and whether it exists."""
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError):  # a name that no file can have
        return path.absolute()


def read_json(path: Path, most_bytes: int = MOST_JSON_BYTES) -> Any:  # noqa: ANN401 - JSON values
    """Reads a JSON document, in which no object has the same key twice.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no file, too large, or no such document.
    """
    return parse_json(read_text(path, most_bytes))


def parse_json(text: str) -> Any:  # noqa: ANN401 - JSON values
    """Parses a JSON document, in which no object has the same key twice.

    Raises:
        ValueError: it is no such document, or nested too deeply to be read.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key '{printable(twice)}' comes twice in an object")
    return found


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"it holds a number of {len(digits):,} digits")
    return int(digits)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number in JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole, parse_constant=_no_number)


def read_rows(text: str) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows of a CSV, without spaces around names; row 1 is the header.

    The separator is the one of comma, semicolon and tab that the first line has most of;
    spreadsheets write semicolons where the comma is the decimal sign.

    Raises:
        ValueError: a row cannot be parsed.
    """
    first = _QUOTED.sub("", text.lstrip("\r\n").partition("\n")[0])
    separator = max(",;\t", key=first.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    except csv.Error as error:
        raise ValueError(f"it is no CSV ({error})") from error
    while rows and not any(rows[0]):
        rows.pop(0)
    header = [name.strip() for name in rows[0]] if rows else []
    return header, rows[1:]


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
        with explaining_open_files(path):
            temporary.replace(path)
        sync_folder(path.parent)
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
