"""The request in progress: its id, in answers and logs, and the name of its API key."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

HEADER = "X-Request-ID"
_ACCEPTED = re.compile(r"[A-Za-z0-9._:=+/@-]{1,128}")
"""UUIDs, hexadecimal and base64 ids, and those of load balancers."""


@dataclass(slots=True)
class CurrentRequest:
    """A request in progress."""

    id: str
    key: str | None = None
    """Name of its API key, once that is known."""


_current: ContextVar[CurrentRequest | None] = ContextVar("agemoe_request", default=None)


def begin_request(given: str | None) -> CurrentRequest:
    """Makes a request the current one of this task, and returns it.

    It stays the current one until the task ends, so that what the server logs of a failed request
    has its id, too.

    Args:
        given: id from the client; one of other characters, or too long, is replaced by a new one.
    """
    accepted = given is not None and _ACCEPTED.fullmatch(given)
    request = CurrentRequest(given if given and accepted else uuid.uuid4().hex)
    _current.set(request)
    return request


def request_id() -> str | None:
    """Returns the id of the current request; None outside of requests."""
    request = _current.get()
    return None if request is None else request.id


def note_key(name: str) -> None:
    """Notes the name of the current request's API key."""
    request = _current.get()
    if request is not None:
        request.key = name


@contextmanager
def in_requests(ids: Iterable[str | None]) -> Iterator[None]:
    """Gives the log records of a thread the ids of all requests that it works for."""
    joined = ",".join(dict.fromkeys(one for one in ids if one is not None))
    token = _current.set(CurrentRequest(joined) if joined else None)
    try:
        yield
    finally:
        _current.reset(token)
