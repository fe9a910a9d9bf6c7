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
from export.variants.search import (
    Budget,
    estimate_sensitivities,
    fewest_kept,
    products_to_keep,
    without_needless,
)

FACES = 4


class MadeUpGraph:
    """A graph whose variants are off by `errors[i]` (two faces) with i products kept."""

    precision = "bf16"
    budget = Budget(0.2, 1.0)

    def __init__(
        self,
        *errors: tuple[float, float],
        moved: Collection[float] = (1.0, 2.0),
        costs: Collection[float] = (1.0, 1.0),
        predicted: Mapping[str, float] | None = None,
    ) -> None:
        self._errors = errors
        self._moved = dict(zip("abcdefgh", moved, strict=False))
        self.products: Mapping[str, float] = dict(zip("abcdefgh", costs, strict=False))
        self.faces: Images = {"face": np.arange(FACES, dtype=np.uint8)}
        self.ages_years = np.arange(FACES, dtype=np.float64)
        self._predicted = predicted or {}
        self.tried: list[tuple[str, ...]] = []
        self.measured: list[str] = []

    def predicted(self) -> Mapping[str, float]:
        return self._predicted

    def ages_reducing(self, products: Collection[str], faces: Images) -> NDArray[np.float64]:
        self.measured.append("".join(products))
        moved = np.linalg.norm([self._moved[product] for product in products])
        return faces["face"].astype(np.float64) + float(moved)

    def fits(self, kept: Collection[str]) -> bool:
        self.tried.append(tuple(kept))
        return self.budget.allows(np.array(self._errors[len(kept)]))


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
    for start in range(3):  # wherever the search begins
        assert fewest_kept(MadeUpGraph(*errors), ["a", "b"], start) == kept


def test_errors_that_do_not_fall_steadily_extend_the_search() -> None:
    bad, good = (0.3, 0.3), (0.1, 0.1)
    graph = MadeUpGraph(bad, bad, good, bad, bad, good, bad)
    assert fewest_kept(graph, "abcdef", 3) == tuple("abcde")
    assert len(graph.tried) == len(set(graph.tried))  # every variant is measured once


@pytest.mark.parametrize("needed", [0, 3, 50, 98, 99])
@pytest.mark.parametrize("start", [0, 47, 100])
def test_wherever_it_starts_the_search_ends_at_the_same_number(needed: int, start: int) -> None:
    graph = MadeUpGraph(*[(9.0, 9.0)] * needed, *[(0.1, 0.1)] * (100 - needed))
    names = [str(number) for number in range(100)]
    assert fewest_kept(graph, names, start) == tuple(names[:needed])
    assert len(graph.tried) <= 12


def test_a_search_that_starts_at_the_right_number_is_short() -> None:
    graph = MadeUpGraph(*[(9.0, 9.0)] * 50, *[(0.1, 0.1)] * 50)
    fewest_kept(graph, [str(number) for number in range(100)], 50)
    assert len(graph.tried) <= 5


def test_products_without_predictions_are_measured_one_by_one() -> None:
    graph = MadeUpGraph(moved=(0.0, 3.0, np.nan), costs=(1.0, 1.0, 1.0))
    assert estimate_sensitivities(graph) == {"a": 0.0, "b": 9.0, "c": np.inf}
    assert graph.measured == ["a", "b", "c"]


def test_predictions_that_hold_for_all_products_together_are_not_measured_further() -> None:
    predicted = {"a": 1.5, "b": 3.0, "c": 0.0, "d": 1.0}
    graph = MadeUpGraph(moved=(1.0, 2.0, 3.0, 1.0), costs=(1.0,) * 4, predicted=predicted)
    assert estimate_sensitivities(graph) == predicted
    assert graph.measured == ["abcd"]


@pytest.mark.parametrize("wrong", [27.0, np.nan])
def test_a_product_that_is_wrong_by_surprise_is_found_by_halving(wrong: float) -> None:
    names = "abcdefgh"
    predicted = dict.fromkeys(names, 0.01)
    moved = [0.1] * 5 + [wrong] + [0.1] * 2
    graph = MadeUpGraph(moved=moved, costs=(1.0,) * 8, predicted=predicted)
    found = estimate_sensitivities(graph)
    assert found.pop("f") == pytest.approx(27.0**2 if wrong == 27.0 else np.inf)
    assert found == {name: 0.01 for name in names if name != "f"}
    assert graph.measured == ["abcdefgh", "abcd", "efgh", "ef", "e", "f", "gh"]


@pytest.mark.parametrize(("costs", "kept"), [((1.0, 1.0), ("b",)), ((1.0, 9.0), ("a",))])
def test_the_products_that_move_ages_most_for_their_cost_are_kept(
    costs: tuple[float, float], kept: tuple[str, ...]
) -> None:
    graph = MadeUpGraph((9.0, 9.0), (0.1, 0.1), moved=(1.0, 2.0), costs=costs)
    assert products_to_keep(graph, "e.onnx") == kept


def test_single_products_that_need_not_be_kept_are_reduced_at_last() -> None:
    class Needing(MadeUpGraph):
        def fits(self, kept: Collection[str]) -> bool:
            self.tried.append(tuple(kept))
            return set("bdh") <= set(kept)

    graph = Needing()
    assert without_needless(graph, "abcdefgh") == tuple("abcdh")
    assert [len(kept) for kept in graph.tried] == [7, 6, 5, 4]  # g, f, e and d
    assert without_needless(Needing(), "b") == ("b",)
    assert without_needless(Needing(), ()) == ()


def test_a_graph_without_a_variant_within_the_budget_is_rejected() -> None:
    graph = MadeUpGraph((9.0, 9.0), (9.0, 9.0))
    with pytest.raises(GraphError, match=r"e\.onnx has no bf16 variant within .* without --bf16"):
        products_to_keep(graph, "e.onnx")


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
