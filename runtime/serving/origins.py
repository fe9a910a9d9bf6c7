"""Origins of other sites' pages whose scripts may use the service (CORS)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from runtime.printing import printable

ANY = "*"
_ORIGIN = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::([1-9][0-9]{0,4}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_LAST_PORT = 65535


def check_origins(origins: Sequence[str]) -> None:
    """Raises ValueError unless all are origins as browsers send them, or `*` is the only one."""
    if ANY in origins and len(origins) > 1:
        raise ValueError("The origin * allows any; leave out the others, or leave out *.")
    for origin in origins:
        if origin != ANY and (problem := _problem(origin)):
            raise ValueError(
                f"{printable(origin)!r} is not an origin as browsers send it: {problem}. Give the "
                f"scheme, the host and its port, as in https://shop.example or "
                f"http://localhost:5173."
            )


def _problem(origin: str) -> str | None:
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        if origin.endswith("/"):
            return "it ends in a slash or has a path"
        if origin != origin.lower():
            return "it has capitals"
        if "://" not in origin:
            return "it has no scheme"
        return "it has more than a scheme, a host and a port, or characters that these cannot have"
    scheme, _, port = match.groups()
    if port is not None and int(port) > _LAST_PORT:
        return f"there is no port {port}"
    if port == _DEFAULT_PORTS[scheme]:
        return f"they leave out port {port} of {scheme}"
    return None
