"""Access control, limits, health, metrics and privacy of the service."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import httpx
import numpy as np
import pytest

from runtime import AgeMoE, AgeMoEError, CudaError, PredictionError
from runtime.serving import generation
from runtime.serving.generation import Generation
from runtime.serving.gpu_memory import GpuGauge
from runtime.serving.keys import new_key
from runtime.serving.settings import Batching, Limits, Settings
from tests.runtime.tiny_engines import Tiny, write_engines
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
def engines(tmp_path: Path) -> Path:
    return engines_in(tmp_path / "engines")


def test_keys_are_required(engines: Path, tmp_path: Path) -> None:
    user, user_key = new_key("app", "user")
    admin, admin_key = new_key("ops", "admin")
    file = tmp_path / "keys"
    file.write_text(f"# keys\n{user_key.line()}\n{admin_key.line()}  # comment\n")
    with serving(Settings(engines, keys=file)) as live:

        def status(method: str, path: str, key: str | None) -> int:
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            return live.client.request(method, path, headers=headers).status_code

        for path in ("/", "/health/live", "/health/ready", "/openapi.json"):
            assert status("GET", path, None) == 200
        for method, path in (("GET", "/v1/experts"), ("GET", "/metrics"), ("POST", "/v1/reload")):
            assert [status(method, path, key) for key in (None, "no", user + "x")] == [401] * 3
        assert status("POST", "/v1/ages", None) == 401
        assert [status("GET", "/metrics", key) for key in (user, admin)] == [200, 200]
        assert [status("POST", "/v1/reload", key) for key in (user, admin)] == [403, 200]
        refused = live.client.get("/v1/experts")
        assert_problem(refused, 401, "Authorization: Bearer KEY")
        assert refused.headers["www-authenticate"] == "Bearer"


def test_limits_are_enforced(engines: Path) -> None:
    limits = Limits(body_bytes=4000, image_bytes=2000, pixels=900, images=3, faces=2)
    with serving(Settings(engines, limits=limits)) as live:
        small, wide = (
            encoded(np.zeros((8, 8, 3), np.uint8)),
            encoded(np.zeros((31, 30, 3), np.uint8)),
        )
        assert live.ages(small).status_code == 200
        assert_problem(live.ages(small, small, small, small), 422, "4 pictures, more than 3")
        assert_problem(live.ages(small, small, small), 422, "3 faces, more than 2")
        assert_problem(live.ages(wide), 413, "30×31 pixels, more than 900")
        large = encoded(np.zeros((20, 25, 3), np.uint8))
        entries = live.ages(small, large, large, boxes=[None, [[0, 0, 9, 9]], None]).json()[
            "images"
        ]
        assert [image["problem"] is None for image in entries] == [True, True, False]
        assert entries[2]["problem"]["detail"].startswith(
            "The picture has 25×20 pixels, more than 336"
        )
        assert_problem(live.ages(bytes(2001)), 413, "more than 2,000 bytes")
        assert_problem(live.ages(bytes(4000)), 413, "The request has more than 4,000 bytes")
        chunks = (bytes(1000) for _ in range(5))  # of no declared length
        answer = live.client.post(
            "/v1/ages", content=chunks, headers={"Content-Type": "application/json"}
        )
        assert_problem(answer, 413, "more than 4,000 bytes")


def test_requests_over_the_limit_are_rejected_at_once(
    engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, begun = hold_predictions(monkeypatch)
    with (
        serving(Settings(engines, limits=Limits(requests=2))) as live,
        ThreadPoolExecutor(2) as pool,
    ):
        going.clear()
        waiting = [pool.submit(live.ages, encoded(picture(n))) for n in range(2)]
        assert begun.acquire(timeout=30.0)
        live.wait_for_metric("agemoe_requests_under_way 2.0")
        refused = live.ages(encoded(picture(3)))
        assert_problem(refused, 503, "2 requests are in progress")
        assert refused.headers["retry-after"] == "1"
        going.set()
        assert [future.result(30.0).status_code for future in waiting] == [200, 200]


def test_a_full_queue_is_a_problem(engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    going, begun = hold_predictions(monkeypatch)
    settings = Settings(
        engines, limits=Limits(faces=2), batching=Batching(1, 0.0, queue_limit=2, workers=1)
    )
    with serving(settings) as live, ThreadPoolExecutor(2) as pool:
        going.clear()
        first = pool.submit(live.ages, encoded(picture(1)))
        assert begun.acquire(timeout=30.0)
        second = pool.submit(live.ages, encoded(picture(2)))
        live.wait_for_metric("agemoe_queue_faces 1.0")
        assert_problem(live.ages(encoded(picture(3)), encoded(picture(4))), 503, "queue is full")
        going.set()
        assert [f.result(30.0).status_code for f in (first, second)] == [200, 200]


def test_readiness_reflects_the_engines(engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Settings(engines)) as live:
        assert live.client.get("/health/ready").status_code == 200

        def failing(*_: Any) -> Any:
            raise PredictionError({"a": "the GPU is lost"})

        with monkeypatch.context() as patched:
            patched.setattr(AgeMoE, "_predict", failing)
            assert live.client.get("/health/ready").status_code == 200, "a recent success"
            assert_problem(live.ages(encoded(picture(1))), 500, "the GPU is lost")
            assert_problem(live.client.get("/health/ready"), 503, "the GPU is lost")
        assert live.client.get("/health/ready").status_code == 200
        live.server.service.draining = True
        assert_problem(live.client.get("/health/ready"), 503, "shutting down")


def test_unexpected_errors_are_not_exposed(
    engines: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise KeyError("a secret")

    with serving(Settings(engines)) as live:
        monkeypatch.setattr("runtime.serving.service.photo_json", failing)
        answer = live.ages(encoded(picture(1)))
    assert_problem(answer, 500, "An unexpected error occurred")
    assert "secret" not in answer.text
    assert "a secret" in caplog.text


def test_placeholder_weights_are_announced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engines = engines_in(tmp_path / "engines", kind="demo")
    with caplog.at_level(logging.WARNING, "agemoe"), serving(Settings(engines)) as live:
        assert live.client.get("/v1/experts").json()["stand_ins"] == {"a": "demo"}
        assert live.ages(encoded(picture(1))).json()["stand_ins"] == {"a": "demo"}
    assert "a: demo experts" in caplog.text


@pytest.mark.parametrize("send", ["form", "json", "broken"])
def test_no_picture_is_stored_or_logged(
    engines: Path,
    send: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("a temporary file was created")

    for name in ("TemporaryFile", "NamedTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, refused)
    data = encoded(picture(7, width=1100, height=700))
    assert len(data) > 1 << 20, "large enough to be spooled to a file by default"
    sent: dict[str, Callable[[Live], httpx.Response]] = {
        "form": lambda live: live.client.post(
            "/v1/ages", files=[("image", ("my-name.png", data))], data={"detect": "false"}
        ),
        "json": lambda live: live.ages(data),
        "broken": lambda live: live.ages(data[: len(data) // 2]),
    }
    with caplog.at_level(logging.DEBUG), serving(Settings(engines)) as live:
        assert sent[send](live).status_code == (422 if send == "broken" else 200)
    for trace in ("my-name", "PNG\\r", "iVBOR", str(data[100:110])):
        assert trace not in caplog.text


def test_engines_that_fail_the_canary_request_are_not_served(
    engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "_is_plausible", lambda _: False)
    with pytest.raises(Exception, match="failed the canary request"):
        Generation(Settings(engines), lambda *_: None)


@pytest.mark.parametrize("others", [{}, {"b": Tiny()}])
@pytest.mark.haar
def test_an_expert_without_an_age_for_the_canary_image_is_served(
    tmp_path: Path, others: dict[str, Tiny]
) -> None:
    silent = Tiny(nan_above=0.0, no_answer="it said unknown")
    engines = write_engines(tmp_path, {"a": silent, **others})
    Generation(Settings(engines), lambda *_: None).close()
    write_engines(tmp_path, {"a": replace(silent, no_answer=None), **others})
    with pytest.raises(AgeMoEError, match="predicted nan years"):
        Generation(Settings(tmp_path), lambda *_: None)


@pytest.mark.parametrize(("backend", "device"), [("onnx-cuda", "cuda:1"), ("tensorrt", "auto")])
def test_gpu_memory_is_read_from_the_experts_gpu(
    backend: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = MagicMock()
    opened.free_bytes.return_value = 30
    opened.properties.total_bytes = 100
    chosen: list[int] = []

    def open_cuda(ordinal: int) -> MagicMock:
        chosen.append(ordinal)
        return opened

    monkeypatch.setattr("runtime.backends.gpu.cuda_library.open_cuda", open_cuda)
    gauge = GpuGauge(device, ["onnx-cpu", backend])
    assert gauge.read() == (70, 100)
    opened.free_bytes.side_effect = CudaError("asking", "CUDA_ERROR_UNKNOWN", "unknown")
    assert gauge.read() is None
    gauge.close()
    opened.close.assert_called_once_with()
    assert chosen == [device.endswith("1")]
    assert GpuGauge(device, ["onnx-cpu"]).read() is None


def test_contradictory_limits_are_rejected(engines: Path) -> None:
    with pytest.raises(ValueError, match="64 faces, but the queue holds only 63"):
        Settings(engines, batching=Batching(queue_limit=63))
    with pytest.raises(ValueError, match="these are not: pixels, body_seconds"):
        Limits(pixels=0, body_seconds=-1.0)
    with pytest.raises(ValueError, match="workers must be positive"):
        Generation(Settings(engines, batching=Batching(workers=0)), lambda *_: None)
