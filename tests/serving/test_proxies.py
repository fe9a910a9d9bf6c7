"""deploy/proxy before a live service, with the real programs.

NGINX_PROGRAM and CADDY_PROGRAM are their paths, where they are not in PATH.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from runtime.serving.request_ids import HEADER
from runtime.serving.settings import Settings
from tests.serving.live import Live, encoded, engines_in, picture, serving, wait_for

JSON = {"Content-Type": "application/json"}
PROXY = Path(__file__).parents[2] / "deploy" / "proxy"
NAME = "ages.example"
NGINX = os.environ.get("NGINX_PROGRAM") or shutil.which("nginx")
CADDY = os.environ.get("CADDY_PROGRAM") or shutil.which("caddy")
OPENSSL = shutil.which("openssl")
MAIN = """
daemon off; pid nginx.pid; error_log error.log warn; events {{}}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxied;
    fastcgi_temp_path other; uwsgi_temp_path other; scgi_temp_path other;
    include {0}/agemoe.conf;
}}
"""

needs_nginx = pytest.mark.skipif(not (NGINX and OPENSSL), reason="no nginx: apt-get install nginx")
needs_caddy = pytest.mark.skipif(not CADDY, reason="no caddy: apt-get install caddy")
PROGRAMS = [pytest.param("nginx", marks=needs_nginx), pytest.param("caddy", marks=needs_caddy)]

pytestmark = pytest.mark.usefixtures("no_thread_left")


def replaced(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert text.count(old) >= 1, old
        text = text.replace(old, new)
    return text


def nginx(folder: Path, service: int, port: int, plain: int) -> list[str]:
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subject = ["-subj", f"/CN={NAME}", "-days", "1", "-nodes"]
    made = [OPENSSL or "", "req", "-x509", "-newkey", "rsa:2048", *files, *subject]
    subprocess.run(made, check=True, capture_output=True)
    letters = f"/etc/letsencrypt/live/{NAME}"
    changes = {
        "127.0.0.1:8000": f"127.0.0.1:{service}",
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "listen 80": f"listen 127.0.0.1:{plain}",
        f"{letters}/fullchain.pem": str(folder / "cert"),
        f"{letters}/privkey.pem": str(folder / "key"),
        "/var/log/nginx/agemoe.log": str(folder / "access.log"),
        "rate=10r/s": "rate=1r/m",  # so that no test depends on time
    }
    text = replaced((PROXY / "nginx.conf").read_text(encoding="utf-8"), changes)
    (folder / "agemoe.conf").write_text(text)
    (folder / "main.conf").write_text(MAIN.format(folder))
    command = [NGINX or "", "-p", str(folder), "-c", str(folder / "main.conf")]
    subprocess.run([*command, "-t"], check=True, capture_output=True)
    return [*command, "-e", str(folder / "error.log")]


def caddy(folder: Path, service: int, port: int, plain: int) -> list[str]:
    changes = {
        "127.0.0.1:8000": f"127.0.0.1:{service}",
        f"{NAME} {{": f"https://{NAME}:{port} {{\n\ttls internal",
        "\tservers {": f"\tadmin off\n\tskip_install_trust\n\thttp_port {plain}\n\tservers {{",
    }
    original = PROXY / "Caddyfile"
    adapter = ["--adapter", "caddyfile", "--config"]
    checked = [CADDY or "", "validate", *adapter, str(original)]
    subprocess.run(checked, check=True, capture_output=True)
    text = replaced(original.read_text(encoding="utf-8"), changes)
    (folder / "Caddyfile").write_text(text)
    return [CADDY or "", "run", *adapter, str(folder / "Caddyfile")]


@contextmanager
def proxied(program: str, folder: Path, live: Live) -> Iterator[httpx.Client]:
    """Runs a proxy before the service; yields a client that speaks TLS to it."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        port, plain = one.getsockname()[1], two.getsockname()[1]
    make = {"nginx": nginx, "caddy": caddy}[program]
    command = make(folder, live.address[1], port, plain)
    homes = {"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (folder / "output").open("wb") as output:
        running = subprocess.Popen(command, env=os.environ | homes, stdout=output, stderr=output)
    try:
        base = f"https://127.0.0.1:{port}"
        with httpx.Client(base_url=base, verify=context, headers={"Host": NAME}) as client:
            wait_for(lambda: answers(client) or running.poll() is not None)
            assert running.poll() is None, (folder / "output").read_text()
            yield client
    finally:
        running.terminate()
        running.wait(30.0)


def asked(client: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
    return client.request(method, path, extensions={"sni_hostname": NAME}, **options)


def answers(client: httpx.Client) -> bool:
    with suppress(httpx.TransportError):
        return asked(client, "GET", "/health/live").status_code == 200
    return False


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_proxy(program: str, tmp_path: Path) -> None:
    settings = Settings(engines_in(tmp_path / "engines"), allowed_hosts=(NAME,))
    (folder := tmp_path / "proxy").mkdir()
    with serving(settings) as live, proxied(program, folder, live) as client:
        fine = asked(client, "GET", "/", headers={HEADER: "mine"})
        assert fine.text.startswith("<!")
        assert fine.headers.get_list(HEADER) == ["mine"]
        assert fine.headers.get_list("strict-transport-security") == ["max-age=31536000"]
        other = asked(client, "GET", "/nowhere", headers={HEADER: "not sane"})
        assert other.json()["request_id"] == other.headers[HEADER] != "not sane"
        for path in ("/metrics", "/v1/reload"):
            private = asked(client, "POST", path)
            assert private.status_code == 404
            assert "problem" not in private.headers.get("content-type", "")
            assert len(private.headers.get_list(HEADER)) == 1
        noise = encoded(picture(1, width=900, height=700), "BMP") + bytes(1_000_000)
        ages = asked(client, "POST", "/v1/ages", files={"image": noise})
        assert ages.json()["type"] == "urn:agemoe:problem:image", "it is no JPEG, PNG or WebP"
        too_large = asked(client, "POST", "/v1/ages", content=bytes((48 << 20) + 1), headers=JSON)
        assert too_large.status_code == 413
        assert len(too_large.headers.get_list(HEADER)) == 1
        assert 'route="/metrics"' not in live.client.get("/metrics", headers={"Host": NAME}).text
        if program == "nginx":
            check_the_rate(client)
    assert "temporary file" not in (folder / "output").read_text()
    if program == "nginx":
        assert "temporary file" not in (folder / "error.log").read_text()
        assert "GET / 200" in (folder / "access.log").read_text()


def check_the_rate(client: httpx.Client) -> None:
    seen = [asked(client, "GET", "/v1/experts") for _ in range(22)]
    assert {one.status_code for one in seen} == {200, 429}
    refused = seen[-1]
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["request_id"] == refused.headers[HEADER]
