"""Figures of a batch size, from synthetic measurements."""

from __future__ import annotations

import json
from typing import Any, cast

import numpy as np
import pytest

from benchmarks.breakdown import (
    LANES,
    REFERENCE,
    SEQUENCE,
    Measurement,
    batch_figures,
    overlap,
)
from benchmarks.reports import milliseconds, table

ARCHITECTURES = {"vgg16": "vgg16", "big": "janus"}


def measurement(vgg16: float, big: float, experts: float, decode: float = 0.002) -> Measurement:
    stages = {"decode": decode, "geometry": 0.001, "stack": 0.0, "experts": experts, "fuse": 0.0005}
    ages = {"vgg16": (30.0, 40.0), "big": (31.0, 41.0)}
    copied = {"vgg16": 0.001, "big": 0.0}
    seconds = sum(stages.values()) + 0.0002
    return Measurement(seconds, stages, {"vgg16": vgg16, "big": big}, copied, ages)


def figures() -> dict[str, Any]:
    other = Measurement(0.9, {}, {"vgg16": 0.2, "big": 0.7}, ages={"vgg16": (30.5, 40.0)})
    rounds = {
        REFERENCE: [Measurement(0.01, {}, {}) for _ in range(12)],
        SEQUENCE: [measurement(0.1, 0.3, 0.404) for _ in range(12)],
        LANES: [measurement(0.2, 0.31, 0.32) for _ in range(12)],
        "pytorch": [other for _ in range(12)],
    }
    return cast("dict[str, Any]", batch_figures(rounds, 2, ARCHITECTURES))


@pytest.mark.parametrize(("joined", "expected"), [(0.3, 1.0), (0.4, 0.0), (0.35, 0.5), (0.5, -1.0)])
def test_overlap(joined: float, expected: float) -> None:
    found = overlap(np.array([[0.1, 0.3]]), np.array([joined]))
    assert found == pytest.approx([expected])


def test_overhead_is_the_sum_of_its_parts() -> None:
    one = measurement(0.1, 0.3, 0.404)
    assert one.overhead == pytest.approx(0.0035 + 0.0002 + 0.004)
    assert sum(one.overhead_parts.values()) == pytest.approx(one.overhead)
    assert one.overhead_parts["copy"] == pytest.approx(0.001)
    assert one.overhead_parts["dispatch"] == pytest.approx(0.003)
    assert one.overhead_parts["rest"] == pytest.approx(0.0002)


def test_overhead_is_compared_with_the_light_experts() -> None:
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


def test_single_expert_has_no_overlap() -> None:
    alone = Measurement(0.2, {"decode": 0.0, "experts": 0.15}, {"a": 0.15}, {"a": 0.0})
    rounds = {name: [alone] * 6 for name in (REFERENCE, SEQUENCE, LANES)}
    found = cast("dict[str, Any]", batch_figures(rounds, 1, {"a": "onnx"}))
    assert found["concurrency"]["overlap"] is None


def test_times_faster_by_mode_and_by_expert() -> None:
    found = figures()["times_faster"]["pytorch"]
    assert found["experts"]["vgg16"]["median"] == pytest.approx(2.0)
    assert found["experts"]["big"]["median"] == pytest.approx(0.7 / 0.3)
    assert found[SEQUENCE]["median"] == pytest.approx(0.9 / 0.4077)
    assert found[SEQUENCE]["fastest"] == pytest.approx(0.9 / 0.4077)


def test_ages_are_compared_where_both_have_them() -> None:
    found = figures()["answers"]
    assert found["pytorch against sequence"] == {"vgg16": 0.5}
    assert found["lanes against sequence"] == {"vgg16": 0.0, "big": 0.0}


def test_parts_of_a_typical_round_add_up() -> None:
    found = figures()["ways"]["pytorch"]
    assert sum(found["typical_execute_seconds"].values()) == pytest.approx(found["p50_seconds"])
    assert found["faces_per_second"] == pytest.approx(2 / 0.9)


def test_figures_are_json_without_nan() -> None:
    json.dumps(figures(), allow_nan=False)


def test_table_columns_are_aligned() -> None:
    assert table(["a", "b"], [["long", "1"]]) == ["a     b", "long  1"]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "-"), (0.00123, "1.23"), (0.0123, "12.3"), (0.9876, "988")]
)
def test_milliseconds(seconds: float | None, shown: str) -> None:
    assert milliseconds(seconds) == shown
