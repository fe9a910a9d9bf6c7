"""Reloads replace the engines or are refused, without affecting requests in progress."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from runtime import ClosedError
from runtime.serving.keys import new_key
from runtime.serving.settings import Settings
from tests.runtime.photo_samples import tiny_centerface
from tests.runtime.tiny_engines import add_detector
from tests.serving.live import (
    Live,
    assert_problem,
    encoded,
    engines_in,
    hold_predictions,
    picture,
    serving,
)

pytestmark = pytest.mark.usefixtures("no_thread_left")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    secret, key = new_key("ops", "admin")
    (tmp_path / "keys").write_text(key.line())
    (tmp_path / "secret").write_text(secret)
    return Settings(engines_in(tmp_path / "engines"), keys=tmp_path / "keys")


def authorize(live: Live) -> None:
    keys = live.server.service.settings.keys
    assert keys is not None
    secret = keys.with_name("secret").read_text()
    live.client.headers["Authorization"] = f"Bearer {secret}"


def test_new_engines_replace_the_old(settings: Settings) -> None:
    data = encoded(picture(1))
    with serving(settings) as live:
        authorize(live)
        old, before = live.server.service.current(), live.face(data)
        engines_in(settings.engines, offset=10.0)
        answer = live.client.post("/v1/reload")
        assert answer.status_code == 200
        assert answer.json()["version"] == live.server.service.current().version != old.version
        after = live.face(data)
        ages = [face["estimate"]["experts"]["a"]["age_years"] for face in (before, after)]
        assert ages[1] == pytest.approx(ages[0] + 10.0)
        ready = live.client.get("/health/ready").json()
        assert ready["version"] == answer.json()["version"]
        assert ready["last_reload"].startswith("taken: version ")
        assert 'agemoe_reloads_total{outcome="taken"} 1.0' in live.client.get("/metrics").text


def test_the_engines_bring_their_detector(settings: Settings, tmp_path: Path) -> None:
    """The cascade finds nothing in a red spot; `tiny_centerface` finds it."""
    spot = np.zeros((64, 96, 3), np.uint8)
    spot[32:36, 40:44] = 255, 128, 128
    with serving(settings) as live:
        authorize(live)
        assert live.client.get("/v1/experts").json()["detector"].startswith("haar ")
        (nothing,) = live.ages(encoded(spot), detect=True).json()["images"]
        assert nothing["faces"] == []
        assert nothing["problem"] is None
        model = add_detector(settings.engines, tiny_centerface(tmp_path / "colors.onnx"))
        assert live.client.post("/v1/reload").status_code == 200
        described = live.client.get("/v1/experts").json()["detector"]
        assert described.startswith("centerface colors.onnx (sha256 ")
        (found,) = live.ages(encoded(spot), detect=True).json()["images"]
        assert found["faces"][0]["score"] == 1.0
        model.write_bytes(b"broken")
        assert_problem(
            live.client.post("/v1/reload"), 409, "colors.onnx of the face detector has 6"
        )
        assert live.ages(encoded(spot), detect=True).status_code == 200


@pytest.mark.parametrize("fault", ["manifest", "graph", "fusion", "silent"])
def test_broken_engines_are_refused(
    settings: Settings,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving(settings) as live:
        authorize(live)
        before = live.face(encoded(picture(1)))
        version = live.server.service.current().version
        files = {"manifest": "manifest.json", "graph": "a.fp32.onnx", "fusion": "fusion.json"}
        if fault == "silent":
            monkeypatch.setattr("runtime.serving.generation._is_plausible", lambda _: False)
            message = "failed the canary request"
        else:
            message = files[fault]
            next(settings.engines.rglob(message)).write_bytes(b"broken")
        refused = live.client.post("/v1/reload")
        assert_problem(refused, 409, message)
        assert f"version {version} keeps serving" in refused.json()["detail"]
        assert live.face(encoded(picture(1))) == before
        ready = live.client.get("/health/ready").json()
        assert ready["version"] == version
        assert ready["last_reload"] == f"refused: version {version} keeps serving"
        assert message in caplog.text


def test_keys_are_reloaded(settings: Settings) -> None:
    assert settings.keys is not None
    (fresh, key), (lost, lost_key) = new_key("new", "user"), new_key("lost", "user")
    own = settings.keys.read_text()
    settings.keys.write_text(f"{own}\n{lost_key.line()}")
    with serving(settings) as live:

        def status(secret: str) -> int:
            headers = {"Authorization": f"Bearer {secret}"}
            return live.client.get("/v1/experts", headers=headers).status_code

        assert [status(secret) for secret in (fresh, lost)] == [401, 200]
        settings.keys.write_text("malformed")
        authorize(live)
        assert_problem(live.client.post("/v1/reload"), 409, "line 1 is not a key")
        assert [status(secret) for secret in (fresh, lost)] == [401, 200]
        settings.keys.write_text(f"{own}\n{key.line()}")
        assert live.client.post("/v1/reload").status_code == 200
        assert [status(secret) for secret in (fresh, lost)] == [200, 401]


def test_requests_in_progress_finish_on_the_old_engines(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, begun = hold_predictions(monkeypatch)
    data = encoded(picture(1))
    with serving(settings) as live, ThreadPoolExecutor(1) as pool:
        authorize(live)
        before, old = live.face(data), live.server.service.current()
        going.clear()
        waiting = pool.submit(live.face, data)
        assert begun.acquire(timeout=30.0)
        monkeypatch.setattr("runtime.serving.generation._request_canary", lambda *_: None)
        engines_in(settings.engines, offset=10.0)
        assert live.client.post("/v1/reload").json()["version"] != old.version
        assert old.moe.stats().experts, "open while in use"
        with pytest.raises(ClosedError), old.in_use():
            pytest.fail("new requests are rejected")
        going.set()
        assert waiting.result(30.0) == before
        old.close()
        with pytest.raises(ClosedError):
            old.moe.predict(picture(1))


def test_one_reload_at_a_time(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, going = threading.Event(), threading.Event()

    def slow(_: object) -> bool:
        begun.set()
        return going.wait(30.0)

    with serving(settings) as live, ThreadPoolExecutor(1) as pool:
        authorize(live)
        monkeypatch.setattr("runtime.serving.generation._is_plausible", slow)
        first = pool.submit(live.client.post, "/v1/reload")
        assert begun.wait(30.0)
        assert_problem(live.client.post("/v1/reload"), 409, "Another reload is in progress")
        live.server._reloads.start()
        for _ in range(60):  # reloads by signals wait, and become one
            live.server._reloads.request(0, None)
        going.set()
        assert first.result(30.0).status_code == 200
        live.wait_for_metric('agemoe_reloads_total{outcome="taken"} 2.0')


def test_reloads_under_load_lose_and_mix_up_nothing(settings: Settings) -> None:
    faces = [encoded(picture(seed)) for seed in range(12)]
    stop = threading.Event()
    with serving(settings) as live:
        authorize(live)
        known = {live.server.service.current().version: [live.face(face) for face in faces]}
        answers: list[tuple[str, int, object]] = []

        def caller(seed: int) -> None:
            index = seed
            while not stop.is_set():
                index = (index + 5) % len(faces)
                ages = live.ages(faces[index]).json()
                answers.append((ages["version"], index, ages["images"][0]["faces"][0]))

        with ThreadPoolExecutor(6) as callers:
            running = [callers.submit(caller, seed) for seed in range(6)]
            for offset in (10.0, 20.0, 30.0):
                engines_in(settings.engines, offset=offset)
                version = live.client.post("/v1/reload").json()["version"]
                known[version] = [live.face(face) for face in faces]
            stop.set()
            for future in running:
                future.result(30.0)
    assert len(known) == 4
    assert {version for version, _, _ in answers} <= known.keys()
    assert all(known[version][index] == face for version, index, face in answers)
