"""The search for what bf16 and INT8 variants keep in FP32: what it finds, and what it takes.

On a CPU without bfloat16 products, where `agemoe build` has no bf16, PyTorch stands for OpenVINO:
operands and results of the reduced products are rounded to bfloat16, and sums are FP32.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: python benchmarks/variant_search.py
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.options import exit_status
from benchmarks.reports import markdown_table
from export.config.contract import Images
from export.faces.quantization import quantization_faces
from export.graph.traversal import name_nodes
from export.variants.bf16 import Bf16Graph, rounded_to_bfloat16
from export.variants.first_order import one_by_one
from export.variants.int8_static import Int8Graph
from export.variants.search import ReducibleGraph, products_to_keep
from runtime.backends.openvino_graph import has_bfloat16
from runtime.commands import Parser
from runtime.manifest_file import read_manifest
from runtime.shared_options import add_engines

_SUMMARY = "Measures the search for what bf16 and INT8 variants keep in FP32."
_TITLES = (
    *("expert", "precision", "products", "groups measured", "variants tried"),
    *("kept in FP32", "cost reduced", "processor, s"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Searches, and prints a table."""
    options = parser().parse_args(arguments)
    return exit_status(partial(_measure, options))


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the arguments."""
    parser = Parser(
        prog="python benchmarks/variant_search.py",
        description=_SUMMARY,
        examples=("--engines build/full", "--engines build/demo --precision int8 --one-by-one"),
    )
    add = parser.add_argument
    add_engines(parser)
    both = ["bf16", "int8"]
    add("--precision", nargs="+", choices=both, default=both, help="of the variants")
    add("--one-by-one", action="store_true", help="predict nothing: measure every product alone")
    return parser


def _measure(options: argparse.Namespace) -> int:
    experts = read_manifest(options.engines).experts
    rows = []
    for name, expert in experts.items():
        fp32 = next(a for a in expert.artifacts if a.precision == "fp32")
        source, faces = options.engines / fp32.files[0].path, quantization_faces(expert.inputs)
        for precision in options.precision:
            started = time.process_time()
            with tempfile.TemporaryDirectory() as folder:
                graph = Counted(
                    _graph(precision, source, Path(folder), faces), one_by_one=options.one_by_one
                )
                kept = products_to_keep(graph, source.name)
            taken = time.process_time() - started
            reduced = 1 - sum(graph.products[name] for name in kept) / sum(graph.products.values())
            counts = [str(n) for n in (len(graph.products), graph.groups, graph.variants)]
            rows.append(
                [name, precision, *counts, str(len(kept)), f"{reduced:.1%}", f"{taken:.0f}"]
            )
    print(markdown_table(_TITLES, rows, ("---", "---", *["---:"] * 6)))
    return 0


def _graph(precision: str, source: Path, folder: Path, faces: Images) -> ReducibleGraph:
    if precision == "int8":
        model = onnx.load(str(source))
        name_nodes(model)
        return Int8Graph(model, faces)
    kind = Bf16Graph if has_bfloat16() else EmulatedGraph
    return kind(source, folder / "searched.bf16.xml", faces)


class Counted:
    """A graph that counts what is measured, with or without its predictions."""

    def __init__(self, graph: ReducibleGraph, *, one_by_one: bool) -> None:
        """Counts from zero."""
        self.precision, self.budget, self.products = graph.precision, graph.budget, graph.products
        self.faces, self.ages_years = graph.faces, graph.ages_years
        self.groups = self.variants = 0
        self._graph, self._one_by_one = graph, one_by_one

    def predicted(self) -> Mapping[str, float]:
        """Returns the predictions, unless every product is to be measured."""
        return {} if self._one_by_one else self._graph.predicted()

    def ages_reducing(self, products: Collection[str], faces: Images) -> NDArray[np.float64]:
        """Measures a group."""
        self.groups += 1
        return self._graph.ages_reducing(products, faces)

    def fits(self, kept: Collection[str]) -> bool:
        """Tries a variant."""
        self.variants += 1
        return self._graph.fits(kept)


class EmulatedGraph(Bf16Graph):
    """Variants whose bfloat16 products PyTorch computes."""

    def __init__(self, source: Path, target: Path, faces: Images) -> None:
        """Reads the graph for PyTorch, too."""
        from export.graph.differentiable import DifferentiableGraph

        super().__init__(source, target, faces)
        self._torch = DifferentiableGraph(onnx.load(str(source)))

    def compiled(self, kept: Collection[str]) -> Any:  # noqa: ANN401
        """Returns the names of the nodes to reduce."""
        return frozenset(self.node_of(name) for name in self.products if name not in kept)

    def ages(self, compiled: Any, faces: Images) -> NDArray[np.float64]:  # noqa: ANN401
        """Returns ages in years, (N,), unrounded."""
        if not isinstance(compiled, frozenset):
            return super().ages(compiled, faces)
        import torch

        def reduced(node: onnx.NodeProto, given: Any, compute: Any) -> Any:  # noqa: ANN401
            chosen = node.name in compiled
            return rounded_to_bfloat16(node, given, compute) if chosen else compute(given)

        with torch.no_grad():
            ages = [self._torch.ages(face, reduced).item() for face in one_by_one(faces)]
        return np.array(ages)


if __name__ == "__main__":
    sys.exit(main())
