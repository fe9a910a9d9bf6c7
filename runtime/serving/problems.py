"""RFC 9457 problem details, with the library's error messages as their `detail`."""

from __future__ import annotations

import http
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from starlette.responses import JSONResponse

from runtime.errors import (
    AgeMoEError,
    BoxError,
    BoxesTooLargeError,
    ClosedError,
    DeadlineError,
    FaceCountError,
    ImageError,
    ImageTooLargeError,
    InputError,
    LandmarkError,
    LivenessError,
    ManyFacesError,
    NotCalibratedError,
    PredictionError,
    QualityError,
)
from runtime.serving.batching import QueueFullError
from runtime.serving.request_ids import request_id

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:agemoe:problem:"
_RETRY = {"Retry-After": "1"}
_CLOSE = {"Connection": "close"}
"""For responses sent before the body was read, and after errors that the server itself sees: the
connection cannot be reused."""


class ServiceError(AgeMoEError):
    """A request that the service itself rejects."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "service"
    headers: ClassVar[Mapping[str, str]] = {}


class MalformedError(ServiceError):
    """The body cannot be parsed."""

    status, slug = 400, "malformed"


class InvalidError(ServiceError):
    """The body can be parsed, but its content is invalid."""

    status, slug = 422, "invalid"


class TooManyError(ServiceError):
    """More pictures or faces than a request may have."""

    status, slug = 422, "too-many"


class NoFaceError(ServiceError, FaceCountError):
    """A picture of a person shows no face."""

    status, slug = 422, "no-face"


class SeveralFacesError(ServiceError, ManyFacesError):
    """A picture of a person shows several faces."""

    status, slug = 422, "several-faces"


class UnauthorizedError(ServiceError):
    """The API key is missing or unknown."""

    status, slug, headers = 401, "unauthorized", {"WWW-Authenticate": "Bearer", **_CLOSE}


class ForbiddenError(ServiceError):
    """The API key does not permit this operation."""

    status, slug, headers = 403, "forbidden", _CLOSE


class HostError(ServiceError):
    """The request is for a host name that this service does not serve."""

    status, slug, headers = 421, "host", _CLOSE


class BodySlowError(ServiceError):
    """The body did not arrive in time."""

    status, slug, headers = 408, "body-slow", _CLOSE


class BodyTooLargeError(ServiceError):
    """The body exceeds its limit."""

    status, slug, headers = 413, "body-too-large", _CLOSE


class MediaTypeError(ServiceError):
    """The body's media type or encoding is not supported."""

    status, slug, headers = 415, "media-type", _CLOSE


class ReloadError(ServiceError):
    """The new engines were rejected; the old ones keep serving."""

    status, slug = 409, "reload"


class NoPolicyError(ServiceError):
    """The service has no policy and makes no decisions."""

    status, slug, headers = 409, "no-policy", _CLOSE


class NotRecordedError(ServiceError):
    """A decision could not be recorded and is not given."""

    status, slug, headers = 503, "not-recorded", _RETRY


class BusyError(ServiceError):
    """The limit on concurrent requests is reached."""

    status, slug, headers = 503, "busy", {**_RETRY, **_CLOSE}


class NotReadyError(ServiceError):
    """The service is not ready."""

    status, slug, headers = 503, "not-ready", _RETRY


class ClientGoneError(ServiceError):
    """The client closed the connection before the response."""

    status, slug, headers = 499, "client-gone", _CLOSE


_LIBRARY_ERRORS: tuple[tuple[type[AgeMoEError], int, str], ...] = (
    (ImageTooLargeError, 413, "image-too-large"),
    (ImageError, 422, "image"),
    (BoxError, 422, "box"),
    (BoxesTooLargeError, 413, "boxes-too-large"),
    (LandmarkError, 422, "landmarks"),
    (QualityError, 422, "quality"),
    (LivenessError, 422, "liveness"),
    (InputError, 422, "input"),
    (QueueFullError, 503, "queue-full"),
    (DeadlineError, 504, "deadline"),
    (PredictionError, 500, "prediction"),
    (NotCalibratedError, 409, "not-calibrated"),
    (ClosedError, 503, "not-ready"),
    (AgeMoEError, 500, "engines"),
)
"""Status and slug of the library's errors; the first match counts."""


@dataclass(frozen=True, slots=True)
class Problem:
    """RFC 9457 problem details."""

    status: int
    slug: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    """A sentence for each quality limit that a face does not meet."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the members, ready for JSON; `reasons` only where there are some."""
        return {
            "type": f"{TYPE_PREFIX}{self.slug}",
            "title": _title(self.status),
            "status": self.status,
            "detail": self.detail,
            **({"reasons": list(self.reasons)} if self.reasons else {}),
        }

    def response(self) -> JSONResponse:
        """Returns the HTTP response, with the id of the current request."""
        body = {**self.to_dict(), "request_id": request_id()}
        return JSONResponse(body, self.status, dict(self.headers), MEDIA_TYPE)


def problem_of(error: BaseException) -> Problem:
    """Returns the problem for an error; details of unexpected errors are not exposed."""
    if isinstance(error, ServiceError):
        return Problem(error.status, error.slug, str(error), error.headers)
    for kind, status, slug in _LIBRARY_ERRORS:
        if isinstance(error, kind):
            reasons = error.reasons if isinstance(error, QualityError) else ()
            return Problem(status, slug, str(error), _RETRY if status == 503 else {}, reasons)
    detail = "An unexpected error occurred; see the log of the service."
    return Problem(500, "unexpected", detail, _CLOSE)


def problem_of_status(status: int, detail: str, headers: Mapping[str, str] | None) -> Problem:
    """Returns the problem for an HTTP status of the framework, such as 404 or 405."""
    headers = headers or {}
    if status == http.HTTPStatus.NOT_FOUND:
        detail = "There is no resource at this path. See /openapi.json for the paths."
    elif status == http.HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"This path supports {headers.get('Allow', 'other methods')}. See /openapi.json."
    return Problem(status, _title(status).lower().replace(" ", "-"), detail, headers)


def _title(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:  # 499 comes from nginx, not from the standard
        return "Client Closed Request"
