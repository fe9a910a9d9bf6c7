"""Clients that are refused while they still send their body receive the refusal, not a reset."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from runtime.serving.keys import new_key
from runtime.serving.settings import Limits, Settings
from tests.serving.live import NO_TLS, Live, engines_in, receive_all, serving

BODY = b" " * (3 << 20)
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service that refuses every post: nobody has its key."""
    folder = tmp_path_factory.mktemp("closed")
    (folder / "keys").write_text(new_key("one", "user")[1].line())
    limits = Limits(header_seconds=60.0)
    with serving(Settings(engines_in(folder / "e"), keys=folder / "keys", limits=limits)) as live:
        yield live


async def many_statuses(live: Live, count: int) -> Counter[object]:
    async def post(client: httpx.AsyncClient) -> object:
        try:
            return (await client.post("/v1/ages", content=BODY, headers=JSON)).status_code
        except httpx.TransportError as error:
            return type(error).__name__

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=live.url, timeout=60.0, limits=limits, verify=NO_TLS
    ) as client:
        return Counter(await asyncio.gather(*(post(client) for _ in range(count))))


def test_concurrent_posts_without_a_key_get_401(closed: Live) -> None:
    assert asyncio.run(many_statuses(closed, 40)) == {401: 40}


def test_a_body_over_the_limit_gets_413(tmp_path: Path) -> None:
    settings = Settings(engines_in(tmp_path / "e"), limits=Limits(body_bytes=4 << 20))
    with serving(settings) as live:
        for content in (BODY * 2, iter([BODY[:4096]] * 1500)):
            answer = live.client.post("/v1/ages", content=content, headers=JSON)
            assert answer.status_code == 413


def test_posts_over_the_limit_of_requests_get_503(tmp_path: Path) -> None:
    settings = Settings(engines_in(tmp_path / "e"), limits=Limits(requests=1))
    with serving(settings) as live, socket.create_connection(live.address, 30.0) as first:
        head = f"POST /v1/ages HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n"
        first.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n ")
        live.wait_for_metric("agemoe_requests_under_way 1.0")
        assert asyncio.run(many_statuses(live, 10)) == {503: 10}


def test_posts_over_the_limit_of_connections_get_503(tmp_path: Path) -> None:
    settings = Settings(engines_in(tmp_path / "e"), limits=Limits(connections=2))
    with serving(settings) as live:
        held = [socket.create_connection(live.address, 30.0) for _ in range(2)]
        try:
            assert asyncio.run(many_statuses(live, 5)) == {503: 5}
        finally:
            for connection in held:
                connection.close()


def test_a_raw_socket_reads_the_response_before_and_after_its_body(closed: Live) -> None:
    with socket.create_connection(closed.address, 30.0) as connection:
        head = f"POST /v1/ages HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n"
        connection.sendall(head.encode())
        first = connection.recv(65536)
        connection.sendall(BODY)
        assert (first + receive_all(connection)).startswith(b"HTTP/1.1 401 ")


def test_a_malformed_request_gets_400(closed: Live) -> None:
    with socket.create_connection(closed.address, 30.0) as connection:
        connection.sendall(b"NO HTTP AT ALL\r\n\r\n" + BODY)
        assert receive_all(connection).startswith(b"HTTP/1.1 400 ")


def test_what_is_skipped_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(new_key("one", "user")[1].line())
    limits = Limits(body_bytes=100_000, header_seconds=60.0)
    settings = Settings(engines_in(tmp_path / "e"), keys=tmp_path / "keys", limits=limits)
    with serving(settings) as live, socket.create_connection(live.address, 30.0) as connection:
        connection.sendall(
            b"POST /v1/ages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            connection.sendall(chunk * 10_000)


@pytest.mark.parametrize("expect", ["Expect:", "Expect: 100-continue"])
def test_curl_prints_the_refusal(closed: Live, tmp_path: Path, expect: str) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    (tmp_path / "body").write_bytes(BODY)
    url = f"{closed.url}/v1/ages"
    done = subprocess.run(
        [curl, "-sS", "-H", expect, "--data-binary", f"@{tmp_path / 'body'}", url],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"urn:agemoe:problem:unauthorized" in done.stdout


def test_node_fetches_the_refusal(closed: Live) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed")
    script = """
        const body = " ".repeat(3 << 20), url = process.argv[1];
        const posts = Array.from({length: 8}, () => fetch(url, {method: "POST", body})
            .then(async r => [r.status, await r.text()][0], error => String(error.cause)));
        Promise.all(posts).then(statuses => console.log(statuses.join(" ")));
    """
    done = subprocess.run(
        [node, "-e", script, f"{closed.url}/v1/ages"], capture_output=True, timeout=60, check=True
    )
    assert done.stdout.split() == [b"401"] * 8


def test_requests_gets_the_refusal(closed: Live) -> None:
    requests = pytest.importorskip("requests")
    for _ in range(5):
        assert requests.post(f"{closed.url}/v1/ages", data=BODY, timeout=60).status_code == 401


HOSTS = ("localhost", "127.0.0.1", "[::1]")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    engines = engines_in(tmp_path_factory.mktemp("local") / "e")
    with serving(Settings(engines, allowed_hosts=HOSTS)) as live:
        yield live


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8000", 200),
        ("evil.example", 421),
        ("evil.example:8000", 421),
        ("localhost.evil.example", 421),
        ("", 421),
    ],
)
def test_only_allowed_hosts_are_served(local: Live, host: str, status: int) -> None:
    answer = local.client.get("/health/live", headers={"Host": host})
    assert answer.status_code == status
    assert answer.headers["x-content-type-options"] == "nosniff"
    if status == 421:
        assert answer.json()["type"] == "urn:agemoe:problem:host"


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"5\r\nhelloXX", b"-1\r\n\r\n", b"f" * 40 + b"\r\n"])
def test_a_malformed_chunk_gets_400_and_no_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, chunk: bytes
) -> None:
    head = b"POST /v1/ages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    with serving(Settings(engines_in(tmp_path / "e"))) as live:
        address = (live.client.base_url.host, live.client.base_url.port or 80)
        with socket.create_connection(address, 30.0) as connection:
            connection.sendall(head + b"Content-Type: application/json\r\n\r\n" + chunk)
            assert receive_all(connection).startswith(b"HTTP/1.1 400 ")
    assert not [record for record in caplog.records if record.exc_info]
