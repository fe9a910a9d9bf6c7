"""Files fetched over HTTPS with the standard library: bounded, resumable, placed whole."""

from __future__ import annotations

import hashlib
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import IO, Protocol
from urllib.parse import unquote, urlsplit

from export.checkpoints.cache import MOST_BYTES, filling, weights_folder
from export.errors import CheckpointError
from runtime.file_system import sync

PREFIX = "https://"
_TIMEOUT_SECONDS = 60.0
"""Longest wait for the server, at the beginning and within the transfer."""
_ATTEMPTS = 4
"""Connections per file; each goes on where the one before broke off."""
_CHUNK_BYTES = 1 << 20
_NOT_IN_NAMES = re.compile(r'[<>:"\\|?*\x00-\x1f]')
_NOT_SATISFIABLE = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE


class Response(Protocol):
    """What is used of an HTTP response."""

    status: int
    headers: HTTPMessage

    def read(self, size: int, /) -> bytes:
        """Returns up to so many bytes; none at the end."""
        ...


Opener = Callable[[urllib.request.Request], AbstractContextManager[Response]]
"""Sends a request; raises `OSError` or `HTTPException`, for an error status `HTTPError`."""


class _SecureRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections to HTTPS only."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not newurl.lower().startswith(PREFIX):
            raise CheckpointError(f"{req.full_url} redirects to {newurl}, which is not encrypted.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_https(request: urllib.request.Request) -> HTTPResponse:
    """Sends a request with the system's proxies and certificates."""
    opener = urllib.request.build_opener(_SecureRedirects)
    response: HTTPResponse = opener.open(request, timeout=_TIMEOUT_SECONDS)
    return response


@dataclass(frozen=True, slots=True)
class HttpsFile:
    """A file at an https URL."""

    url: str
    opener: Opener = open_https

    @classmethod
    def parse(cls, location: str) -> HttpsFile:
        """Returns the file of a location; raises `CheckpointError` if it is no URL of a file."""
        try:
            parts = urlsplit(location)
            host, path = parts.hostname, PurePosixPath(unquote(parts.path))
        except ValueError:
            host, path = None, PurePosixPath()
        if not host or not path.name or "\0" in path.name or path.name == "..":
            raise CheckpointError(f"Expected https://HOST/PATH/FILE, got {location}.")
        if parts.username or parts.password:
            raise CheckpointError(
                f"The URL of {parts.hostname}{parts.path} holds a name or a password, which the "
                f"manifest would publish. Download the file and give its path."
            )
        return cls(location)

    @property
    def target(self) -> Path:
        """Its place in the cache, under a name that Windows allows, too."""
        name = _NOT_IN_NAMES.sub("_", PurePosixPath(unquote(urlsplit(self.url).path)).name)
        key = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        return weights_folder() / "https" / key / name

    def present(self) -> Path | None:
        """Returns its path if it is in the cache."""
        return self.target if self.target.is_file() else None

    def fetch(self, say: Callable[[str], None]) -> Path:
        """Downloads it into the cache; what an interrupted download left is used.

        Raises:
            OSError: the server cannot be reached, or refuses.
            CheckpointError: the file is too large, or not served over HTTPS.
        """
        say(f"fetching {self.url}")
        with filling(self.target):
            part = self.target.with_name(f"{self.target.name}.part")
            _download(self.url, part, self.opener)
            sync(part)
            part.replace(self.target)
            _validator(part).unlink(missing_ok=True)
        return self.target

    def discard(self) -> None:
        """Removes it from the cache."""
        self.target.unlink(missing_ok=True)


def _download(url: str, part: Path, opener: Opener) -> None:
    for attempt in range(_ATTEMPTS):
        try:
            return _receive(url, part, opener)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != _NOT_SATISFIABLE or attempt + 1 == _ATTEMPTS:
                raise
            part.unlink(missing_ok=True)  # longer than the file is now
        except (OSError, HTTPException) as error:
            if attempt + 1 == _ATTEMPTS:
                raise ConnectionError(str(error) or type(error).__name__) from error
    return None


def _receive(url: str, part: Path, opener: Opener) -> None:
    """Appends to a partial file what is missing, or writes it anew if the file has changed."""
    headers = {"User-Agent": "agemoe-runtime", "Accept-Encoding": "identity"}
    validator, received = _validator(part), 0
    if part.is_file() and validator.is_file():
        received = part.stat().st_size
        headers |= {"Range": f"bytes={received}-", "If-Range": validator.read_text("latin-1")}
    with opener(urllib.request.Request(url, headers=headers)) as response:  # noqa: S310 - https
        partial = response.status == HTTPStatus.PARTIAL_CONTENT
        if partial and not _continues(response.headers, received):
            part.unlink(missing_ok=True)
            raise ConnectionError("the server sent another part than asked for")
        received = received if partial else 0
        if not partial:
            part.unlink(missing_ok=True)
            _note_validator(validator, response.headers)
        length = response.headers.get("Content-Length", "")
        whole = received + int(length) if length.isdecimal() else None
        with part.open("ab") as file:
            _copy(response, file, received, whole, url)


def _copy(response: Response, file: IO[bytes], received: int, whole: int | None, url: str) -> None:
    if whole is not None and whole > MOST_BYTES:
        raise CheckpointError(f"{url} has {whole:,} bytes; at most {MOST_BYTES:,} are fetched.")
    while chunk := response.read(_CHUNK_BYTES):
        received += len(chunk)
        if received > MOST_BYTES:
            raise CheckpointError(f"{url} has more than the {MOST_BYTES:,} bytes that are fetched.")
        file.write(chunk)
    if whole is not None and received != whole:
        raise ConnectionError(f"{received:,} of {whole:,} bytes came")


def _continues(headers: HTTPMessage, received: int) -> bool:
    return headers.get("Content-Range", "").startswith(f"bytes {received}-")


def _validator(part: Path) -> Path:
    """Returns the path of the note that identifies the version of a partial file."""
    return part.with_name(f"{part.name}.version")


def _note_validator(path: Path, headers: HTTPMessage) -> None:
    """Keeps the strong ETag or the date of a file, without which it is not resumed (RFC 9110)."""
    etag = headers.get("ETag", "")
    version = etag if etag.startswith('"') else headers.get("Last-Modified", "")
    path.unlink(missing_ok=True)
    if version:
        path.write_text(version, "latin-1")
