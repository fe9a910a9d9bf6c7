"""FastAPI dependencies that check API keys."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from runtime.serving.keys import Key, find_key
from runtime.serving.problems import ForbiddenError, UnauthorizedError
from runtime.serving.request_ids import note_key
from runtime.serving.service import Service

_BEARER = HTTPBearer(auto_error=False, description="An API key.")
_Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]


def access_dependencies(service: Service) -> tuple[Any, Any]:
    """Returns the dependencies of user routes and of admin routes.

    Without a key file, user routes are open and admin routes closed.
    """
    if service.keys is None:
        return Depends(_allow), Depends(_forbid)

    async def user(credentials: _Credentials) -> Key:
        return _authenticate(service.keys or (), credentials)

    async def admin(credentials: _Credentials) -> Key:
        key = _authenticate(service.keys or (), credentials)
        if key.role != "admin":
            raise ForbiddenError(f"The key {key.name!r} has the role user; admin is required.")
        return key

    return Depends(user), Depends(admin)


def _authenticate(keys: tuple[Key, ...], credentials: HTTPAuthorizationCredentials | None) -> Key:
    if credentials is None:
        raise UnauthorizedError(
            "An API key is required: send the header Authorization: Bearer KEY."
        )
    key = find_key(keys, credentials.credentials)
    if key is None:
        raise UnauthorizedError("This API key is unknown.")
    note_key(key.name)
    return key


async def _allow() -> None:
    pass


async def _forbid() -> None:
    raise ForbiddenError(
        "The service runs without keys and accepts no reload over HTTP. Start it with --keys, or "
        "send it SIGHUP."
    )
