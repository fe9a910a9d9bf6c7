"""The service on a cluster: a node is killed and the engines are replaced."""

from __future__ import annotations

import base64
import io
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from runtime import AgeMoE
from tests.runtime.tiny_engines import Tiny, write_engines
from tests.serving.live import NO_TLS, wait_for
from tests.serving.ray_cluster import HEAD_ONLY, SmallCluster, small_cluster

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

PORT = 18231
LEVELS = range(0, 250, 10)
CALLERS = 8
LATER_YEARS = 10.0
"""Difference between the ages of the two sets of engines."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Returns the folders of two sets of engines."""
    return [
        write_engines(
            tmp_path_factory.mktemp("engines"),
            {"a": Tiny(slope=60.0, offset=more), "b": Tiny(slope=30.0, side=16, offset=more)},
        )
        for more in (0.0, LATER_YEARS)
    ]


@pytest.fixture(scope="module")
def cluster(folders: list[Path]) -> Iterator[SmallCluster]:
    import ray
    from ray import serve

    with small_cluster(workers=2) as nodes:
        ray.init(address=nodes.address, log_to_driver=False)
        serve.start(proxy_location="HeadOnly", http_options={"port": PORT})
        deploy(folders[0])
        yield nodes
        serve.shutdown()
        ray.shutdown()


def deploy(engines: Path, surge: int = 0, attempts: int = 20) -> None:
    """Deploys two replicas, one per worker, and the ingress on the head."""
    from ray import serve

    from runtime.serving.ray_app import AgeService, Ingress
    from runtime.serving.settings import Settings

    settings = Settings(engines=engines, device="cpu")
    replicas = serve.deployment(
        num_replicas=2,
        ray_actor_options={"num_cpus": 1},
        health_check_period_s=1.0,
        max_surge_percent=surge,
        max_constructor_retry_count=attempts,
    )
    ingress = serve.deployment(ray_actor_options={"num_cpus": 0, "resources": {HEAD_ONLY: 0.1}})
    serve.run(ingress(Ingress).bind(replicas(AgeService).bind(settings), settings), name="ages")


def picture(level: int) -> NDArray[np.uint8]:
    return np.full((20, 20, 3), level, np.uint8)


def body(level: int) -> bytes:
    image = io.BytesIO()
    Image.fromarray(picture(level)).save(image, "PNG")
    encoded = base64.b64encode(image.getvalue()).decode()
    return json.dumps({"images": [encoded], "boxes": [[[0, 0, 20, 20]]]}).encode()


def request_age(level: int) -> float:
    """Returns the age of a picture over HTTP; raises on any status but 200."""
    sent = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v1/ages", body(level), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(sent, timeout=60) as answer:  # noqa: S310 - to ourselves
        (image,) = json.load(answer)["images"]
    age: float = image["faces"][0]["estimate"]["age_years"]
    return age


def serial(engines: Path) -> dict[int, float]:
    """Returns the ages of a single process."""
    with AgeMoE(engines, device="cpu") as moe:
        return {level: moe.predict(picture(level)).age_years for level in LEVELS}


def request_all(rounds: int, meanwhile: Callable[[], None]) -> list[tuple[int, float]]:
    """Sends concurrent requests and calls `meanwhile` once they have started."""
    levels = [*LEVELS] * rounds
    begun = threading.Event()

    def send(level: int) -> tuple[int, float]:
        begun.set()
        return level, request_age(level)

    with ThreadPoolExecutor(CALLERS) as pool:
        answers = pool.map(send, levels)
        assert begun.wait(30)
        meanwhile()
        return list(answers)


@pytest.mark.usefixtures("cluster")
def test_a_request_keeps_its_id() -> None:
    for given in ({}, {"X-Request-ID": "mine"}):
        for path in ("/nowhere", "/v1/reload"):  # a problem of a replica, and one of the ingress
            url = f"http://127.0.0.1:{PORT}{path}"
            answer = httpx.get(url, headers=given, verify=NO_TLS, timeout=60.0)
            (found,) = answer.headers.get_list("X-Request-ID")
            assert answer.json()["request_id"] == found
            assert found == given.get("X-Request-ID", found)


def test_a_killed_node_loses_no_request(cluster: SmallCluster, folders: list[Path]) -> None:
    expected = serial(folders[0])
    answers = request_all(10, cluster.kill_worker)
    assert len(answers) == 10 * len(LEVELS)
    assert all(age == expected[level] for level, age in answers)
    cluster.add_worker()
    wait_until_running()


def wait_until_running() -> None:
    from ray import serve

    wait_for(lambda: serve.status().applications["ages"].status == "RUNNING", 60.0)


def test_new_engines_are_rolled_out_without_a_rejection(
    cluster: SmallCluster, folders: list[Path]
) -> None:
    del cluster
    before, after = map(serial, folders)
    rolled = threading.Event()
    answers: list[tuple[int, float]] = []

    def keep_requesting(level: int) -> None:
        while not rolled.is_set():
            answers.append((level, request_age(level)))

    with ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(keep_requesting, level) for level in [*LEVELS][:CALLERS]]
        deploy(folders[1])
        rolled.set()
        for caller in callers:
            caller.result()
    assert all(age in (before[level], after[level]) for level, age in answers)
    assert any(age == before[level] for level, age in answers)
    assert all(request_age(level) == after[level] for level in [*LEVELS][:4])


def test_broken_engines_remove_no_replica(
    cluster: SmallCluster, folders: list[Path], tmp_path: Path
) -> None:
    from ray import serve

    cluster.add_worker()  # resources for the extra replica of `max_surge_percent`
    deploy(folders[0], surge=50)
    with pytest.raises(RuntimeError, match="ages"):
        deploy(tmp_path, surge=50, attempts=1)
    states = serve.status().applications["ages"].deployments["AgeService"].replica_states
    assert {str(state): count for state, count in states.items()}["RUNNING"] == 2
    expected = serial(folders[0])
    assert all(age == expected[level] for level, age in request_all(2, lambda: None))
