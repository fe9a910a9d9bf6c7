"""The address of the service is bound before the engines are opened."""

from __future__ import annotations

import socket

import pytest

from runtime.serving.command import main
from runtime.serving.listening import AddressError, bound_sockets, listen, url_of


@pytest.fixture
def engines_are_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object) -> None:
        raise AssertionError("the engines are opened")

    monkeypatch.setattr("runtime.serving.service.Service.open", opened)


@pytest.mark.usefixtures("engines_are_not_opened")
def test_a_port_in_use_is_found_first(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["--port", str(port)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: The service cannot listen on port {port} of 127.0.0.1: ")
    assert "in use by another program. Stop that one, or choose another --port" in error


@pytest.mark.usefixtures("engines_are_not_opened")
@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("192.0.2.1", "no network interface of this machine has the address. Choose another"),
        ("a..b", "the name has no address"),
    ],
)
def test_other_addresses_that_cannot_be_bound(
    host: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--host", host, "--port", "0", "--without-keys"]) == 1
    assert message in capsys.readouterr().err


def test_nothing_is_accepted_before_listening() -> None:
    with bound_sockets("127.0.0.1", 0) as sockets:
        address = sockets[0].getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        listen(sockets)
        socket.create_connection(address).close()
    assert sockets[0].fileno() == -1


def test_two_that_start_at_once() -> None:
    with bound_sockets("127.0.0.1", 0) as first:
        port = first[0].getsockname()[1]
        with bound_sockets("127.0.0.1", port) as second:
            listen(first)
            with pytest.raises(AddressError, match=f"port {port} .* in use by another program"):
                listen(second)


def test_all_addresses_of_a_name_have_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    tcp = socket.IPPROTO_TCP
    found = [
        (socket.AF_INET6, socket.SOCK_STREAM, tcp, "", ("2001:db8::1", 0, 0, 0)),  # not here
        (socket.AF_INET, socket.SOCK_STREAM, tcp, "", ("127.0.0.1", 0)),
        (socket.AF_INET, socket.SOCK_STREAM, tcp, "", ("127.0.0.2", 0)),
        (socket.AF_INET, socket.SOCK_STREAM, tcp, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with bound_sockets("both", 0) as sockets:
        (first, port), (second, same) = (one.getsockname() for one in sockets)
        assert (first, second, port) == ("127.0.0.1", "127.0.0.2", same)
        assert url_of("both", sockets) == f"http://both:{port}"
        assert url_of("::1", sockets) == f"http://[::1]:{port}"
