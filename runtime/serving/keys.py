"""The file of API keys: names, roles and SHA-256 digests; the keys themselves are not stored.

One key per line; `#` starts a comment:

    phone-app   user    9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    operations  admin   60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752

One round of SHA-256 is sufficient because keys are long and random (`new_key`).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import AgeMoEError
from runtime.files import read_text
from runtime.printing import bullets
from runtime.program import command_line

ROLES = ("user", "admin")
_KEY_BYTES = 32
_MOST_BYTES = 16 << 20


class KeyFileError(AgeMoEError, ValueError):
    """The file of API keys cannot be used."""


@dataclass(frozen=True, slots=True)
class Key:
    """An API key's name, role and digest."""

    name: str
    role: str
    """`user`, or `admin`, which also permits reloading."""
    digest: str
    """SHA-256 of the key, in lower-case hex."""

    def line(self) -> str:
        """Returns the key's line in the file."""
        return f"{self.name}\t{self.role}\t{self.digest}"


def new_key(name: str, role: str) -> tuple[str, Key]:
    """Returns a new random key and its entry for the file."""
    secret = secrets.token_urlsafe(_KEY_BYTES)
    return secret, Key(name, role, _digest(secret))


def read_keys(path: Path) -> tuple[Key, ...]:
    """Reads a file of keys; raises `KeyFileError` if it is unreadable, empty or malformed."""
    try:
        lines = read_text(path, _MOST_BYTES).splitlines()
    except (OSError, ValueError) as error:
        raise KeyFileError(f"The key file {path} cannot be read: {error}") from error
    problems: list[str] = []
    keys = tuple(_keys_of(lines, problems))
    if not keys and not problems:
        problems.append("no key found")
    if problems:
        raise KeyFileError(
            f"The key file {path} cannot be used:",
            *bullets(problems),
            "A line holds a name, the role user or admin, and the key's SHA-256 in hex. Make one: "
            f"{command_line('serve --new-key')} NAME",
        )
    return keys


def find_key(keys: Sequence[Key], secret: str) -> Key | None:
    """Returns the entry of a key, or None; all entries are compared, each in constant time."""
    digest = _digest(secret)
    found = None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found


def _keys_of(lines: Sequence[str], problems: list[str]) -> Iterator[Key]:
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        key = Key(*words) if len(words) == len(("name", "role", "digest")) else None
        if key is None or key.role not in ROLES or not re.fullmatch("[0-9a-f]{64}", key.digest):
            problems.append(f"line {number} is not a key")
        else:
            yield key


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
