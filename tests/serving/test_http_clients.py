"""deploy/clients and docs/clients.md against a live service; retries against a fake one."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import agemoe_client
import httpx
import pytest
from agemoe_client import AgeMoEClient, AsyncAgeMoEClient, ProblemError

from runtime.quality import QualityLimits
from runtime.serving.app import create_app
from runtime.serving.keys import new_key
from runtime.serving.settings import Settings
from tests.conftest import has_haar
from tests.runtime.photo_samples import astronaut
from tests.serving.live import Live, encoded, engines_in, picture, policy_in, serving

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "deploy" / "clients"
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
NODE, CURL = shutil.which("node"), shutil.which("curl")
FACE = encoded(picture(3))
BOX = [[[2, 2, 12, 12]]]

needs_node = pytest.mark.skipif(not NODE, reason="no node: apt-get install nodejs")
needs_curl = pytest.mark.skipif(not CURL, reason="no curl: apt-get install curl")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a service with keys that decides; its folder has the pictures of the page."""
    folder = tmp_path_factory.mktemp("clients")
    engines = engines_in(folder / "engines")
    policy_in(engines)
    secret, key = new_key("client", "user")
    (folder / "keys").write_text(key.line())
    (folder / "secret").write_text(secret)
    photo = encoded(astronaut()[20:230, 100:310], "JPEG")
    for name in ("photo.jpg", "first.jpg", "second.jpg"):
        (folder / name).write_bytes(photo)
    (folder / "face.jpg").write_bytes(FACE)
    (folder / "notes.txt").write_text("no picture")
    for name in ("agemoe_client.py", "agemoe_client.mjs"):
        shutil.copy(CLIENTS / name, folder)
    quality = QualityLimits(require_face=has_haar())
    return Settings(engines, keys=folder / "keys", policy=True, quality=quality)


@pytest.fixture(scope="module")
def live(settings: Settings) -> Iterator[Live]:
    with serving(settings) as running:
        yield running


@pytest.fixture
def folder(settings: Settings, live: Live, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the page's commands, with the address and the key in the environment."""
    here = settings.engines.parent
    monkeypatch.setenv("AGEMOE_URL", live.url)
    monkeypatch.setenv("AGEMOE_KEY", (here / "secret").read_text())
    return here


def blocks(language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return [one for one in found if not one.startswith("export ")]


def output_of(command: list[str], folder: Path, **variables: str) -> str:
    environment = os.environ | variables
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_python_client(folder: Path, live: Live) -> None:
    with AgeMoEClient(live.url) as client:
        answer = client.ages([FACE, folder / "face.jpg"], detect=False, threshold=18)
        first, second = (image["faces"][0]["estimate"] for image in answer["images"])
        assert first is not None
        assert first == second
        assert first == live_estimate(live, threshold=18)
        assert client.ages(str(folder / "face.jpg"), boxes=BOX)["images"][0]["faces"][0]["box"]
        with (folder / "face.jpg").open("rb") as file:
            assert client.ages(file, detect=False)["images"][0]["faces"][0]["estimate"]
        decided = client.decision([FACE, FACE], boxes=BOX * 2)["decision"]
        assert decided["outcome"] in ("pass", "refer", "fail")
        assert client.health()["status"] == "ready"
        with pytest.raises(ProblemError) as caught:
            client.ages(FACE, detect=False, threshold=200, request_id="mine")
    problem = caught.value
    assert (problem.status, problem.type) == (422, "urn:agemoe:problem:invalid")
    assert problem.title.startswith("Unprocessable ")
    assert problem.request_id == "mine"
    assert "threshold" in problem.detail


def live_estimate(live: Live, **options: Any) -> dict[str, Any]:
    key = {"Authorization": f"Bearer {os.environ['AGEMOE_KEY']}"}
    data = {"detect": "false", **options}
    answer = httpx.post(f"{live.url}/v1/ages", files={"image": FACE}, data=data, headers=key)
    estimate: dict[str, Any] = answer.json()["images"][0]["faces"][0]["estimate"]
    return estimate


def test_an_asynchronous_client(folder: Path, live: Live) -> None:
    async def ask() -> None:
        async with AsyncAgeMoEClient(
            live.url, key=f"{(folder / 'secret').read_text()}\n"
        ) as client:
            answer = await client.ages(folder / "face.jpg", detect=False)
            assert answer["images"][0]["faces"][0]["estimate"] == live_estimate(live)
            assert (await client.decision(FACE, boxes=BOX))["decision"]["reasons"]
            assert (await client.health())["status"] == "ready"
        async with AsyncAgeMoEClient(live.url, key="wrong") as client:
            with pytest.raises(ProblemError, match=r"401 Unauthorized: This API key is unknown\."):
                await client.ages(FACE)

    asyncio.run(ask())


@pytest.mark.parametrize("body", ["<html>", "[1]", "5"])
def test_what_is_no_answer_of_the_service_is_a_problem(body: str) -> None:
    headers = {"content-type": "application/problem+json", "X-Request-ID": "r"}
    with pytest.raises(ProblemError, match="502 Bad Gateway: ") as caught:
        agemoe_client._answer(httpx.Response(502, headers=headers, text=body))
    assert (caught.value.detail, caught.value.request_id) == (body, "r")


def test_a_page_in_the_place_of_an_answer_is_a_problem() -> None:
    with pytest.raises(ProblemError, match="200 OK: <html>"):
        agemoe_client._answer(httpx.Response(200, text="<html>log in"))


BUSY, LATER = {"Retry-After": "2"}, {"Retry-After": "11"}
TRIES = [
    ([(503, BUSY), (429, BUSY), (200, {})], 200, [2.0, 2.0]),
    ([(503, BUSY)] * 5, 503, [2.0, 2.0, 2.0]),
    ([(503, {})], 503, []),
    ([(503, LATER)], 503, []),
    ([(503, {"Retry-After": "Fri, 27 Nov 2026 22:00:00 GMT"})], 503, []),
    ([(500, BUSY)], 500, []),
]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("answers", "status", "pauses"), TRIES)
def test_retries(
    answers: list[tuple[int, dict[str, str]]],
    status: int,
    pauses: list[float],
    asynchronous: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    left = list(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        assert FACE in request.read()
        number, headers = left.pop(0)
        return httpx.Response(number, headers=headers, json={"images": []})

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    transport = httpx.MockTransport(answer)
    monkeypatch.setattr(agemoe_client, "time", SimpleNamespace(sleep=slept.append))
    patched = SimpleNamespace(sleep=sleep, to_thread=asyncio.to_thread)
    monkeypatch.setattr(agemoe_client, "asyncio", patched)
    call = _asynchronous if asynchronous else _synchronous
    assert call(transport) == status
    assert slept == pauses
    assert len(answers) - len(left) == len(pauses) + 1


def _synchronous(transport: httpx.MockTransport) -> int:
    with AgeMoEClient("http://fake") as client:
        client._http = httpx.Client(transport=transport, base_url="http://fake")
        return _status(lambda: client.ages(FACE))


def _asynchronous(transport: httpx.MockTransport) -> int:
    async def ask() -> agemoe_client.Ages:
        async with AsyncAgeMoEClient("http://fake") as client:
            client._http = httpx.AsyncClient(transport=transport, base_url="http://fake")
            return await client.ages(FACE)

    return _status(lambda: asyncio.run(ask()))


def _status(call: Callable[[], object]) -> int:
    try:
        call()
    except ProblemError as error:
        return error.status
    return 200


def test_the_types_are_those_of_the_service(settings: Settings) -> None:
    schemas = create_app(settings).openapi()["components"]["schemas"]
    pairs = [
        ("Ages", "AgesAnswer"),
        ("Image", "ImageAnswer"),
        ("Face", "FaceAnswer"),
        ("FaceEstimate", "EstimateAnswer"),
        ("AtLeast", "AtLeastAnswer"),
        ("Problem", "ProblemAnswer"),
        ("Decision", "DecisionAnswer"),
        ("Outcome", "OutcomeAnswer"),
        ("Health", "StatusAnswer"),
    ]
    for name, schema in pairs:
        known = getattr(agemoe_client, name).__annotations__
        assert known.keys() <= schemas[schema]["properties"].keys(), name
    script = (CLIENTS / "agemoe_client.mjs").read_text(encoding="utf-8")
    for option in agemoe_client.AgesOptions.__annotations__:
        assert f"[{option}]" in script


SCRIPT = r"""
import { createServer } from "node:http";
import { AgeMoEClient, ProblemError } from "./agemoe_client.mjs";

const tries = JSON.parse(process.env.TRIES);
const seen = [], ids = [];
const server = createServer((request, response) => {
  request.resume().on("end", () => {
    const [status, headers] = tries.shift();
    seen.push(request.headers.authorization);
    ids.push(request.headers["x-request-id"]);
    response.writeHead(status, headers).end(status === 200 ? '{"images": []}' : "<html>");
  });
}).listen(0, "127.0.0.1", async () => {
  const client = new AgeMoEClient(`http://127.0.0.1:${server.address().port}/`, { key: "k\n" });
  const statuses = [];
  while (tries.length) {
    const before = tries.length;
    try {
      await client.ages([new Uint8Array([1])], { request_id: "mine" });
      statuses.push([200, before - tries.length]);
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
      statuses.push([error.status, before - tries.length]);
    }
  }
  const path = await client.ages("photo.jpg").catch((error) => error.name);
  console.log(JSON.stringify({ statuses, path, keys: [...new Set(seen)], ids: [...new Set(ids)] }));
  server.closeAllConnections();
  server.close();
});
"""


@needs_node
def test_the_javascript_client_retries(folder: Path) -> None:
    now = {"Retry-After": "0"}
    last: list[tuple[int, dict[str, str]]] = [(503, {}), (503, LATER), (500, now)]
    tries = [(503, now), (429, now), (200, {}), *[(503, now)] * 4, *last]
    (folder / "retries.mjs").write_text(SCRIPT)
    found = json.loads(output_of([NODE or "", "retries.mjs"], folder, TRIES=json.dumps(tries)))
    assert found["statuses"] == [[200, 3], [503, 4], [503, 1], [503, 1], [500, 1]]
    assert (found["keys"], found["ids"]) == (["Bearer k"], ["mine"])
    assert found["path"] == "TypeError", "a path would be sent letter by letter"


@needs_node
def test_the_javascript_of_the_page(folder: Path) -> None:
    (script,) = blocks("js")
    (folder / "page.mjs").write_text(script)
    version, _, outcome, problem = output_of([NODE or "", "page.mjs"], folder).splitlines()
    assert re.fullmatch("[0-9a-f]{12}", version)
    assert outcome in ("pass", "refer", "fail")
    assert problem.startswith("422 urn:agemoe:problem:image ")


def test_the_python_of_the_page(folder: Path) -> None:
    programs = "\n".join(blocks("python"))
    problem, counts = output_of([sys.executable, "-c", programs], folder).splitlines()[-2:]
    assert problem.startswith("422 urn:agemoe:problem:image ")
    assert problem.endswith(" order-4711")
    assert len(json.loads(counts)) == 2


@needs_curl
def test_the_commands_of_the_page(folder: Path) -> None:
    (folder / ".curlrc").write_text('silent\nwrite-out = "\\n%{http_code}\\n"\n')
    commands = blocks("sh")
    assert len(commands) == 11
    for command in commands:
        wanted = re.findall(r"# (\d{3})", command) or ["200"] * command.count("curl")
        patient = command.replace("deadline_ms=2000", "deadline_ms=60000")  # on a busy machine
        shell = ["bash", "-euo", "pipefail", "-c", patient]
        text = output_of(shell, folder, CURL_HOME=str(folder))
        assert re.findall(r"^(\d{3})$", text, re.MULTILINE) == wanted, command
