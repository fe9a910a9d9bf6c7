"""Who may come in: FastAPI dependencies that ask for an API key, where there are keys."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from runtime.serving.keys import Key, find_key
from runtime.serving.problems import ForbiddenError, UnauthorizedError
from runtime.serving.service import Service

_BEARER = HTTPBearer(auto_error=False, description="An API key.")
_Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]


def admission(service: Service) -> tuple[Any, Any]:
    """Dependencies for users and for admins.

    Without a file of keys everybody is let in, and nobody as an admin.
    """
    if service.keys is None:
        return Depends(_anybody), Depends(_nobody)

    async def user(credentials: _Credentials) -> Key:
        return _known(service.keys or (), credentials)

    async def admin(credentials: _Credentials) -> Key:
        key = _known(service.keys or (), credentials)
        if key.role != "admin":
            raise ForbiddenError(f"The key {key.name!r} is a user's; this takes an admin's.")
        return key

    return Depends(user), Depends(admin)


def _known(keys: tuple[Key, ...], credentials: HTTPAuthorizationCredentials | None) -> Key:
    if credentials is None:
        raise UnauthorizedError("An API key is needed: send the header Authorization: Bearer KEY.")
    key = find_key(keys, credentials.credentials)
    if key is None:
        raise UnauthorizedError("This API key is not known here.")
    return key


async def _anybody() -> None:
    pass


async def _nobody() -> None:
    raise ForbiddenError(
        "Nobody can do this over HTTP: the service runs without keys. Start it with --keys, or "
        "send it SIGHUP."
    )
