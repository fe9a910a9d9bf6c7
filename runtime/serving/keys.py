"""API keys: a file of names, roles and SHA-256 digests; the keys themselves are nowhere.

One key per line, `#` begins a comment:

    phone-app   user    9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    operations  admin   60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752

Keys are random and long (`new_key`), which is what makes one round of SHA-256 enough.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import AgeMoEError

ROLES = ("user", "admin")
_KEY_BYTES = 32
_DIGEST_CHARACTERS = 64


class KeyFileError(AgeMoEError, ValueError):
    """The file of API keys is not in order."""


@dataclass(frozen=True, slots=True)
class Key:
    """Who may come in, and as what."""

    name: str
    role: str
    """`user`, or `admin` who may also reload."""
    digest: str
    """SHA-256 of the key, in lower-case hex."""

    def line(self) -> str:
        """As it stands in the file."""
        return f"{self.name}\t{self.role}\t{self.digest}"


def new_key(name: str, role: str) -> tuple[str, Key]:
    """A new random key, and what is kept of it."""
    secret = secrets.token_urlsafe(_KEY_BYTES)
    return secret, Key(name, role, _digest(secret))


def read_keys(path: Path) -> tuple[Key, ...]:
    """Reads a file of keys.

    Raises:
        KeyFileError: it is unreadable, holds no key, or has lines that are none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"The key file {path} cannot be read: {error}") from error
    problems: list[str] = []
    keys = tuple(_keys_of(lines, problems))
    if not keys and not problems:
        problems.append("it holds no key")
    if problems:
        listed = "".join(f"\n- {problem}" for problem in problems)
        raise KeyFileError(
            f"The key file {path} is not in order:{listed}\n"
            f"A line is: name, user or admin, SHA-256 of the key in hex. Make one: "
            f"python -m runtime serve --new-key NAME"
        )
    return keys


def find_key(keys: Sequence[Key], secret: str) -> Key | None:
    """The key that was presented; every one is compared, each in constant time."""
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
        if key is None or key.role not in ROLES or not _is_digest(key.digest):
            problems.append(f"line {number} is no key")
        else:
            yield key


def _is_digest(text: str) -> bool:
    return len(text) == _DIGEST_CHARACTERS and set(text) <= set("0123456789abcdef")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
