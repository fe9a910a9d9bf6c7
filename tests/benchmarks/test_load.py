"""`python benchmarks/load.py` on tiny engines, and the outcomes of requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import load
from benchmarks.load_generator import (
    Tally,
    Target,
    closed_loop,
    open_loop,
    outcome_of,
    poisson,
)
from benchmarks.options import REFUSED, input_faces
from runtime import AgeEstimate, AgeMoE, DeadlineError, ExpertAge, ImageError
from tests.runtime.tiny_engines import Tiny, write_engines

SERIAL = AgeEstimate(35.0, {"a": ExpertAge(30.0, 30.0, 0.5), "b": ExpertAge(40.0, 40.0, 0.5)})


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    return write_engines(tmp_path / "engines", {"a": Tiny(), "b": Tiny(50.0, 10.0)})


@pytest.fixture
def target(engines: Path) -> Iterator[Target]:
    with AgeMoE(engines) as moe:
        yield Target(moe, input_faces(3))


def test_the_command(engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        *("--engines", str(engines), "--callers", "1", "3", "--rate", "20", "60"),
        *("--seconds", "0.3", "--max-batch", "4", "--json", str(tmp_path / "l.json")),
        *("--plot", str(tmp_path / "l.png")),
    ]
    assert load.main(arguments) == 0
    report = json.loads((tmp_path / "l.json").read_text(encoding="utf-8"))
    assert report["benchmark"] == "load"
    assert [point["callers"] for point in report["closed_loop"]] == [1, 3]
    assert {20.0, 60.0} <= {point["rate"] for point in report["open_loop"]}
    assert all(point["right"] for point in report["closed_loop"])
    assert not any(point["wrong"] for point in report["closed_loop"] + report["open_loop"])
    batched = report["micro_batching"]
    assert [(point["rate"], point["max_batch"]) for point in batched] == [
        *((20.0, 1), (20.0, 4), (60.0, 1), (60.0, 4))
    ]
    assert all(point["right"] + point["abandoned"] == point["requests"] for point in batched)
    assert {point["mean_batch"] for point in batched if point["max_batch"] == 1} == {1.0}
    assert (tmp_path / "l.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "saturation: keeps up with" in printed
    assert "batches up to 4" in printed


def test_a_deadline_that_no_request_meets_is_refused(
    engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--engines", str(engines), "--callers", "1", "--seconds", "0.1"]
    assert load.main([*arguments, "--deadline-ms", "0.001"]) == REFUSED
    assert "--deadline-ms" in capsys.readouterr().err


def test_answers_to_the_wrong_caller_are_noticed(target: Target) -> None:
    target.faces = target.faces[::-1]  # each caller now gets the answer of another face
    for tally in (closed_loop(target, 2, 0.1), open_loop(target, 50.0, 0.2, seed=0)):
        assert tally.wrong
    target.faces = target.faces[::-1]
    assert not closed_loop(target, 2, 0.1).wrong


def test_every_request_of_the_open_loop_is_counted(target: Target) -> None:
    tally = open_loop(target, 100.0, 0.3, seed=1)
    assert tally.requests == len(poisson(100.0, 0.3, 1))
    assert tally.answers == len(tally.latencies)


def test_latency_counts_from_the_arrival(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    answered: Future[AgeEstimate] = Future()
    answered.set_result(SERIAL)
    monkeypatch.setattr(target.moe, "submit", lambda *_, **__: answered)
    arrivals = poisson(50.0, 1.0, seed=0)
    tally = open_loop(target, 50.0, 1.0, seed=0)
    assert min(tally.latencies) >= 0.0
    assert np.median(tally.latencies) < np.median(arrivals) / 2  # not from the first arrival


def test_arrivals_are_a_poisson_process() -> None:
    times = np.array(poisson(50.0, 200.0, seed=0))
    gaps = np.diff(times)
    assert len(times) == 10_000  # exactly the rate
    assert len(poisson(0.1, 1.0, seed=0)) == 1
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # exponential gaps
    assert times.max() < 200.0
    assert poisson(50.0, 200.0, seed=0) == times.tolist()
    assert poisson(50.0, 200.0, seed=1) != times.tolist()


def test_outcomes() -> None:
    without_b = replace(SERIAL, age_years=30.0, experts={"a": SERIAL.experts["a"]})
    fewer = replace(without_b, missing={"b": "deadline"})
    assert outcome_of(SERIAL, SERIAL, 0.0) == "right"
    assert outcome_of(fewer, SERIAL, 0.0) == "degraded"
    assert outcome_of(replace(SERIAL, age_years=35.001), SERIAL, 0.0) == "wrong"
    assert outcome_of(replace(SERIAL, age_years=35.001), SERIAL, 0.01) == "right"
    assert outcome_of(DeadlineError({"a": "late"}), SERIAL, 0.0) == "late"
    assert outcome_of(ImageError("no picture"), SERIAL, 0.0) == "failed"
    broken = replace(without_b, missing={"b": "failed: RuntimeError: a fault"})
    assert outcome_of(broken, SERIAL, 0.0) == "failed"


def test_kept_up() -> None:
    assert Tally(1.0, right=100, backlog=5).kept_up
    assert not Tally(1.0, right=100, backlog=6).kept_up
    assert not Tally(1.0, right=100, late=10).kept_up
    assert not Tally(1.0, right=100, abandoned=10).kept_up


def test_tallies_can_be_added() -> None:
    both = Tally(1.0, [0.1], right=1, backlog=3) + Tally(2.0, [0.2], wrong=1, backlog=1)
    assert (both.seconds, both.answers, both.backlog) == (3.0, 2, 3)
    assert both.latencies == [0.1, 0.2]
    assert both.answers_per_second == pytest.approx(2 / 3)


def test_tally_without_answers_is_json() -> None:
    assert json.loads(json.dumps(Tally(1.0, late=3).as_json()))["latency"] is None


def test_saturation_lies_between_sustained_and_lost_rates() -> None:
    kept, lost = Tally(1.0, right=100), Tally(1.0, right=100, backlog=50)
    assert load._bounds({5.0: kept, 10.0: kept, 20.0: lost, 40.0: kept}) == (10.0, 20.0)
    assert load._bounds({5.0: kept}) == (5.0, None)
    assert load._bounds({5.0: lost}) == (None, 5.0)


def test_each_run_of_a_rate_has_its_own_arrivals(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []

    def noted(_: Target, __: float, ___: float, *, seed: int) -> Tally:
        seeds.append(seed)
        return Tally(1.0, right=1)

    monkeypatch.setattr(load, "open_loop", noted)
    load._open(target, [1.0, 2.0], 1.0)
    assert len(seeds) == len(set(seeds)) == 4
