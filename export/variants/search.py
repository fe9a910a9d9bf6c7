"""The search for the products that a variant keeps in FP32.

A product is a convolution or dense layer with constant weights. Each is reduced alone, to measure
how far it moves ages; the ones that move them most for their cost stay in FP32, as few as keep the
quantization faces within a budget of years.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from export.config.contract import Images
from export.errors import GraphError


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
    products: Mapping[str, float]
    """Cost of each reducible product, by name, in the order of the graph."""
    faces: Images
    """Quantization faces as the expert's inputs."""
    ages_years: NDArray[np.float64]
    """Ages of the FP32 graph on the faces, (N,)."""

    def ages_reducing(self, product: str, faces: Images) -> NDArray[np.float64]:
        """Returns ages in years, (N,), with one product reduced alone."""
        ...

    def errors_years(self, kept: Collection[str]) -> NDArray[np.float64]:
        """Returns absolute differences from FP32 on the faces, (N,), of the variant keeping some.

        They are NaN where the variant does not reproduce its own ages.
        """
        ...


def products_to_keep(
    graph: ReducibleGraph, budget: Budget, ranking_faces: int, source_name: str
) -> tuple[str, ...]:
    """Returns the fewest products that have to stay in FP32, the most sensitive first.

    Args:
        graph: the graph and its variants.
        budget: differences to stay within.
        ranking_faces: number of faces that sensitivities are estimated on.
        source_name: of the FP32 graph, for the error.

    Raises:
        GraphError: no variant is within the budget.
    """
    sensitivities = estimate_sensitivities(graph, ranking_faces)
    costs = graph.products
    ranked = sorted(costs, key=lambda name: -sensitivities[name] / costs[name])
    kept = fewest_kept(graph, ranked, budget)
    if kept is None:
        raise GraphError(
            f"{source_name} has no {graph.precision} variant within {budget.mean_years} years on "
            f"average and {budget.max_years} at most of FP32, or none that reproduces its own "
            f"ages. Build it without --{graph.precision}."
        )
    return kept


def estimate_sensitivities(graph: ReducibleGraph, ranking_faces: int) -> dict[str, float]:
    """Returns the squared years by which each product, reduced alone, moves ages; by name."""
    count = len(graph.ages_years)
    some = np.linspace(0, count - 1, min(count, ranking_faces)).astype(int)
    faces = {name: array[some] for name, array in graph.faces.items()}
    exact = graph.ages_years[some]
    return {
        product: float(np.square(graph.ages_reducing(product, faces) - exact).sum())
        for product in graph.products
    }


def fewest_kept(
    graph: ReducibleGraph, ranked: Sequence[str], budget: Budget
) -> tuple[str, ...] | None:
    """Returns the shortest head of `ranked` to keep, by bisection; None if all would have to be.

    Errors add up by chance and do not always grow with the number of reduced products, so that
    the result of the bisection is checked and extended one by one.
    """

    @cache
    def fits(count: int) -> bool:
        return budget.allows(graph.errors_years(ranked[:count]))

    low, high = 0, len(ranked)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return next((tuple(ranked[:n]) for n in range(low, len(ranked)) if fits(n)), None)
