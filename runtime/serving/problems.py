"""What goes wrong, as RFC 9457 problem details in the library's own words."""

from __future__ import annotations

import http
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from runtime.errors import (
    AgeMoEError,
    BoxError,
    ClosedError,
    DeadlineError,
    ImageError,
    ImageTooLargeError,
    InputError,
    NotCalibratedError,
    PredictionError,
)
from runtime.serving.batching import QueueFullError

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:agemoe:problem:"
_RETRY = {"Retry-After": "1"}
_CLOSE = {"Connection": "close"}
"""Where the rest of a request was not read, the connection cannot carry another one."""


class ServiceError(AgeMoEError):
    """A request that the service itself turns down."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "service"
    headers: ClassVar[Mapping[str, str]] = {}


class MalformedError(ServiceError):
    """The body cannot be taken apart."""

    status, slug = 400, "malformed"


class InvalidError(ServiceError):
    """The body can be taken apart and does not say what it has to."""

    status, slug = 422, "invalid"


class TooManyError(ServiceError):
    """More pictures or faces than one request may have."""

    status, slug = 422, "too-many"


class UnauthorizedError(ServiceError):
    """No key, or an unknown one."""

    status, slug = 401, "unauthorized"
    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": "Bearer", **_CLOSE}


class ForbiddenError(ServiceError):
    """The key is not one for this."""

    status, slug = 403, "forbidden"
    headers: ClassVar[Mapping[str, str]] = _CLOSE


class BodySlowError(ServiceError):
    """The body did not arrive in time."""

    status, slug = 408, "body-slow"
    headers: ClassVar[Mapping[str, str]] = _CLOSE


class BodyTooLargeError(ServiceError):
    """The body is over its limit."""

    status, slug = 413, "body-too-large"
    headers: ClassVar[Mapping[str, str]] = _CLOSE


class MediaTypeError(ServiceError):
    """The body is of a type nobody here reads."""

    status, slug = 415, "media-type"
    headers: ClassVar[Mapping[str, str]] = _CLOSE


class ReloadError(ServiceError):
    """The new engines are not taken; the old ones go on."""

    status, slug = 409, "reload"


class BusyError(ServiceError):
    """As many requests are under way as may be."""

    status, slug = 503, "busy"
    headers: ClassVar[Mapping[str, str]] = {**_RETRY, **_CLOSE}


class NotReadyError(ServiceError):
    """The service cannot answer now."""

    status, slug = 503, "not-ready"
    headers: ClassVar[Mapping[str, str]] = _RETRY


class ClientGoneError(ServiceError):
    """Nobody waits for the answer any more."""

    status, slug = 499, "client-gone"
    headers: ClassVar[Mapping[str, str]] = _CLOSE


_OF_THE_LIBRARY: tuple[tuple[type[AgeMoEError], int, str], ...] = (
    (ImageTooLargeError, 413, "image-too-large"),
    (ImageError, 422, "image"),
    (BoxError, 422, "box"),
    (InputError, 422, "input"),
    (QueueFullError, 503, "queue-full"),
    (DeadlineError, 504, "deadline"),
    (PredictionError, 500, "prediction"),
    (NotCalibratedError, 409, "not-calibrated"),
    (ClosedError, 503, "not-ready"),
    (AgeMoEError, 500, "engines"),
)
"""Status and name of what the library raises; the first that fits."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An RFC 9457 problem."""

    status: int
    slug: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Its members, ready for JSON."""
        return {
            "type": f"{TYPE_PREFIX}{self.slug}",
            "title": _title(self.status),
            "status": self.status,
            "detail": self.detail,
        }


def problem_of(error: BaseException) -> Problem:
    """What is said of an error: of our own its words, of others only that there was one."""
    if isinstance(error, ServiceError):
        return Problem(error.status, error.slug, str(error), error.headers)
    for kind, status, slug in _OF_THE_LIBRARY:
        if isinstance(error, kind):
            return Problem(status, slug, str(error), _RETRY if status == 503 else {})
    return Problem(500, "unexpected", "Something unexpected happened; the service's log says what.")


def problem_of_status(status: int, detail: str, headers: Mapping[str, str] | None) -> Problem:
    """What is said where only an HTTP status is known: no such page, no such method."""
    headers = headers or {}
    if status == http.HTTPStatus.NOT_FOUND:
        detail = "There is nothing at this path. See /openapi.json for what there is."
    elif status == http.HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"This path takes {headers.get('Allow', 'other methods')}. See /openapi.json."
    return Problem(status, _title(status).lower().replace(" ", "-"), detail, headers)


def _title(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:  # 499 is nginx's, not the standard's
        return "Client Closed Request"
