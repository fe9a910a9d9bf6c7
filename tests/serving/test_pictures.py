"""Slow pictures, the memory that requests share, and the default deadline, through HTTP."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from runtime import ImageLimits
from runtime.decoding import DecoderPool, job, pool
from runtime.detection import Detection
from runtime.geometry import Pixels
from runtime.images import picture_cost
from runtime.search_limit import SearchLimit
from runtime.serving.settings import Limits, Settings
from tests.runtime.decoders import fake_decoders
from tests.serving.live import (
    NO_TLS,
    Live,
    assert_problem,
    base64_of,
    encoded,
    engines_in,
    picture,
    serving,
    wait_for,
)

SLOW = "import sys, time; print('ready', flush=True)\nif sys.stdin.buffer.read(1): time.sleep(600)"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(engines_in(tmp_path / "engines"), decoders=1)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the next processes accept a picture and never answer."""
    monkeypatch.setattr(pool, "_GRACE", 0.0)
    return partial(fake_decoders, monkeypatch, SLOW)


class Held:
    """Holds the decoding of pictures."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Semaphore(0)
        self.going = threading.Event()
        self.least_bytes = 0
        """Smaller pictures are not held."""
        decode = DecoderPool.decode_costed

        def held(decoders: DecoderPool, data: bytes, *rest: Any) -> Any:
            if len(data) >= self.least_bytes:
                self.begun.release()
                assert self.going.wait(30.0)
            return decode(decoders, data, *rest)

        monkeypatch.setattr(DecoderPool, "decode_costed", held)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Holds the decoding of pictures until `going` is set."""
    holding = Held(monkeypatch)
    yield holding
    holding.going.set()


def used_bytes(live: Live) -> int:
    return live.server.service._pipeline._pictures.budget.used


def test_a_deadline_ends_the_decoding_of_slow_pictures(
    settings: Settings, slow: Callable[..., None]
) -> None:
    slow(times=3)
    limits = Limits(decode_seconds=600.0)
    with serving(Settings(settings.engines, decoders=3, limits=limits)) as live:
        with ThreadPoolExecutor(3) as threads:
            sent = [
                threads.submit(live.ages, encoded(picture(n)), deadline_ms=200) for n in range(3)
            ]
            for answer in sent:
                assert_problem(answer.result(30.0), 504, "The deadline of 200 ms cannot be met")
        assert live.ages(encoded(picture(1))).status_code == 200
        live.wait_for_metric('agemoe_decoders_ended_total{reason="deadline"} 3.0')
        live.wait_for_metric('agemoe_decode_bytes{kind="used"} 0.0')


def test_a_picture_over_the_time_limit_is_refused(
    settings: Settings, slow: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_CLOCK_SPARE_SECONDS", 0.0)
    slow(times=1)
    with serving(
        Settings(settings.engines, decoders=1, limits=Limits(decode_seconds=0.01))
    ) as live:
        refused = live.ages(encoded(picture(1)))
        assert_problem(refused, 422, "takes longer than 0.01 s to decode")
        live.wait_for_metric('agemoe_decoders_ended_total{reason="time"} 1.0')
        assert used_bytes(live) == 0
        assert live.client.get("/health/ready").status_code == 200


def test_pictures_of_a_request_share_the_time_for_decoding(
    settings: Settings, slow: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first picture uses all of it, so that no process begins with the others."""
    monkeypatch.setattr(pool, "_CLOCK_SPARE_SECONDS", 0.0)
    slow(times=1)
    limits = Limits(decode_seconds=0.01)
    with serving(Settings(settings.engines, decoders=1, limits=limits)) as live:
        pictures = [base64_of(encoded(picture(n))) for n in range(3)]
        answer = live.client.post("/v1/ages", json={"images": pictures, "detect": False}).json()
        reasons = [image["problem"]["detail"] for image in answer["images"]]
        assert "The picture takes longer than 0.01 s" in reasons[0]
        assert all("request's pictures together take longer" in text for text in reasons[1:])
        live.wait_for_metric('agemoe_decoders_ended_total{reason="time"} 1.0')


def test_the_detector_of_a_request_is_limited(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting:
        provenance = "counting"

        def __init__(self, limit: SearchLimit | None = None) -> None:
            self.limit = limit

        def limited_to(self, limit: SearchLimit) -> Counting:
            return Counting(limit)

        def detect(self, image: Pixels) -> list[Detection]:
            assert self.limit is not None
            assert image.size
            self.limit.take(400)
            return []

    with serving(Settings(settings.engines, limits=Limits(search_pixels=1000))) as live:
        generation = live.server.service.current()
        monkeypatch.setattr(type(generation.moe), "detector", property(lambda _: Counting()))
        pictures = [base64_of(encoded(picture(n))) for n in range(5)]
        boxes: list[list[list[float]] | None] = [None, None, None, None, []]
        for _ in range(2):  # each request begins anew
            body = {"images": pictures, "boxes": boxes}
            images = live.client.post("/v1/ages", json=body).json()["images"]
            reasons = [image["problem"] and image["problem"]["detail"] for image in images]
            assert [reason is None for reason in reasons] == [True, True, False, False, True]
            assert "look at more than 1,000 pixels" in reasons[2]
            assert reasons[3] == reasons[2]
            decoded = [image["width"] is not None for image in images]
            assert decoded == [True, True, True, False, True], "nor is the next one decoded"


def test_a_request_without_a_deadline_gets_the_limit_and_a_later_one_is_cut(
    settings: Settings, slow: Callable[..., None]
) -> None:
    slow(times=2)
    limits = Limits(decode_seconds=600.0, deadline_ms=100.0)
    with serving(Settings(settings.engines, decoders=2, limits=limits)) as live:
        for options in ({}, {"deadline_ms": 60_000.0}):
            refused = live.ages(encoded(picture(1)), **options)
            assert_problem(refused, 504, "The deadline of 100 ms cannot be met")
        wait_for(lambda: used_bytes(live) == 0)


def test_requests_wait_for_memory_and_are_refused_as_busy(settings: Settings, held: Held) -> None:
    data = encoded(picture(1))
    needed = job.memory_bytes(picture_cost(data, ImageLimits()))
    limits = Limits(decode_bytes=needed)
    with (
        serving(Settings(settings.engines, decoders=1, limits=limits)) as live,
        ThreadPoolExecutor(2) as threads,
    ):
        first = threads.submit(live.ages, data)
        assert held.begun.acquire(timeout=30.0)
        assert used_bytes(live) == needed
        busy = live.ages(data, deadline_ms=20)
        assert_problem(busy, 503, f"use the memory for decoding, {needed:,} bytes")
        assert busy.headers["retry-after"] == "1"
        second = threads.submit(live.ages, data)
        wait_for(lambda: live.server.service._pipeline._pictures.budget.waiting == 1)
        held.going.set()
        assert [f.result(30.0).status_code for f in (first, second)] == [200, 200]
        wait_for(lambda: used_bytes(live) == 0)


def test_small_requests_do_not_wait_behind_large_ones(settings: Settings, held: Held) -> None:
    large, small = encoded(picture(1, width=600, height=600)), encoded(picture(2))
    held.least_bytes = len(large)
    needed = job.memory_bytes(picture_cost(small, ImageLimits()))
    limits = Limits(decode_bytes=8 * needed)
    with (
        serving(Settings(settings.engines, decoders=1, limits=limits)) as live,
        ThreadPoolExecutor(2) as threads,
    ):
        sent = [threads.submit(live.ages, large) for _ in range(2)]
        assert held.begun.acquire(timeout=30.0)
        wait_for(lambda: live.server.service._pipeline._pictures.budget.waiting == 1)
        assert live.ages(small).status_code == 200
        held.going.set()
        assert [f.result(30.0).status_code for f in sent] == [200, 200]
        wait_for(lambda: used_bytes(live) == 0)


def test_clients_that_leave_give_their_memory_back_when_the_work_ends(
    settings: Settings, held: Held
) -> None:
    body = {"images": [base64_of(encoded(picture(1)))], "detect": False}

    async def leave(live: Live) -> None:
        async with httpx.AsyncClient(base_url=live.url, verify=NO_TLS) as client:
            sent = asyncio.create_task(client.post("/v1/ages", json=body))
            await asyncio.to_thread(held.begun.acquire, timeout=30.0)
            sent.cancel()
            await asyncio.gather(sent, return_exceptions=True)

    with serving(settings) as live:
        asyncio.run(leave(live))
        live.wait_for_metric('agemoe_refused_total{problem="client-gone"} 1.0')
        assert used_bytes(live) > 0, "a thread still decodes"
        held.going.set()
        wait_for(lambda: used_bytes(live) == 0)


def test_a_request_that_fails_gives_its_memory_back(settings: Settings) -> None:
    with serving(settings) as live:
        for body in ((encoded(picture(1))[:90],), (b"x",), (encoded(picture(1)), b"x")):
            live.ages(*body, boxes=[[[900, 900, 50, 50]]] + [None] * (len(body) - 1))
            assert used_bytes(live) == 0


@pytest.mark.parametrize("options", [{"decoders": 0}, {"decoders": -1}])
def test_a_decoder_is_needed(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="At least one decoder"):
        Settings(**options)  # type: ignore[arg-type]
