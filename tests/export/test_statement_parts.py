"""Parts of a statement: rates in words, and the list of what was not tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from export.calibration.challenge import exact_interval
from export.calibration.labeled_predictions import LabeledPredictions
from export.calibration.statement_gaps import not_tested
from export.calibration.statement_tables import percent, share
from runtime.policy_terms import Rate
from tests.export.test_statement import people


@pytest.mark.parametrize(
    ("events", "count", "text"),
    [
        (0, 10, "none; at most 30.8 %"),
        (10, 10, "all; at least 69.2 %"),
        (1, 1_000_000, "0.000100 % [2.53e-06, 0.000557]"),
        (99_999, 100_000, "99.999 % [99.99, 99.99997]"),
    ],
)
def test_rates_in_words(events: int, count: int, text: str) -> None:
    assert share(Rate("all", count, events, *exact_interval(events, count))) == text


def test_only_nothing_is_0_and_only_all_is_100() -> None:
    assert [percent(part) for part in (0.0, 1.0, 0.5, 1e-9)] == [
        "0 %",
        "100 %",
        "50.0 %",
        "1.00e-07 %",
    ]
    assert percent(0.9999999) == "99.99999 %"


def gaps(faces: LabeledPredictions, fitted: Sequence[str] = ()) -> str:
    return "\n".join(not_tested(faces, [18.0], detector=None, youngest=0.0, fitted=fitted))


def test_what_was_not_tested_is_computed_from_the_labels() -> None:
    faces = people()
    text = gaps(faces, ["web", "elsewhere"])
    assert "Differences by sex" not in text
    assert "Differences by ethnicity or skin tone" in text
    assert "region: not labeled for" in text
    assert "People of these ages: 50–64, 65+." in text
    assert "0 to 90: 0–7, 41–90." in text
    assert "fitted on photographs of web, too." in text
    assert "other origin than 2: booth, web." in text
    assert "no person is labeled with several" not in text
    plain_faces = LabeledPredictions(np.array([20.0, 30.0]), ("a",), np.array([[20.0], [31.0]]))
    text = gaps(plain_faces)
    for part in (
        "Differences by sex",
        "region of birth",
        "name no sources",
        "no person is labeled with several",
        "quality: it was not measured",
        "which one found these",
        "younger than 18, for lack of faces: all.",
        "Attacks: pictures of a screen",
        "and videos",
    ):
        assert part in text
    group_names = replace(plain_faces, groups={"group_Gender": np.array(["f", "m"])})
    assert "Differences by sex" not in gaps(group_names)
