"""Settings of a given ONNX file."""

from __future__ import annotations

from dataclasses import dataclass

from export.config.settings import (
    COLOR_ORDERS,
    COMMON_KEYS,
    HEAD_KEYS,
    HEADS,
    NORMALIZATION_KEYS,
    AgeHead,
    Normalization,
    choice,
    optional,
    read_age_head,
    read_input_size,
    read_normalization,
)
from runtime.json_reader import JsonReader, shown

LAYOUTS = ("NCHW", "NHWC")
GRAY = "GRAY"
LARGEST_COLUMN = 1_000_000
_KEYS = (
    "input_size",
    "layout",
    "output",
    "column",
    "columns",
    "probabilities",
    "pairs",
    "first_age",
)


@dataclass(frozen=True, slots=True)
class OnnxSettings:
    """A given ONNX file with one image input, wrapped into the contract."""

    height: int
    width: int
    normalization: Normalization
    """For gray inputs the first of its three channels counts."""
    head: AgeHead
    """Of kind `expectation`, `regression` or `ordinal`."""
    layout: str
    """`NCHW` or `NHWC`."""
    output: str | None
    """Name of the output with the age; None for a file with only one output."""
    probabilities: bool
    """The output holds probabilities instead of logits."""
    columns: tuple[int, int] | None = None
    """First and last value of the output that belong to the age, counted from 0; None for all."""
    pairs: bool = False
    """With an ordinal head: two values per threshold, for not above and above."""
    first_age: float | None = None
    """With an ordinal head: age in years below all thresholds, which are one year apart; None where
    the head's `age_grid` gives all ages."""
    normalized: bool = False
    """Whether the table gives `scale`, `mean` or `std`."""


def read_onnx(entry: JsonReader) -> OnnxSettings:
    """Reads the table of a given ONNX file."""
    entry.only((*COMMON_KEYS, *_KEYS, *NORMALIZATION_KEYS, *HEAD_KEYS))
    height, width = read_input_size(entry)
    head = read_age_head(entry, (*HEADS, "ordinal"))
    probabilities = optional(entry, "probabilities", JsonReader.boolean, default=False)
    if probabilities and head.kind == "regression":
        entry.child("probabilities").problem("needs head = 'expectation' or 'ordinal'")
    for key in ("pairs", "first_age"):
        if entry.has(key) and head.kind != "ordinal":
            entry.child(key).problem("needs head = 'ordinal'")
    if entry.has("first_age") and entry.has("age_grid"):
        entry.child("first_age").problem("contradicts age_grid, which holds all ages")
    first_age = optional(entry, "first_age", JsonReader.number, 0.0)
    return OnnxSettings(
        height,
        width,
        _normalization(entry),
        head,
        layout=optional(entry, "layout", choice(LAYOUTS), "NCHW"),
        output=entry.child("output").string() if entry.has("output") else None,
        probabilities=probabilities,
        columns=_columns(entry, head),
        pairs=optional(entry, "pairs", JsonReader.boolean, default=False),
        first_age=first_age if head.kind == "ordinal" and not entry.has("age_grid") else None,
        normalized=any(entry.has(key) for key in ("scale", "mean", "std")),
    )


def _normalization(entry: JsonReader) -> Normalization:
    """Reads the normalization; that of a gray input has one number per key and no default."""
    if not entry.has("color_order") or entry.child("color_order").value != GRAY:
        return read_normalization(entry, (*COLOR_ORDERS, GRAY))
    values = {}
    for key in ("mean", "std"):
        if not entry.has(key):
            entry.problem_below(
                key, "missing; gray inputs have no default, 0.0 and 1.0 keep pixels"
            )
            values[key] = 1.0
            continue
        child = entry.child(key)
        single = isinstance(child.value, list) and len(child.value) == 1
        values[key] = (child.elements()[0] if single else child).number()
    if values["std"] <= 0.0:
        entry.child("std").problem("must be positive")
    scale = optional(entry, "scale", JsonReader.number, Normalization().scale)
    mean, std = (values["mean"],) * 3, (values["std"],) * 3
    return Normalization(scale, mean, std, GRAY)


def _columns(entry: JsonReader, head: AgeHead) -> tuple[int, int] | None:
    """Reads `column = 2` of a regression, or `columns = "2..102"` of a head with many values."""
    needed = {"column": ("regression",), "columns": ("expectation", "ordinal")}
    for key, kinds in needed.items():
        if entry.has(key) and head.kind not in kinds:
            other = "columns" if key == "column" else "column"
            entry.child(key).problem(f"head = {head.kind!r} has {other!r} instead")
    if entry.has("column"):
        column = entry.child("column").integer()
        return column, column
    if not entry.has("columns"):
        return None
    child = entry.child("columns")
    first, dots, last = str(child.value).partition("..")
    numbers = dots and first.isdecimal() and last.isdecimal() and len(first + last) < 15
    if not numbers or not int(first) < int(last) <= LARGEST_COLUMN:
        child.problem(f'must be like "2..102", the first and the last, got {shown(child.value)}')
        return None
    return int(first), int(last)
