"""Dataclasses read from JSON: every supported type, limits, and all problems at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import GenericAlias
from typing import Annotated, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.json_reader import (
    SHA256,
    JsonReader,
    at_least,
    not_empty,
    one_of,
    read_dataclass,
    within,
)


@dataclass(frozen=True, slots=True)
class Range:
    low: float
    high: float = 1.0

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.low > self.high:
            yield "", "must not decrease"


@dataclass(frozen=True, slots=True)
class Document:
    name: Annotated[str, one_of(("a", "b"))]
    count: Annotated[int, at_least(1)]
    color: tuple[Annotated[int, within(0, 255)], bool]
    ranges: Annotated[tuple[Range, ...], not_empty]
    digest: SHA256 | None
    notes: Mapping[str, str] = field(default_factory=dict)
    extra: Any = None


VALID = {"name": "a", "count": 1, "color": [255, True], "ranges": [{"low": 0}], "digest": None}


def read(value: object) -> tuple[Document, list[str]]:
    problems: list[str] = []
    return read_dataclass(Document, JsonReader(value, "", problems)), problems


def test_a_document_becomes_its_dataclass() -> None:
    more = {"digest": "0f" * 32, "notes": {"x": "y"}, "extra": [1, None]}
    expected = Document("a", 1, (255, True), (Range(0.0),), None)
    assert read(VALID) == (expected, [])
    without_digest = {key: value for key, value in VALID.items() if key != "digest"}
    assert read(without_digest) == (expected, [])
    found, problems = read({**VALID, **more})
    assert problems == []
    assert (found.digest, found.notes, found.extra) == ("0f" * 32, {"x": "y"}, [1, None])


def test_missing_keys_keep_the_values_of_a_default() -> None:
    problems: list[str] = []
    assert read_dataclass(Range, JsonReader({"high": 5}, "", problems), Range(2.0, 3.0)) == Range(
        2.0, 5.0
    )
    assert problems == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": "c"}, "name: must be one of a, b, got 'c'"),
        ({"name": 1}, "name: must be a string, got 1"),
        ({"count": 0}, "count: must be at least 1, got 0"),
        ({"count": True}, "count: must be a whole number, got True"),
        ({"count": 1.0}, "count: must be a whole number, got 1.0"),
        ({"count": None}, "count: must be a whole number, got None"),
        ({"color": [256, True]}, "color[0]: must be within 0..255, got 256"),
        ({"color": [0, 1]}, "color[1]: must be true or false, got 1"),
        ({"color": [0]}, "color: must hold 2 values, got 1"),
        ({"color": "red"}, "color: must be a list, got 'red'"),
        ({"ranges": []}, "ranges: must not be empty, got []"),
        ({"ranges": [3]}, "ranges[0]: must be an object, got 3"),
        ({"ranges": [{"low": "x"}]}, "ranges[0].low: must be a finite number, got 'x'"),
        ({"ranges": [{"low": 1, "step": 2}]}, "ranges[0]: unknown key step; known: low, high"),
        ({"ranges": [{"low": 2.0}]}, "ranges[0]: must not decrease"),
        ({"digest": "0F" * 32}, f"digest: must be 64 hex digits, got '{'0F' * 6}...{'0F' * 6}F'"),
        ({"notes": {"x": 1}}, "notes.x: must be a string, got 1"),
    ],
)
def test_each_problem_has_its_path(change: dict[str, object], problem: str) -> None:
    _, problems = read({**VALID, **change})
    assert len(problems) == 1
    assert problems[0].split(", got")[0] == problem.split(", got", maxsplit=1)[0]


def test_all_problems_are_reported_once() -> None:
    _, problems = read({"count": 0, "ranges": [{"low": 3, "high": "x"}, {}], "plus": 1})
    assert problems == [
        "unknown key plus; known: name, count, color, ranges, digest, notes, extra",
        "name: missing",
        "count: must be at least 1, got 0",
        "color: missing",
        "ranges[0].high: must be a finite number, got 'x'",
        "ranges[1].low: missing",
    ]
    assert read([])[1] == ["must be an object, got []"]


def test_arrays_are_read_whatever_numpy_makes_of_their_type() -> None:
    for kind in (NDArray[np.float64], GenericAlias(NDArray, (np.float64,))):  # before and from 2.5

        @dataclass(frozen=True, slots=True)
        class Table:
            years: Any

        Table.__annotations__["years"] = kind
        problems: list[str] = []
        table = read_dataclass(Table, JsonReader({"years": [1, 2.5]}, "", problems))
        assert (table.years.tolist(), problems) == ([1.0, 2.5], [])
