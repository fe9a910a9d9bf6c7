"""Malformed forms and lines of the log: a stranger gets a refusal, never a traceback."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.types import Message

from runtime.serving.connections import Repeated
from runtime.serving.problems import ServiceError
from runtime.serving.request_body import read_request
from runtime.serving.schemas import AGES
from runtime.serving.settings import Limits, Settings
from tests.hostile_paths import EVIL, unprintable
from tests.serving.live import Live, encoded, engines_in, picture, receive_all, serving

LIMITS = Limits(body_bytes=1 << 20)
KIND = b"multipart/form-data; boundary=b"
PICTURE = encoded(picture(1))
DISPOSITION = b'Content-Disposition: form-data; name="image"; filename="a.png"'


def part(head: bytes, content: bytes = PICTURE) -> bytes:
    return b"--b\r\n" + head + b"\r\n\r\n" + content + b"\r\n"


def field(name: bytes, value: bytes) -> bytes:
    return part(b'Content-Disposition: form-data; name="' + name + b'"', value)


GOOD = part(DISPOSITION)
END = b"--b--\r\n"
LONG = b"x" * 100_000
EVIL_NAME = EVIL.encode("utf-8", "surrogateescape").replace(b"\n", b"\\n")
KINDS = [
    b"multipart/form-data", b"multipart/form-data; boundary=", b'multipart/form-data; boundary=""',
    b"multipart/form-data; boundary=" + LONG, b"multipart/form-data; boundary=\xff\xfe",
    b"multipart/form-data; boundary=b; charset=undefined", KIND + b"; charset=idna",
    KIND + b"; charset=punycode", KIND + b"; charset=hex", KIND + b"; charset=unknown-8",
    KIND + b"; charset=\xff", KIND + b"; charset=utf-16", KIND + b"; charset=", KIND + b"; charset",
    KIND + b"; charset=unicode_escape", KIND + b"; boundary=c",
    b"multipart/form-data; boundary=a b",
    b"MULTIPART/FORM-DATA;BOUNDARY=b", b"multipart/form-data;;;", KIND + b"; charset=rot13",
]  # fmt: skip
BODIES = [
    b"", b"--", b"--b", b"--b\r\n", END, b"\r\n" + END, b"--b--", GOOD, GOOD[:-2], GOOD + b"--b",
    b"--c\r\n" + GOOD + END, LONG, b"--b\r\n\r\n" + END, part(b"", b"") + END, part(b":") + END,
    part(b"Content-Disposition") + END, part(b"Content-Disposition: form-data") + END,
    part(b"Content-Disposition: form-data; name") + END,
    part(b'Content-Disposition: form-data; name=""; filename=""') + END,
    part(b'Content-Disposition: form-data; name="image"; filename=') + END,
    part(b'Content-Disposition: attachment; name="image"') + END,
    part(b'Content-Disposition: form-data; name="\xff\xfe"; filename="\xff"') + END,
    part(b"Content-Disposition: form-data; name*=utf-8''image; filename*=x'y") + END,
    part(b"Content-Disposition: form-data; name*0=im; name*1=age") + END,
    part(b'Content-Disposition: form-data; name="' + LONG + b'"; filename="a"') + END,
    part(b'Content-Disposition: form-data; name="' + EVIL_NAME + b'"; filename="a"') + END,
    part(DISPOSITION + b"\r\nContent-Type: " + LONG) + END,
    part(DISPOSITION + b"\r\n" + b"X: y\r\n" * 5_000) + END,
    part(DISPOSITION + b"\r\nContent-Type: \xff\x80") + END,
    part(DISPOSITION + b"\r\nContent-Transfer-Encoding: base64") + END,
    part(DISPOSITION + b"\n\n") + END, part(b"\x00\x01\x02") + END,
    GOOD.replace(b"\r\n", b"\n") + END, GOOD * 200 + END, field(b"x", b"y") * 2_000 + END,
    GOOD + field(b"boxes", b"[" * 20_000) + END, GOOD + field(b"boxes", b"9" * 5_000) + END,
    GOOD + field(b"boxes", b"NaN") + END, GOOD + field(b"boxes", b'"\\ud800"') + END,
    GOOD + field(b"boxes", b"[" + b"[1,2,3,4]," * 50_000 + b"[1,2,3,4]]") + END,
    GOOD + field(b"deadline_ms", LONG) + END, GOOD + field(b"deadline_ms", b"\xff") + END,
    GOOD + field(b"deadline_ms", b"1e999") + END, GOOD + field(b"threshold", b"nan") + END,
    GOOD + field(b"detect", EVIL.encode("utf-8", "surrogateescape")) + END,
    GOOD + field(LONG[:5_000], b"1") + END, GOOD + field(EVIL_NAME, b"1") + END,
    field(b"image", b"text") + END, field(b"detect", b"1") * 2 + GOOD + END,
    field(b"x", LONG * 9) + END, GOOD + END + b"epilogue" * 1_000, b"preamble" + GOOD + END,
]  # fmt: skip
WORDS = [
    b"--b", b"--b--", b"\r\n", b"\r\n\r\n", b"\0", b"\xff", b";", b'"', b"=", b":", b"\\", b"\n",
    b"name=", b"filename=", b"Content-Disposition: ", b"form-data", b"*=utf-8''", b"\r", b" " * 99,
]  # fmt: skip


def mutants(count: int, rng: random.Random) -> Iterator[tuple[bytes, bytes]]:
    """Yields content types and bodies: valid forms with pieces inserted, cut and exchanged."""
    valid = GOOD + field(b"detect", b"false") + field(b"boxes", b"[[[1, 2, 3, 4]]]") + END
    for _ in range(count):
        body = bytearray(valid)
        for _ in range(rng.choice((1, 2, 5))):
            place = rng.choice((rng.randrange(120), rng.randrange(len(body) + 1)))
            size = rng.choice((0, 1, rng.randrange(60)))
            body[place : place + size] = rng.choice((b"", rng.choice(WORDS), rng.randbytes(3)))
        yield rng.choice((KIND, KIND, KIND, rng.choice(KINDS))), bytes(body)


def result(kind: bytes, body: bytes, chunk: int) -> str:
    """Reads a request in chunks; returns how it ended. Whatever else is raised fails the test."""

    async def read() -> str:
        chunks = [body[at : at + chunk] for at in range(0, len(body), chunk)] or [b""]

        async def receive() -> Message:
            data = chunks.pop(0)
            return {"type": "http.request", "body": data, "more_body": bool(chunks)}

        scope = {"type": "http", "method": "POST", "path": "/v1/ages", "query_string": b""}
        request = Request({**scope, "headers": [(b"content-type", kind)]}, receive)
        try:
            await read_request(request, LIMITS, AGES)
        except ServiceError as error:
            message = str(error)
            assert not list(unprintable(message)), (kind[:99], body[:99])
            assert len(message) < 30_000
            return f"{error.status}"
        return "read"

    return asyncio.run(read())


@pytest.mark.parametrize("chunk", [1 << 20, 7_919])
def test_shapes_of_malformed_forms_are_refused(chunk: int) -> None:
    statuses = Counter(result(KIND, body, chunk) for body in BODIES)
    statuses += Counter(result(kind, GOOD + END, chunk) for kind in KINDS)
    assert statuses.keys() <= {"read", "400", "413", "415", "422"}, statuses
    assert statuses["read"] < len(BODIES) // 2
    assert statuses["400"] + statuses["422"] > len(BODIES) // 3


@pytest.mark.parametrize("charset", ["punycode", "undefined", "idna", "rot13", "latin-1", "\xff"])
def test_only_utf_8_is_decoded(charset: str) -> None:
    body = GOOD + field(b"detect", b"a" * 100 + b"-" + b"b9" * 400_000) + END
    assert result(KIND + b"; charset=" + charset.encode("latin-1"), body, 1 << 20) == "415"
    assert result(KIND + b"; charset=UTF-8", GOOD + END, 1 << 20) == "read"


@pytest.mark.parametrize("count", [1_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_damaged_forms_are_refused(count: int) -> None:
    statuses = Counter(
        result(kind, body, 1 << 20) for kind, body in mutants(count, random.Random(0))
    )
    assert statuses.keys() <= {"read", "400", "413", "415", "422"}, statuses
    assert statuses["400"] > count // 10
    assert statuses["read"] > 0


@pytest.mark.parametrize("body", [b"", GOOD[:-2], part(b":") + END, part(b"\x00") + END])
def test_a_malformed_form_gets_400_without_a_traceback(
    live: Live, caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    response = live.client.post("/v1/ages", content=body, headers={"Content-Type": KIND.decode()})
    assert response.status_code in (400, 422), response.text
    assert not [record for record in caplog.records if record.exc_info]


def record(message: str, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("agemoe.connections", level, "", 0, message, (), None)


def test_warnings_of_one_kind_are_logged_once_a_minute_with_their_number() -> None:
    now = [0.0]
    repeated = Repeated(lambda: now[0])
    assert repeated.filter(record("Invalid"))
    for _ in range(1_000):
        now[0] += 0.05
        assert not repeated.filter(record("Invalid"))
    assert repeated.filter(record("another"))
    assert repeated.filter(record("Invalid", logging.ERROR))
    now[0] = 60.0
    late = record("Invalid")
    assert repeated.filter(late)
    assert late.getMessage() == "Invalid (1,000 more since the last of these lines)"
    now[0] = 120.0
    again = record("Invalid")
    assert repeated.filter(again)
    assert again.getMessage() == "Invalid"


def test_strangers_cannot_fill_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    upgrade = (
        b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    )
    with serving(Settings(engines_in(tmp_path / "e"))) as live:
        for data in (b"NO HTTP\r\n\r\n", upgrade + b"\r\n", b"\x16\x03\x01" + bytes(99)) * 10:
            with socket.create_connection(live.address, 30.0) as connection:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                assert receive_all(connection)
    warnings = Counter(one.getMessage().split(" (")[0] for one in caplog.records)
    own = {text: n for text, n in warnings.items() if "Invalid" in text or "upgrade" in text}
    assert max(own.values(), default=0) <= 1, own
