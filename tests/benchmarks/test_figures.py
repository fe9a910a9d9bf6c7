"""From laps to figures, on laps that were made up."""

from __future__ import annotations

import json
from typing import Any, cast

import numpy as np
import pytest

from benchmarks.figures import LANES, SEQUENCE, YARDSTICK, batch_figures, overlap
from benchmarks.subjects import Lap
from benchmarks.text import milliseconds, table

ARCHITECTURES = {"vgg16": "vgg16", "big": "janus"}


def lap(vgg16: float, big: float, experts: float, decode: float = 0.002) -> Lap:
    stages = {"decode": decode, "geometry": 0.001, "stack": 0.0, "experts": experts, "fuse": 0.0005}
    ages = {"vgg16": (30.0, 40.0), "big": (31.0, 41.0)}
    copied = {"vgg16": 0.001, "big": 0.0}
    seconds = sum(stages.values()) + 0.0002
    return Lap(seconds, stages, {"vgg16": vgg16, "big": big}, copied, ages)


def figures() -> dict[str, Any]:
    rounds = range(12)
    other = Lap(0.9, {}, {"vgg16": 0.2, "big": 0.7}, ages={"vgg16": (30.5, 40.0)})
    laps = {
        YARDSTICK: [Lap(0.01, {}, {}) for _ in rounds],
        SEQUENCE: [lap(0.1, 0.3, 0.404) for _ in rounds],
        LANES: [lap(0.2, 0.31, 0.32) for _ in rounds],
        "pytorch": [other for _ in rounds],
    }
    return cast("dict[str, Any]", batch_figures(laps, 2, ARCHITECTURES))


@pytest.mark.parametrize(("joined", "expected"), [(0.3, 1.0), (0.4, 0.0), (0.35, 0.5), (0.5, -1.0)])
def test_overlap(joined: float, expected: float) -> None:
    found = overlap(np.array([[0.1, 0.3]]), np.array([joined]))
    assert found == pytest.approx([expected])


def test_overhead_is_all_but_execution_and_its_parts_add_up() -> None:
    one = lap(0.1, 0.3, 0.404)
    assert one.overhead == pytest.approx(0.0035 + 0.0002 + 0.004)
    assert sum(one.overhead_parts.values()) == pytest.approx(one.overhead)
    assert one.overhead_parts["copy"] == pytest.approx(0.001)
    assert one.overhead_parts["dispatch"] == pytest.approx(0.003)
    assert one.overhead_parts["rest"] == pytest.approx(0.0002)


def test_overhead_is_compared_with_the_fast_experts() -> None:
    found = figures()["overhead"]
    assert found["beside"] == ["vgg16"]
    assert found["share"]["median"] == pytest.approx(0.0077 / 0.1)


def test_concurrency() -> None:
    found = figures()["concurrency"]
    assert found["sum_seconds"] == pytest.approx(0.4)
    assert found["slowest_seconds"] == pytest.approx(0.3)
    assert found["lanes_seconds"] == pytest.approx(0.32)
    assert found["overlap"]["median"] == pytest.approx(0.8)
    assert found["lanes_over_sequence"]["median"] < 1.0


def test_one_expert_has_no_overlap() -> None:
    alone = Lap(0.2, {"decode": 0.0, "experts": 0.15}, {"a": 0.15}, {"a": 0.0})
    laps = {name: [alone] * 6 for name in (YARDSTICK, SEQUENCE, LANES)}
    found = cast("dict[str, Any]", batch_figures(laps, 1, {"a": "onnx"}))
    assert found["concurrency"]["overlap"] is None


def test_times_faster_by_way_and_by_expert() -> None:
    found = figures()["times_faster"]["pytorch"]
    assert found["experts"]["vgg16"]["median"] == pytest.approx(2.0)
    assert found["experts"]["big"]["median"] == pytest.approx(0.7 / 0.3)
    assert found[SEQUENCE]["median"] == pytest.approx(0.9 / 0.4077)
    assert found[SEQUENCE]["fastest"] == pytest.approx(0.9 / 0.4077)


def test_answers_are_compared_where_both_have_them() -> None:
    found = figures()["answers"]
    assert found["pytorch against sequence"] == {"vgg16": 0.5}
    assert found["lanes against sequence"] == {"vgg16": 0.0, "big": 0.0}


def test_the_parts_of_a_typical_round_add_up() -> None:
    way = figures()["ways"]["pytorch"]
    assert sum(way["typical_execute_seconds"].values()) == pytest.approx(way["p50_seconds"])
    assert way["faces_per_second"] == pytest.approx(2 / 0.9)


def test_figures_are_plain_json_without_nan() -> None:
    json.dumps(figures(), allow_nan=False)


def test_tables_line_up() -> None:
    assert table(["a", "b"], [["long", "1"]]) == ["a     b", "long  1"]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "-"), (0.00123, "1.23"), (0.0123, "12.3"), (0.9876, "988")]
)
def test_milliseconds(seconds: float | None, shown: str) -> None:
    assert milliseconds(seconds) == shown
