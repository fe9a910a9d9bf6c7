"""Pages of other sites: none by default, the given origins only, beside the hosts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from runtime.serving.app import create_app
from runtime.serving.keys import new_key
from runtime.serving.origins import check_origins
from runtime.serving.service import Service
from runtime.serving.settings import Settings
from tests.serving.live import Live, assert_problem, encoded, engines_in, picture, serving

SHOP, OTHER = "https://shop.example", "https://other.example"
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-request-id",
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service with keys for the pages of one origin."""
    folder = tmp_path_factory.mktemp("shop")
    secret, key = new_key("shop", "user")
    (folder / "keys").write_text(key.line())
    settings = Settings(
        engines_in(folder / "engines"),
        keys=folder / "keys",
        allowed_hosts=("127.0.0.1",),
        allowed_origins=(SHOP,),
    )
    with serving(settings) as running:
        running.client.headers["Authorization"] = f"Bearer {secret}"
        yield running


def test_there_is_none_by_default(live: Live) -> None:
    for method, path in (("GET", "/health/live"), ("OPTIONS", "/v1/ages")):
        answer = live.client.request(method, path, headers={"Origin": SHOP, **PREFLIGHT})
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_preflight_needs_no_key(shop: Live) -> None:
    del (headers := dict(shop.client.headers))["authorization"]
    ask = {**headers, **PREFLIGHT}
    allowed = shop.client.options("/v1/ages", headers={**ask, "Origin": SHOP})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == SHOP
    assert "POST" in allowed.headers["access-control-allow-methods"]
    names = allowed.headers["access-control-allow-headers"].lower()
    assert {"authorization", "content-type", "x-request-id"} <= set(names.split(", "))
    assert "access-control-allow-credentials" not in allowed.headers
    assert len(allowed.headers["x-request-id"]) == 32
    refused = shop.client.options("/v1/ages", headers={**ask, "Origin": OTHER})
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers


def test_scripts_read_answers_and_problems(shop: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: Service) -> None:
        raise RuntimeError("broken")

    files = {"image": encoded(picture(1))}
    fine = shop.client.post("/v1/ages", files=files, headers={"Origin": SHOP})
    missing = shop.client.post("/v1/ages", headers={"Origin": SHOP, "Authorization": ""})
    monkeypatch.setattr(Service, "describe", failing)
    broken = shop.client.get("/v1/experts", headers={"Origin": SHOP})
    assert (fine.status_code, missing.status_code, broken.status_code) == (200, 401, 500)
    for answer in (fine, missing, broken):
        assert answer.headers["access-control-allow-origin"] == SHOP
        exposed = answer.headers["access-control-expose-headers"]
        assert set(exposed.split(", ")) == {"X-Request-ID", "Retry-After"}
        assert "Origin" in answer.headers["vary"]


def test_others_read_nothing(shop: Live) -> None:
    answer = shop.client.get("/health/live", headers={"Origin": OTHER})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
    elsewhere = {"Origin": SHOP, "Host": "elsewhere.example"}
    refused = shop.client.get("/health/live", headers=elsewhere)
    assert_problem(refused, 421, "does not serve the host")
    assert "access-control-allow-origin" not in refused.headers


def test_any_origin() -> None:
    app = create_app(Settings(allowed_origins=("*",)))  # liveness needs no engines

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get("/health/live", headers={"Origin": OTHER})

    assert asyncio.run(ask()).headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    "origin",
    ["https://shop.example", "http://localhost:5173", "http://127.0.0.1:8080", "https://[::1]:444"],
)
def test_origins(origin: str) -> None:
    check_origins([origin])


@pytest.mark.parametrize(
    ("origin", "problem"),
    [
        ("shop.example", "it has no scheme"),
        ("null", "it has no scheme"),
        ("https://Shop.example", "it has capitals"),
        ("https://shop.example/", "it ends in a slash or has a path"),
        ("https://shop.example/app", "it has more than a scheme"),
        ("https://me@shop.example", "it has more than a scheme"),
        ("https://*.shop.example", "it has more than a scheme"),
        ("https://käse.example", "characters that these cannot have"),
        ("ftp://shop.example", "it has more than a scheme"),
        ("https://shop.example:443", "they leave out port 443 of https"),
        ("https://shop.example:99999", "there is no port 99999"),
        ("https://shop.example\n", "it has more than a scheme"),
    ],
)
def test_what_is_no_origin(origin: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"is not an origin as browsers send it: .*{problem}"):
        check_origins([SHOP, origin])
