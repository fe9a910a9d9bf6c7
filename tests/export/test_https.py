"""Downloads over HTTPS; a server on this machine without encryption stands for the host."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPMessage, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from export.checkpoints import https
from export.checkpoints.https import HttpsFile
from export.checkpoints.sources import find_checkpoint
from export.errors import CheckpointError

DATA = bytes(range(256)) * 5000
URL = "https://host/models/w%20x.onnx"


class Host:
    """What the server has and how it behaves."""

    def __init__(self) -> None:
        self.data = DATA
        self.etag = '"v1"'
        self.breaks: list[int] = []
        """Bytes after which the next connections end."""
        self.status = 0
        self.length = True
        self.ranges = True
        self.requests: list[tuple[str | None, int]] = []
        """Range of each request, and the status of the answer."""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        fits = self.ranges and wanted and handler.headers.get("If-Range") == self.etag
        status = self.status or (206 if fits else 200)
        if fits and start >= len(self.data):
            status = 416
        start = start if status == 206 else 0
        self.requests.append((wanted, status))
        handler.send_response(status)
        body = self.data[start:] if status in (200, 206) else b""
        if self.length:
            handler.send_header("Content-Length", str(len(body)))
        if self.etag:
            handler.send_header("ETag", self.etag)
        if status == 206:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.data) - 1}/x")
        handler.end_headers()
        handler.wfile.write(body[: self.breaks.pop(0)] if self.breaks else body)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Host]:
    found = Host()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def opener(request: urllib.request.Request) -> HTTPResponse:
        assert request.full_url == URL
        url = f"http://127.0.0.1:{server.server_port}/"
        plain = urllib.request.Request(url, headers=dict(request.header_items()))
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        response: HTTPResponse = direct.open(plain, timeout=10)
        return response

    monkeypatch.setenv("AGEMOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        https.HttpsFile, "parse", classmethod(lambda cls, location: cls(location, opener))
    )
    monkeypatch.setitem(
        find_checkpoint.__globals__["_SCHEMES"], https.PREFIX, lambda url: HttpsFile(url, opener)
    )
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_name_in_the_cache_is_one_on_windows_too() -> None:
    target = HttpsFile("https://host.example/a/..%5C..%5CC:b%3F.onnx").target
    assert target.name == ".._.._C_b_.onnx"


def test_a_file_is_fetched_once_and_placed_whole(host: Host) -> None:
    path = find_checkpoint(URL)
    assert path.name == "w x.onnx"
    assert path.read_bytes() == DATA
    assert [p.name for p in path.parent.iterdir() if p.suffix != ".lock"] == ["w x.onnx"]
    assert find_checkpoint(URL) == path
    assert host.requests == [(None, 200)]


def test_a_broken_connection_goes_on_where_it_ended(host: Host) -> None:
    host.breaks = [1000, 500]
    assert find_checkpoint(URL).read_bytes() == DATA
    assert host.requests == [(None, 200), ("bytes=1000-", 206), ("bytes=1500-", 206)]


def test_the_next_build_goes_on_where_the_last_one_gave_up(host: Host) -> None:
    host.breaks = [100] * 4
    with pytest.raises(CheckpointError, match=r"cannot be fetched: 400 of 1,280,000 bytes came"):
        find_checkpoint(URL)
    assert find_checkpoint(URL).read_bytes() == DATA
    assert host.requests[-1] == ("bytes=400-", 206)


def test_a_file_that_changed_meanwhile_is_fetched_anew(host: Host) -> None:
    host.breaks = [100] * 4
    with pytest.raises(CheckpointError):
        find_checkpoint(URL)
    host.data, host.etag = bytes(reversed(DATA)), '"v2"'
    assert find_checkpoint(URL).read_bytes() == host.data
    assert host.requests[-1] == ("bytes=400-", 200)


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_strong_version_nothing_is_resumed(host: Host, etag: str) -> None:
    host.breaks, host.etag = [1000], etag
    assert find_checkpoint(URL).read_bytes() == DATA
    assert [wanted for wanted, _ in host.requests] == [None, None]


def test_a_partial_file_that_is_too_long_is_dropped(host: Host) -> None:
    host.breaks = [1000] * 4
    with pytest.raises(CheckpointError):
        find_checkpoint(URL)
    host.data = DATA[:500]
    assert find_checkpoint(URL).read_bytes() == DATA[:500]
    assert [status for _, status in host.requests[-2:]] == [416, 200]


def test_a_server_without_lengths_or_ranges_will_do(host: Host) -> None:
    host.length = host.ranges = False
    assert find_checkpoint(URL).read_bytes() == DATA


def test_an_error_status_is_final(host: Host) -> None:
    host.status = 404
    with pytest.raises(CheckpointError, match="404: Not Found"):
        find_checkpoint(URL)
    assert len(host.requests) == 1


@pytest.mark.parametrize("length", [True, False])
def test_too_large_files_are_refused(
    host: Host, monkeypatch: pytest.MonkeyPatch, length: bool
) -> None:
    monkeypatch.setattr(https, "MOST_BYTES", len(DATA) - 1)
    host.length = length
    with pytest.raises(CheckpointError, match="1,279,999"):
        find_checkpoint(URL)


def test_an_unreachable_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(_: urllib.request.Request) -> HTTPResponse:
        raise urllib.error.URLError("no route")

    monkeypatch.setenv("AGEMOE_CACHE", str(tmp_path))
    monkeypatch.setitem(
        find_checkpoint.__globals__["_SCHEMES"], https.PREFIX, lambda url: HttpsFile(url, fails)
    )
    with pytest.raises(CheckpointError, match=r"no route.*--checkpoint NAME=PATH"):
        find_checkpoint(URL)


def test_redirections_stay_encrypted() -> None:
    handler = https._SecureRedirects()
    request = urllib.request.Request("https://h/a", headers={"Range": "bytes=5-"})
    arguments = (request, None, 302, "Found", HTTPMessage())
    with pytest.raises(CheckpointError, match="redirects to http://x/a, which is not encrypted"):
        handler.redirect_request(*arguments, "http://x/a")  # type: ignore[arg-type]
    followed = handler.redirect_request(*arguments, "https://x/a")  # type: ignore[arg-type]
    assert followed is not None
    assert followed.get_header("Range") == "bytes=5-"
