"""The sockets of the service, bound before the engines are opened."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from runtime.errors import AgeMoEError

_BACKLOG = 2048
_CURES = {
    errno.EADDRINUSE: "the port is in use by another program. Stop that one, or choose another "
    "--port; 0 selects a free one.",
    errno.EACCES: "this user may not use the port. Choose a --port from 1024 on.",
    errno.EADDRNOTAVAIL: "no network interface of this machine has the address. Choose another "
    "--host: 127.0.0.1 for this machine only, 0.0.0.0 for all interfaces.",
}
_MISSING = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Where IPv6 is off, `localhost` may still have an IPv6 address."""


class AddressError(AgeMoEError, RuntimeError):
    """The service cannot listen on its address."""


@contextmanager
def bound_sockets(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Yields sockets that are bound to all addresses of a host, and not listening yet.

    Connections are refused until `listen`, as by a service that has not started.

    Args:
        host: a name or an address; empty for all interfaces.
        port: the port; 0 selects a free one, the same for all addresses.

    Raises:
        AddressError: the host has no address, or none can be bound to.
    """
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        failed: OSError | None = None
        for family, address in _addresses(host, port):
            selected = sockets[0].getsockname()[1] if sockets else port
            try:
                one = _bound(family, (address[0], selected, *address[2:]))
                sockets.append(stack.enter_context(one))
            except OSError as error:
                if error.errno not in _MISSING:
                    raise _address_error(host, port, error) from error
                failed = error
        if not sockets:
            raise _address_error(host, port, failed or OSError()) from failed
        yield sockets


def listen(sockets: Sequence[socket.socket]) -> None:
    """Starts to listen; raises `AddressError` if another program was faster."""
    for one in sockets:
        try:
            one.listen(_BACKLOG)
        except OSError as error:
            host, port = one.getsockname()[:2]
            raise _address_error(host, port, error) from error


def url_of(host: str, sockets: Sequence[socket.socket]) -> str:
    """Returns the address of the service, with the port that was selected."""
    address, port = sockets[0].getsockname()[:2]
    name = host or address
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[object, ...]]]:
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise AddressError(
            f"The service cannot listen on {host}: the name has no address ({error}). Choose "
            f"another --host: 127.0.0.1 for this machine only, 0.0.0.0 for all interfaces."
        ) from error
    return list(dict.fromkeys((family, tuple(address)) for family, _, _, _, address in found))


def _bound(family: socket.AddressFamily, address: tuple[object, ...]) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would share the port with another program
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except BaseException:
        made.close()
        raise
    return made


def _address_error(host: str, port: int, error: OSError) -> AddressError:
    reason = _CURES.get(error.errno or 0, f"{error}. Choose another --host or --port.")
    return AddressError(f"The service cannot listen on port {port} of {host or '*'}: {reason}")
