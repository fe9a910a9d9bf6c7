"""Differences between two sets of outputs, in years, and the limits on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.config.contract import Outputs, Signature
from runtime.manifest import Expert, Parity

_HALF_YEAR = 0.5
_ARITHMETIC_YEARS = 0.001
"""Of an expectation in FP32, in which all files compute ages from probabilities."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Largest allowed differences between a built file and PyTorch."""

    mean_years: float
    max_years: float
    probability: float
    """Of any probability."""


def rounded_grid(expert: Expert | Signature) -> tuple[float, ...] | None:
    """Returns the ages of the classes of an expert whose ages are rounded; None for others."""
    return expert.age_grid if expert.details.get("round_years") else None


def compare(
    found: Outputs,
    reference: Outputs,
    tolerance: Tolerance,
    rounded: tuple[float, ...] | None = None,
) -> tuple[Parity, str]:
    """Compares outputs with those of the reference model.

    Rounding would turn a difference of 1e-6 years into a whole year where it crosses a half. So the
    ages of an expert with rounded ages are compared before rounding, as the expectations of
    `age_probs`, and every rounded age has to be the one nearest to its own expectation.

    Args:
        found: outputs of a built file.
        reference: outputs of the reference model.
        tolerance: the limits.
        rounded: `rounded_grid` of the expert.

    Returns:
        The differences, and their description where they exceed the tolerance.
    """
    ages = [_ages(outputs, rounded) for outputs in (found, reference)]
    years = np.abs(ages[0] - ages[1])
    probabilities = max(
        (float(np.abs(found[n] - reference[n]).max()) for n in reference if n != "age_years"),
        default=0.0,
    )
    parity = Parity(float(years.mean()), float(years.max()), len(years))
    within = (
        parity.mean_years <= tolerance.mean_years
        and parity.max_years <= tolerance.max_years
        and probabilities <= tolerance.probability
    )
    problem = (
        f"{parity.mean_years:.4g} years on average, {parity.max_years:.4g} at most and "
        f"{probabilities:.2g} in a probability; allowed are {tolerance.mean_years}, "
        f"{tolerance.max_years} and {tolerance.probability}"
    )
    if rounded is not None and not _is_rounding(found["age_years"], ages[0]):
        return parity, f"ages that are not those of its own probabilities, rounded, and {problem}"
    return parity, "" if within else problem


def _ages(outputs: Outputs, rounded: tuple[float, ...] | None) -> NDArray[np.floating]:
    if rounded is None:
        return outputs["age_years"]
    exact: NDArray[np.floating] = outputs["age_probs"].astype(np.float64) @ np.array(rounded)
    return exact


def _is_rounding(found: NDArray[np.float32], exact: NDArray[np.floating]) -> bool:
    """Returns whether ages are whole and nearest to the exact ones; NaN never is."""
    near = np.abs(found - exact) <= _HALF_YEAR + _ARITHMETIC_YEARS
    return bool((near & (found == np.rint(found))).all())
