"""Comparison of outputs whose ages are whole numbers, or missing."""

from __future__ import annotations

import numpy as np
import pytest

from export.build.differences import compared
from export.build.parity import TOLERANCES
from export.config.contract import Outputs

GRID = (0.0, 10.0, 30.0)


def _outputs(ages: list[float], shift: float = 0.0) -> Outputs:
    probs = np.full((len(ages), 3), 1 / 3, np.float32)
    probs[:, 0] -= shift
    probs[:, 2] += shift
    return {"age_years": np.array(ages, np.float32), "age_probs": probs}


def test_years_are_those_of_the_expectation() -> None:
    ages = [30.0, float("nan"), 10.0, 0.0]
    found, problem = compared(_outputs(ages, 1e-5), _outputs(ages), TOLERANCES["fp32"], GRID)
    assert found.max_years == pytest.approx(30 * 1e-5, rel=0.02)
    assert found.differing_share == 0.0
    assert not problem


@pytest.mark.parametrize(
    ("changed", "share"), [([30.0, 0.0], 0.5), ([10.0, float("nan")], 0.5), ([0.0, 10.0], 1.0)]
)
def test_differing_answers_are_reported_and_limited_in_fp32(
    changed: list[float], share: float
) -> None:
    reference = _outputs([30.0, float("nan")])
    for precision in ("fp32", "fp16", "int8"):
        found, problem = compared(_outputs(changed), reference, TOLERANCES[precision], GRID)
        assert found.differing_share == share
        assert bool(problem) == (precision == "fp32")
    assert found.max_years == 0.0


def test_one_of_twenty_answers_may_tie() -> None:
    reference, found = _outputs([10.0] * 20), _outputs([10.0] * 19 + [30.0])
    assert not compared(found, reference, TOLERANCES["fp32"], GRID)[1]


def test_a_nan_where_ages_are_not_whole_numbers_is_a_difference() -> None:
    outputs = _outputs([float("nan")])
    parity, problem = compared(outputs, outputs, TOLERANCES["fp32"], None)
    assert problem
    assert parity.differing_share is None
