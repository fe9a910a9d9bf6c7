"""The JavaScript client in headless Chromium, in a page of another origin."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from runtime.serving.keys import new_key
from runtime.serving.settings import Settings
from tests.serving.live import encoded, engines_in, picture, serving

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
CLIENT = Path(__file__).parents[2] / "deploy" / "clients" / "agemoe_client.mjs"
PROGRAM = """async ([url, key]) => {
    const { AgeMoEClient, ProblemError } = await import("./agemoe_client.mjs");
    const client = new AgeMoEClient(url, { key });
    const picture = await (await fetch("face.png")).blob();
    try {
        const { images } = await client.ages([picture], { detect: false, threshold: 18 });
        await client.ages([picture], { threshold: 999 }).catch((problem) => images.push(problem));
        const { status, requestId } = images[1];
        return [images[0].faces[0].estimate.age_years, status, requestId.length];
    } catch (error) {
        return [error instanceof ProblemError, error.name];
    }
}"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt-get install chromium"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def site(folder: Path) -> Iterator[str]:
    """Serves a folder under an origin of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("allowed", [True, False])
def test_a_page_of_another_origin(tmp_path: Path, allowed: bool) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    (tmp_path / "index.html").write_text("<!doctype html><title>shop</title>")
    (tmp_path / "face.png").write_bytes(encoded(picture(1)))
    shutil.copy(CLIENT, tmp_path)
    secret, key = new_key("shop", "user")
    (tmp_path / "keys").write_text(key.line())
    engines = engines_in(tmp_path / "engines")
    with site(tmp_path) as origin:
        origins = (origin,) if allowed else ()
        settings = Settings(engines, keys=tmp_path / "keys", allowed_origins=origins)
        with serving(settings) as live, sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page()
            page.goto(origin)
            found = page.evaluate(PROGRAM, [live.url, secret])
            browser.close()
    if allowed:
        age, status, length = found
        assert (age > 0.0, status, length) == (True, 422, 32)
    else:
        assert found == [False, "TypeError"], "the browser keeps the answer from the page"
