"""The search for the products that a variant keeps in FP32.

A product is a convolution or dense layer with constant weights. How far each moves ages, reduced
alone, is predicted for all at once (`first_order`), and the predictions are checked by measuring
groups; the ones that move ages most for their cost stay in FP32, as few as keep the quantization
faces within a budget of years.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from export.config.contract import Images
from export.errors import GraphError

_CHECKING_FACES = 16
"""Number of faces that groups are measured on."""
_SURPRISE = 4.0
"""Squared years, as a multiple of those predicted, from which a group is measured in halves. Where
errors of products add up by chance, one group in twenty exceeds it."""
_MEAN_SHARE = math.sqrt(2 / math.pi)
"""Mean size of normally distributed errors, as a share of their root mean square."""
_FIRST_STEP = 1 / 16
"""Of the products, on both sides of the predicted number to keep."""
_LAST_TRIES = 4
"""Number of kept products that are reduced singly, to see whether they have to be kept."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Largest differences from FP32 that the search accepts on the quantization faces, in years."""

    mean_years: float
    max_years: float

    def allows(self, errors_years: NDArray[np.float64]) -> bool:
        """Returns whether errors (N,) are within the budget; NaN never is."""
        mean, largest = errors_years.mean(), errors_years.max()
        return bool(mean <= self.mean_years and largest <= self.max_years)


@dataclass(frozen=True, slots=True)
class Reduction:
    """Outcome of a search."""

    kept: tuple[str, ...]
    """Names of the reducible products that stay in FP32."""
    share: float
    """Share of all products with constant weights that are reduced."""


class ReducibleGraph(Protocol):
    """An FP32 graph, and its variants in which some products are reduced."""

    precision: str
    """Of the reduced products, as in the manifest."""
    budget: Budget
    products: Mapping[str, float]
    """Cost of each reducible product, by name, in the order of the graph."""
    faces: Images
    """Quantization faces as the expert's inputs."""
    ages_years: NDArray[np.float64]
    """Ages of the FP32 graph on the faces, (N,)."""

    def predicted(self) -> Mapping[str, float]:
        """Returns the mean squared years by which products, reduced alone, should move ages.

        The mean is that of all faces. Products without a prediction are measured.
        """
        ...

    def ages_reducing(self, products: Collection[str], faces: Images) -> NDArray[np.float64]:
        """Returns ages in years, (N,), with some products reduced and no others."""
        ...

    def fits(self, kept: Collection[str]) -> bool:
        """Returns whether the variant keeping some products is within the budget on the faces.

        It is not where it does not reproduce its own ages.
        """
        ...


def products_to_keep(graph: ReducibleGraph, source_name: str) -> tuple[str, ...]:
    """Returns as few products as have to stay in FP32, the most sensitive first.

    Args:
        graph: the graph and its variants.
        source_name: of the FP32 graph, for the error.

    Raises:
        GraphError: no variant is within the budget.
    """
    sensitivities = estimate_sensitivities(graph)
    costs, budget = graph.products, graph.budget
    ranked = sorted(costs, key=lambda name: -sensitivities[name] / costs[name])
    start = _expected_count([sensitivities[name] for name in ranked], budget)
    kept = fewest_kept(graph, ranked, start)
    if kept is None:
        raise GraphError(
            f"{source_name} has no {graph.precision} variant within {budget.mean_years} years on "
            f"average and {budget.max_years} at most of FP32, or none that reproduces its own "
            f"ages. Build it without --{graph.precision}."
        )
    return without_needless(graph, kept)


def estimate_sensitivities(graph: ReducibleGraph) -> dict[str, float]:
    """Returns the mean squared years by which each product, reduced alone, moves ages; by name.

    Predictions hold for every group of products that moves ages no farther than they say together;
    where one moves them farther, as a wrong kernel does, its halves are measured, down to single
    products.
    """
    count = len(graph.ages_years)
    some = np.linspace(0, count - 1, min(count, _CHECKING_FACES)).astype(int)
    faces = {name: array[some] for name, array in graph.faces.items()}
    exact = graph.ages_years[some]
    predicted = graph.predicted()

    def checked(group: Sequence[str]) -> dict[str, float]:
        known = all(name in predicted for name in group)
        if known or len(group) == 1:
            moved = float(np.square(graph.ages_reducing(group, faces) - exact).mean())
            if known and moved <= _SURPRISE * sum(predicted[name] for name in group):
                return {name: predicted[name] for name in group}
            if len(group) == 1:
                return {group[0]: math.inf if math.isnan(moved) else moved}
        middle = len(group) // 2
        return checked(group[:middle]) | checked(group[middle:])

    return checked(tuple(graph.products))


def _expected_count(squares: Sequence[float], budget: Budget) -> int:
    """Returns how many of the ranked products should have to be kept, if errors add by chance."""
    left = np.cumsum(squares[::-1])[::-1]
    return int((_MEAN_SHARE * np.sqrt(left) > budget.mean_years).sum())


def fewest_kept(
    graph: ReducibleGraph, ranked: Sequence[str], start: int = 0
) -> tuple[str, ...] | None:
    """Returns the shortest head of `ranked` to keep; None if all would have to be.

    The number is searched for in growing steps from `start`, then by bisection. Errors add up
    by chance and do not always grow with the number of reduced products, so that the result is
    checked and extended one by one.
    """

    @cache
    def fits(count: int) -> bool:
        return graph.fits(ranked[:count])

    low, high = 0, len(ranked)
    middle, step = min(start, high - 1), max(1, round(high * _FIRST_STEP))
    while low < high:
        fitted = fits(middle)
        low, high = (low, middle) if fitted else (middle + 1, high)
        near = high - step if fitted else low - 1 + step
        middle, step = near if low <= near < high else (low + high) // 2, step * 2
    return next((tuple(ranked[:n]) for n in range(low, len(ranked)) if fits(n)), None)


def without_needless(graph: ReducibleGraph, kept: Sequence[str]) -> tuple[str, ...]:
    """Returns the products kept but those, among the last ones, that can be reduced after all.

    The very last one cannot, as the search has found.
    """
    needed = list(kept)
    for name in reversed(kept[-1 - _LAST_TRIES : -1]):
        fewer = [other for other in needed if other != name]
        needed = fewer if graph.fits(fewer) else needed
    return tuple(needed)
