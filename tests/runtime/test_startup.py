"""The choice between lanes and a sequence."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from runtime import AgeMoE
from runtime.backends import ExpertVariant, Session, Views
from runtime.errors import BackendError
from runtime.geometry import Geometry
from runtime.manifest import InputSpec
from runtime.startup import fastest_mode
from tests.runtime.fakes import FakeSession
from tests.runtime.tiny_engines import Tiny, write_engines

VIEWS: Views = {InputSpec("face", 2, 2, Geometry()): np.zeros((1, 2, 2, 3), np.uint8)}


class Paced:
    """An executor whose modes take a given number of seconds."""

    def __init__(self, **seconds: float) -> None:
        self.mode = "lanes"
        self.seconds = seconds
        self.runs = 0

    def run(self, views: Views) -> None:
        del views
        self.runs += 1
        time.sleep(self.seconds[self.mode])


@pytest.mark.parametrize(
    ("lanes", "sequence", "chosen"),
    [(0.02, 0.005, "sequence"), (0.005, 0.02, "lanes"), (0.6, 0.0, "lanes")],
    ids=["sequence is faster", "lanes are faster", "too slow to tell"],
)
def test_the_faster_mode_is_chosen(lanes: float, sequence: float, chosen: str) -> None:
    executor = Paced(lanes=lanes, sequence=sequence)
    assert fastest_mode(executor, VIEWS) == chosen  # type: ignore[arg-type]
    assert executor.runs <= 18


@pytest.mark.parametrize(
    ("lanes", "sequence", "chosen", "runs"),
    [(0.15, 0.2, "lanes", 2), (0.2, 0.15, "sequence", 6), (0.01, 0.011, "lanes", 10)],
    ids=["slow and told at once", "slow, but a sequence is faster", "quick"],
)
def test_modes_are_measured_no_longer_than_needed(
    monkeypatch: pytest.MonkeyPatch, lanes: float, sequence: float, chosen: str, runs: int
) -> None:
    executor, now = Paced(lanes=lanes, sequence=sequence), [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("time.sleep", sleep)
    assert fastest_mode(executor, VIEWS) == chosen  # type: ignore[arg-type]
    assert executor.runs == runs


@pytest.mark.parametrize("concurrency", ["lanes", "sequence"])
def test_the_requested_mode_is_used_and_changes_no_estimate(
    tmp_path: Path, concurrency: str
) -> None:
    engines = write_engines(tmp_path, {"a": Tiny(largest=2), "b": Tiny(slope=50.0)})
    faces = [np.full((8, 8, 3), value, np.uint8) for value in range(0, 250, 50)]
    with AgeMoE(engines, concurrency=concurrency) as moe, AgeMoE(engines) as other:
        assert moe.concurrency == concurrency
        assert moe.predict(faces) == other.predict(faces)


def test_an_unknown_mode_is_rejected(tmp_path: Path) -> None:
    engines = write_engines(tmp_path, {"a": Tiny()})
    with pytest.raises(
        ValueError, match="concurrency='parallel' was requested; there are auto, lanes and"
    ):
        AgeMoE(engines, concurrency="parallel")


def test_the_mode_can_be_changed_later(tmp_path: Path) -> None:
    with AgeMoE(write_engines(tmp_path, {"a": Tiny()}), concurrency="lanes") as moe:
        moe.concurrency = "sequence"
        assert moe.concurrency == "sequence"
        with pytest.raises(ValueError, match="there are lanes and sequence"):
            moe.concurrency = "auto"


@pytest.mark.usefixtures("no_thread_left")
def test_experts_on_the_cpu_open_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.backends.fallback.usable_cores", lambda: 2)
    engines = write_engines(tmp_path, {"a": Tiny(), "b": Tiny()})
    sessions, both = {name: FakeSession() for name in "ab"}, threading.Barrier(2)

    def open_session(variant: ExpertVariant) -> Session:
        both.wait(timeout=30)  # broken if one opens after the other
        return sessions[variant.name]

    with AgeMoE(engines, sessions=open_session) as moe:
        assert moe.backends == {"a": "fake", "b": "fake"}


@pytest.mark.usefixtures("no_thread_left")
def test_the_first_expert_in_order_that_fails_is_reported(tmp_path: Path) -> None:
    engines = write_engines(tmp_path, {"a": Tiny(), "b": Tiny()})

    def open_session(variant: ExpertVariant) -> Session:
        raise BackendError(f"{variant.name} cannot be opened")

    with pytest.raises(BackendError, match=r"^a cannot be opened$"):
        AgeMoE(engines, sessions=open_session)
