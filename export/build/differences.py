"""Differences between an artifact's outputs and the reference's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.config.contract import Outputs
from runtime.manifest import Expert, Parity

AgeGrid = Sequence[float] | None
"""Ages of the columns of `age_probs`, in years."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Largest allowed differences between a built file and PyTorch."""

    mean_years: float
    max_years: float
    probability: float
    """Of any probability."""
    differing_share: float = math.inf
    """Of faces with another age, where ages are whole numbers."""


def whole_years_of(expert: Expert) -> AgeGrid:
    """Returns the age grid of an expert whose ages are whole numbers; None for others."""
    return expert.age_grid if expert.whole_years else None


def compared(
    found: Outputs, reference: Outputs, tolerance: Tolerance, grid: AgeGrid
) -> tuple[Parity, str]:
    """Returns the differences, and their description where they exceed the tolerance.

    Args:
        found: an artifact's outputs.
        reference: the outputs it should have.
        tolerance: the largest allowed differences.
        grid: ages of the columns of `age_probs`, if `age_years` are whole numbers. These jump, so
            the difference in years is that of the expectation of `age_probs`.
    """
    differing = None
    if grid is None:
        years = np.abs(found["age_years"] - reference["age_years"])
    else:
        same = np.isclose(found["age_years"], reference["age_years"], equal_nan=True)
        differing = float((~same).mean())
        years = np.abs((found["age_probs"] - reference["age_probs"]) @ np.asarray(grid))
    probabilities = max(
        (float(np.abs(found[n] - reference[n]).max()) for n in reference if n != "age_years"),
        default=0.0,
    )
    parity = Parity(float(years.mean()), float(years.max()), len(years), differing)
    within = (
        parity.mean_years <= tolerance.mean_years
        and parity.max_years <= tolerance.max_years
        and probabilities <= tolerance.probability
        and (differing or 0.0) <= tolerance.differing_share
    )
    problem = (
        f"{parity.mean_years:.4g} years on average, {parity.max_years:.4g} at most and "
        f"{probabilities:.2g} in a probability; allowed are {tolerance.mean_years}, "
        f"{tolerance.max_years} and {tolerance.probability}"
    )
    if differing is not None:
        problem += (
            f"; {differing:.0%} of the whole-number ages differ, allowed are "
            f"{min(tolerance.differing_share, 1.0):.0%}"
        )
    return parity, "" if within else problem
