"""The age in the output of a given ONNX file: which values, and how they become years."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from export.config.contract import Outputs
from export.errors import GraphError
from export.experts.onnx_file.nodes import Nodes
from export.experts.onnx_file.settings import OnnxSettings

AXES_AS_INPUT = 13
"""Opset from which ReduceSum, Squeeze and Unsqueeze take their axes as an input."""
Values = NDArray[np.float32]
"""The values that belong to the age, float32 (N, K); of pairs (N, K, 2)."""


@dataclass(frozen=True, slots=True)
class Readout:
    """The conversion of a file's output to years."""

    settings: OnnxSettings
    shape: tuple[int, ...]
    """Of the output for one face, without the batch."""
    kind: int
    """The output's `TensorProto.DataType`."""

    @property
    def width(self) -> int:
        """Values of the output per face."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last of the values that belong to the age."""
        return self.settings.columns or (0, self.width - 1)

    @property
    def pairs_first(self) -> bool:
        """Whether pairs lie as (2, K) instead of (K, 2)."""
        sizes = [size for size in self.shape if size > 1]
        return self.settings.columns is None and len(sizes) == 2 and sizes[0] == 2 != sizes[1]

    @property
    def count(self) -> int:
        """Classes, or thresholds of an ordinal head."""
        first, last = self.span
        return (last - first + 1) // (2 if self.settings.pairs else 1)

    @property
    def ages(self) -> tuple[float, ...]:
        """Ages of an ordinal head, in years: below all thresholds, and above each."""
        first, grid = self.settings.first_age, self.settings.head.age_grid
        if first is None:
            # A grid with one age per threshold names its first age and the step between them.
            return grid if self.count < len(grid) else (*grid, 2 * grid[-1] - grid[-2])
        return tuple(first + step for step in range(self.count + 1))

    def values(self, output: NDArray[Any]) -> Values:
        """Returns the values that belong to the age from the outputs, (N, …)."""
        first, last = self.span
        values = np.asarray(output, np.float32).reshape(len(output), -1)[:, first : last + 1]
        if not self.settings.pairs:
            return values
        if self.pairs_first:
            return values.reshape(len(values), 2, -1).swapaxes(1, 2)
        return values.reshape(len(values), -1, 2)

    def outputs(self, values: Values) -> Outputs:
        """Computes what the nodes of `add` compute."""
        head = self.settings.head
        if head.kind == "regression":
            return {"age_years": values[:, 0] * head.years_per_unit + head.years_offset}
        if head.kind == "ordinal":
            steps = np.diff(np.array(self.ages)).astype(np.float32)
            years = (self.above(values) * steps).sum(axis=1)
            return {"age_years": (years + np.float32(self.ages[0])).astype(np.float32)}
        probabilities = values
        if not self.settings.probabilities:
            exponentials = np.exp(values - values.max(axis=1, keepdims=True))
            probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
        if head.order is not None:
            probabilities = probabilities[:, list(head.order)]
        years = probabilities @ np.array(head.increasing, np.float32)
        return {
            "age_years": np.rint(years) if head.round_years else years,
            "age_probs": probabilities,
        }

    def above(self, values: Values) -> NDArray[np.float32]:
        """Returns the probabilities of an ordinal head that the age lies above each threshold."""
        if self.settings.pairs:
            if self.settings.probabilities:
                return values[:, :, 1]
            values = values[:, :, 1] - values[:, :, 0]
        elif self.settings.probabilities:
            return values
        with np.errstate(over="ignore"):
            return (1.0 / (1.0 + np.exp(-values.astype(np.float64)))).astype(np.float32)

    def add(self, nodes: Nodes, output: str) -> None:
        """Adds the nodes from the given output to `age_years`, and `age_probs` with classes."""
        if self.kind != TensorProto.FLOAT:
            output = nodes.add("Cast", [output], "output_as_float", to=TensorProto.FLOAT)
        kind = self.settings.head.kind
        if self.width > 1 or kind != "regression":
            shape = nodes.constant("output_shape", np.array([-1, self.width], np.int64))
            output = nodes.add("Reshape", [output, shape], "values")
            if self.settings.columns is not None:
                first, last = self.span
                columns = nodes.constant("columns", np.arange(first, last + 1, dtype=np.int64))
                output = nodes.add("Gather", [output, columns], "age_values", axis=1)
        if kind == "regression":
            self._add_regression(nodes, output)
        elif kind == "ordinal":
            self._add_ordinal(nodes, output)
        else:
            self._add_expectation(nodes, output)

    def _add_regression(self, nodes: Nodes, values: str) -> None:
        head = self.settings.head
        flat = nodes.add("Reshape", [values, nodes.constant("flat", np.array([-1]))], "units")
        unit = nodes.constant("years_per_unit", np.array(head.years_per_unit, np.float32))
        start = nodes.constant("years_offset", np.array(head.years_offset, np.float32))
        years = nodes.add("Mul", [flat, unit], "years")
        nodes.add("Add", [years, start], "from_offset", "age_years")

    def _add_ordinal(self, nodes: Nodes, values: str) -> None:
        above = self._add_pairs(nodes, values) if self.settings.pairs else values
        if not self.settings.probabilities:
            above = nodes.add("Sigmoid", [above], "above")
        steps = np.diff(np.array(self.ages)).astype(np.float32)
        weighted = nodes.add("Mul", [above, nodes.constant("steps", steps)], "weighted")
        years = _add_sum(nodes, weighted)
        start = nodes.constant("first_age", np.array(self.ages[0], np.float32))
        nodes.add("Add", [years, start], "from_first_age", "age_years")

    def _add_pairs(self, nodes: Nodes, values: str) -> str:
        """Adds the nodes to the logits, or the probabilities, of the second of each pair."""
        shape, axis = ([-1, 2, self.count], 1) if self.pairs_first else ([-1, self.count, 2], 2)
        pairs = nodes.add("Reshape", [values, nodes.constant("pairs", np.array(shape))], "pairs_of")
        one = nodes.constant("one", np.array(1, np.int64))
        above = nodes.add("Gather", [pairs, one], "second", axis=axis)
        if self.settings.probabilities:
            return above
        zero = nodes.constant("zero", np.array(0, np.int64))
        return nodes.add(
            "Sub", [above, nodes.add("Gather", [pairs, zero], "first", axis=axis)], "logit"
        )

    def _add_expectation(self, nodes: Nodes, values: str) -> None:
        head = self.settings.head
        last = "age_probs" if head.order is None else None
        if self.settings.probabilities:
            probabilities = nodes.add("Identity", [values], "probabilities", last)
        else:
            probabilities = nodes.add("Softmax", [values], "probabilities", last, axis=1)
        if head.order is not None:
            order = nodes.constant("class_order", np.array(head.order, np.int64))
            probabilities = nodes.add(
                "Gather", [probabilities, order], "in_order", "age_probs", axis=1
            )
        ages = nodes.constant("ages", np.array(head.increasing, np.float32))
        weighted = nodes.add("Mul", [probabilities, ages], "weighted")
        if not head.round_years:
            _add_sum(nodes, weighted, "age_years")
        else:
            nodes.add("Round", [_add_sum(nodes, weighted)], "whole_years", "age_years")


def find_readout(
    path: Path, name: str, output: NDArray[Any], kind: int, settings: OnnxSettings, batch: int
) -> Readout:
    """Returns the readout of an output, given as it is for one face, `batch` times.

    Raises:
        GraphError: the output has not the values that the settings read.
    """
    shape = output.shape
    if batch > 1 and (not shape or shape[0] != batch):
        raise GraphError(
            f"{path}: output {name!r} has the shape {shape} for a batch of {batch}, whose first "
            f"dimension is no batch. Export it with a dynamic batch."
        )
    per_face = shape[1:] if shape and shape[0] == batch else shape
    readout = Readout(settings, per_face, kind)
    has = f"{path}: output {name!r} has {_counted(readout.width, 'value')} per face"
    if settings.columns is not None and settings.columns[1] >= readout.width:
        key = "column" if settings.head.kind == "regression" else "columns"
        raise GraphError(f"{has}, {key} reads number {settings.columns[1]}, counted from 0.")
    first, last = readout.span
    found = last - first + 1
    if settings.pairs and found % 2:
        raise GraphError(f"{has}; pairs need an even number of them, got {found}. See `columns`.")
    if settings.head.kind == "regression":
        if found > 1:
            raise GraphError(
                f"{has}, a head of kind 'regression' reads one. Give `column` (0 to {last}), or "
                f"another `head`."
            )
        return readout
    grid, ordinal = settings.head.age_grid, settings.head.kind == "ordinal"
    wanted = len(grid) - ordinal
    fits = readout.count == wanted or (
        ordinal and readout.count == len(grid) and np.ptp(np.diff(grid)) == 0
    )
    if not fits and (not ordinal or settings.first_age is None):
        raise GraphError(_wrong_count(has, readout, wanted))
    return readout


def _wrong_count(has: str, readout: Readout, wanted: int) -> str:
    head, count = readout.settings.head, readout.count
    if head.kind == "ordinal":
        return (
            f"{has}, which are {count} thresholds; an ordinal head of {wanted + 1} ages has "
            f"{wanted}. Leave out `age_grid` and give `first_age`, or correct `columns`."
        )
    return (
        f"{has}, {count} of them classes; `age_grid` has {wanted} ages. Check `head`, `age_grid`, "
        f"`output` and `columns`."
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _add_sum(nodes: Nodes, values: str, output: str | None = None) -> str:
    """Adds a sum over the last of two dimensions; returns its name."""
    if nodes.opset < AXES_AS_INPUT:
        return nodes.add("ReduceSum", [values], "sum", output, axes=[1], keepdims=0)
    axis = nodes.constant("last_axis", np.array([1], np.int64))
    return nodes.add("ReduceSum", [values, axis], "sum", output, keepdims=0)
