"""Concurrent callers get the results of a serial run."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from runtime import AgeMoEError, Face
from runtime.photographs import predict_photo
from runtime.serving.generation import PAGE
from runtime.serving.problems import problem_of
from runtime.serving.settings import Limits, Settings
from tests.serving.live import NO_TLS, Live, base64_of, encoded, engines_in, picture, serving

CALLERS = 32
FAMILY = (PAGE / "examples" / "family.jpg").read_bytes()
PICTURES = [
    encoded(picture(seed, width=12 + seed % 9), ("PNG", "JPEG", "WEBP")[seed % 3])
    for seed in range(40)
]
BOXES = [[0, 0, 8, 8], [2, 3, 9, 10], [5, 1, 7, 15]]

Kind = tuple[str, int]
"""The kind of a request and the index of its picture."""


@pytest.mark.parametrize("requests", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mixed_requests_from_many_callers(tmp_path: Path, requests: int) -> None:
    settings = Settings(engines_in(tmp_path / "engines"), limits=Limits(requests=CALLERS))
    with serving(settings) as live:
        expected = serial(live)
        kinds = list(expected)

        def caller(seed: int) -> int:
            rng = random.Random(seed)
            with httpx.Client(base_url=live.url, timeout=120.0, verify=NO_TLS) as client:
                for _ in range(requests // CALLERS + (seed < requests % CALLERS)):
                    kind = rng.choice(kinds)
                    assert send(client, kind, as_form=rng.random() < 0.5) == expected[kind], kind
            return 1

        with ThreadPoolExecutor(CALLERS) as callers:
            assert sum(callers.map(caller, range(CALLERS))) == CALLERS
        text = live.client.get("/metrics").text
    counted = [
        float(line.split()[-1])
        for line in text.splitlines()
        if line.startswith('agemoe_requests_total{route="/v1/ages"')
    ]
    assert sum(counted) == requests


def serial(live: Live) -> dict[Kind, tuple[int, Any]]:
    """Returns the expected status and result of each kind of request, from a serial run."""
    moe, expected = live.moe, {}
    for index, data in enumerate(PICTURES):
        expected["whole", index] = (200, [[moe.predict(data).to_dict()]])
        box = tuple(map(float, BOXES[index % 3]))
        found = moe.predict(Face(data, box, (0.0, 0.0, 12.0, 16.0)))  # type: ignore[arg-type]
        expected["boxed", index] = (200, [[found.to_dict()]])
        second = moe.predict(PICTURES[index - 1])
        expected["pair", index] = (200, [[moe.predict(data).to_dict()], [second.to_dict()]])
    family = [face.estimate for face in predict_photo(moe, FAMILY)]
    expected["photo", 0] = (200, [[estimate.to_dict() for estimate in family if estimate]])
    for index in range(4):
        try:
            moe.predict(PICTURES[index][: 20 + index])
        except AgeMoEError as error:
            expected["broken", index] = (422, problem_of(error).to_dict()["detail"])
    return expected


def send(client: httpx.Client, kind: Kind, *, as_form: bool) -> tuple[int, Any]:
    name, index = kind
    images = {
        "whole": [PICTURES[index]],
        "boxed": [PICTURES[index]],
        "pair": [PICTURES[index], PICTURES[index - 1]],
        "photo": [FAMILY],
        "broken": [PICTURES[index][: 20 + index]],
    }[name]
    options: dict[str, Any] = {"detect": name == "photo"}
    if name == "boxed":
        options |= {"boxes": [[BOXES[index % 3]]], "person_boxes": [[[0, 0, 12, 16]]]}
    if as_form:
        data = {key: str(value).lower() for key, value in options.items()}
        response = client.post("/v1/ages", files=[("image", i) for i in images], data=data)
    else:
        body = {"images": [base64_of(image) for image in images], **options}
        response = client.post("/v1/ages", json=body)
    answer = response.json()
    if response.status_code != 200:
        return response.status_code, answer["detail"]
    return 200, [[face["estimate"] for face in image["faces"]] for image in answer["images"]]
