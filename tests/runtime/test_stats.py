"""Counts and durations of an AgeMoE."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime import AgeMoE, Face, PredictionError
from runtime.backends import Times
from runtime.stats import BUCKETS_SECONDS, STAGES, Statistics
from tests.runtime.fakes import FakeSession, Hold, factory
from tests.runtime.tiny_engines import Tiny, write_engines

pytestmark = pytest.mark.usefixtures("no_thread_left")
GRAY = np.full((8, 8, 3), 90, np.uint8)


@pytest.fixture
def fakes() -> dict[str, FakeSession]:
    return {name: FakeSession() for name in "ab"}


@pytest.fixture
def moe(tmp_path: Path, fakes: dict[str, FakeSession]) -> Iterator[AgeMoE]:
    engines = write_engines(tmp_path, {name: Tiny(largest=4) for name in "ab"})
    with AgeMoE(engines, sessions=factory(fakes)) as opened:
        yield opened


def test_the_warm_up_is_not_counted(moe: AgeMoE) -> None:
    stats = moe.stats()
    assert (stats.estimates, stats.degraded, stats.refused) == (0, 0, 0)
    assert all(stats.stages[stage].count == 0 for stage in STAGES)
    assert all(expert.answers == expert.execute.count == 0 for expert in stats.experts.values())


def test_every_stage_and_face_is_counted(moe: AgeMoE) -> None:
    faces: list[Face] = [Face(GRAY, (0, 0, 4, 4)), Face(b"no picture"), *[Face(GRAY)] * 5]
    moe.predict(faces)
    stats = moe.stats()
    assert (stats.estimates, stats.degraded, stats.refused) == (6, 0, 1)
    counts = {stage: stats.stages[stage].count for stage in STAGES}
    # one shared picture and one invalid one: two are decoded, two are cropped
    assert counts == {"decode": 2, "geometry": 2, "stack": 1, "experts": 1, "fuse": 1}
    for expert in stats.experts.values():
        assert (expert.answers, expert.late, expert.failed) == (6, 0, 0)
        assert expert.execute.count == 2  # six faces in batches of four


def test_late_and_failed_experts_are_counted(moe: AgeMoE, fakes: dict[str, FakeSession]) -> None:
    hold = Hold()
    hold.holding = True
    fakes["a"].answer = hold
    moe.predict([GRAY, GRAY], deadline_ms=200)
    hold.released.set()
    fakes["a"].answer = fakes["b"].answer = lambda _: {}
    with pytest.raises(PredictionError):
        moe.predict(GRAY)
    stats = moe.stats()
    a, b = stats.experts["a"], stats.experts["b"]
    assert (a.answers, a.late, a.failed) == (0, 2, 1)
    assert (b.answers, b.late, b.failed) == (2, 0, 1)
    assert (stats.estimates, stats.degraded, stats.refused) == (2, 2, 1)


def test_quantiles_cover_the_latest_and_sums_cover_all() -> None:
    statistics = Statistics("a")
    for millisecond in range(3000):
        statistics.answered("a", 1, Times(queue=0.5, execute=millisecond / 1000))
    execute = statistics.snapshot().experts["a"].execute
    assert execute.count == 3000
    assert execute.total_seconds == pytest.approx(sum(range(3000)) / 1000)
    latest = np.arange(3000 - 1024, 3000) / 1000
    assert execute.p50_seconds == pytest.approx(np.median(latest), abs=0.001)
    assert execute.p99_seconds == pytest.approx(np.quantile(latest, 0.99), abs=0.001)
    assert execute.max_seconds == latest[-1]


def test_durations_are_counted_by_bucket() -> None:
    statistics = Statistics("a")
    for seconds in (0.0005, 0.001, 0.0011, 0.3, 100.0):
        statistics.answered("a", 1, Times(execute=seconds))
    execute = statistics.snapshot().experts["a"].execute
    counted = dict(zip(BUCKETS_SECONDS, execute.at_most, strict=True))
    assert (counted[0.001], counted[0.0025], counted[0.25], counted[0.5]) == (2, 3, 3, 4)
    assert (counted[30.0], execute.count) == (4, 5)
