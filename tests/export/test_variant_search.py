"""The search for the products that stay in FP32, on made-up sensitivities and errors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from export.config.contract import Images, Signature
from export.errors import GraphError
from export.variants.registry import write_variant
from export.variants.search import Budget, estimate_sensitivities, fewest_kept, products_to_keep

BUDGET = Budget(0.2, 1.0)
FACES = 4


class MadeUpGraph:
    """A graph whose variants are off by `errors[i]` (two faces) with i products kept."""

    precision = "bf16"

    def __init__(
        self,
        *errors: tuple[float, float],
        moved: Collection[float] = (1.0, 2.0),
        costs: Collection[float] = (1.0, 1.0),
    ) -> None:
        self._errors = errors
        self._moved = dict(zip("abcdefgh", moved, strict=False))
        self.products: Mapping[str, float] = dict(zip("abcdefgh", costs, strict=False))
        self.faces: Images = {"face": np.arange(FACES, dtype=np.uint8)}
        self.ages_years = np.arange(FACES, dtype=np.float64)
        self.tried: list[tuple[str, ...]] = []

    def ages_reducing(self, product: str, faces: Images) -> NDArray[np.float64]:
        return faces["face"].astype(np.float64) + self._moved[product]

    def errors_years(self, kept: Collection[str]) -> NDArray[np.float64]:
        self.tried.append(tuple(kept))
        return np.array(self._errors[len(kept)])


@pytest.mark.parametrize(
    ("errors", "kept"),
    [
        ([(0.1, 0.1), (0.0, 0.0), (0.0, 0.0)], ()),
        ([(0.3, 0.3), (0.1, 0.1), (0.0, 0.0)], ("a",)),  # 0.3 on average is too much
        ([(0.0, 0.39), (0.0, 0.0), (0.0, 0.0)], ()),
        ([(0.3, 0.3), (0.3, 0.3), (0.3, 0.3)], None),
        ([(np.nan, np.nan), (0.1, 0.1), (0.0, 0.0)], ("a",)),  # does not reproduce its ages
    ],
)
def test_as_few_products_are_kept_as_the_budget_requires(
    errors: list[tuple[float, float]], kept: tuple[str, ...] | None
) -> None:
    assert fewest_kept(MadeUpGraph(*errors), ["a", "b"], BUDGET) == kept


def test_errors_that_do_not_fall_steadily_extend_the_search() -> None:
    bad, good = (0.3, 0.3), (0.1, 0.1)
    graph = MadeUpGraph(bad, bad, good, bad, bad, good, bad)
    assert fewest_kept(graph, "abcdef", BUDGET) == tuple("abcde")
    assert len(graph.tried) == len(set(graph.tried))  # every variant is measured once


def test_sensitivities_are_squared_years_on_some_of_the_faces() -> None:
    graph = MadeUpGraph(moved=(1.0, 3.0))
    assert estimate_sensitivities(graph, 2) == {"a": 2.0, "b": 18.0}
    assert estimate_sensitivities(graph, 99) == {"a": 4.0, "b": 36.0}


@pytest.mark.parametrize(("costs", "kept"), [((1.0, 1.0), ("b",)), ((1.0, 9.0), ("a",))])
def test_the_products_that_move_ages_most_for_their_cost_are_kept(
    costs: tuple[float, float], kept: tuple[str, ...]
) -> None:
    graph = MadeUpGraph((9.0, 9.0), (0.1, 0.1), moved=(1.0, 2.0), costs=costs)
    assert products_to_keep(graph, BUDGET, FACES, "e.onnx") == kept


def test_a_graph_without_a_variant_within_the_budget_is_rejected() -> None:
    graph = MadeUpGraph((9.0, 9.0), (9.0, 9.0))
    with pytest.raises(GraphError, match=r"e\.onnx has no bf16 variant within .* without --bf16"):
        products_to_keep(graph, BUDGET, FACES, "e.onnx")


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_network_over_a_gibibyte_has_no_variant_for_openvino(
    tmp_path: Path, precision: str
) -> None:
    path = tmp_path / "large.onnx"
    path.touch()
    with path.with_name("large.onnx.data").open("wb") as weights:
        weights.truncate(1 << 30)  # takes no room on the disk
    with pytest.raises(GraphError, match=rf"large\.onnx has over 1 GiB .* without --{precision}"):
        write_variant(precision, "openvino", path, tmp_path / "out", Signature((), ()))
