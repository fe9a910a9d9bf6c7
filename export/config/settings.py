"""Settings that several architectures share, and their readers for experts.toml."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from runtime.fusion import AGE_GRID
from runtime.geometry import (
    BORDERS,
    FITS,
    MAX_CROP_MARGIN,
    MAX_SIDE,
    Geometry,
    Resize,
)
from runtime.json_reader import JsonReader, shown
from runtime.resizing import INTERPOLATIONS
from runtime.results import Point

T = TypeVar("T")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
WHOLE_YEARS = tuple(AGE_GRID.tolist())
"""The default age grid: 0, 1, …, 100 years."""

COLOR_ORDERS = ("RGB", "BGR")
HEADS = ("expectation", "regression")
VIEWS = ("flip",)
"""Views besides the picture itself: `flip` is its mirror image."""

COMMON_KEYS = (
    *("architecture", "checkpoint", "sha256", "license", "geometry", "views"),
    "keep_fp32",
)
"""Keys that every expert may have."""
NORMALIZATION_KEYS = ("scale", "mean", "std", "color_order")
HEAD_KEYS = ("head", "age_grid", "class_order", "round_years", "years_per_unit", "years_offset")
_KEY_OWNERS = {
    "age_grid": ("expectation", "ordinal"),
    "class_order": ("expectation",),
    "round_years": ("expectation",),
    "years_per_unit": ("regression",),
    "years_offset": ("regression",),
}
"""Kinds of head that each key belongs to."""
OLDEST_YEARS = 200
"""Limit of an age grid: no scale of ages in years reaches farther."""
_MOST_CLASSES = 2001
"""Limit of an age grid: classes a tenth of a year apart."""
_CLASS_ORDERS = ("age", "text")
GEOMETRY_KEYS = (
    *("crop_margin", "margins", "offset", "before"),
    *("fit", "template", "interpolation", "border", "pad_color"),
)
"""Keys of the table `geometry`; the other fields of `Geometry` come with an architecture."""


@dataclass(frozen=True, slots=True)
class Normalization:
    """Normalization of pixels, per channel: (pixel * scale - mean) / std."""

    scale: float = 1.0 / 255.0
    """Applied first, to pixels within 0..255."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Per channel, in the network's own color order."""
    std: tuple[float, ...] = IMAGENET_STD
    """Per channel, in the network's own color order."""
    color_order: str = "RGB"
    """`RGB` or `BGR`."""


@dataclass(frozen=True, slots=True)
class AgeHead:
    """Conversion of a network's last layer into an age in years."""

    kind: str = "expectation"
    """`expectation`: softmax over age classes, times their ages (DEX); `regression`: one number,
    years = output * years_per_unit + years_offset. `ordinal`: see `export.experts.onnx_file`."""
    age_grid: tuple[float, ...] = WHOLE_YEARS
    """Ages of the classes in years, in the order of the network's last layer."""
    years_per_unit: float = 1.0
    years_offset: float = 0.0
    round_years: bool = False
    """Whether the expectation is rounded to whole years, half to even as by NumPy."""

    @property
    def increasing(self) -> tuple[float, ...]:
        """The ages of the classes in increasing order."""
        return tuple(sorted(self.age_grid))

    @property
    def order(self) -> tuple[int, ...] | None:
        """The class of each age of `increasing`; None where they are in that order already."""
        order = tuple(sorted(range(len(self.age_grid)), key=self.age_grid.__getitem__))
        return None if order == tuple(range(len(order))) else order


def optional(entry: JsonReader, key: str, read: Callable[[JsonReader], T], default: T) -> T:
    """Returns the value of a key, or the default where the key is absent."""
    return read(entry.child(key)) if entry.has(key) else default


def choice(choices: tuple[str, ...]) -> Callable[[JsonReader], str]:
    """Returns a reader of one of a few strings."""
    return lambda entry: entry.choice(choices)


def three_numbers(entry: JsonReader) -> tuple[float, ...]:
    """Reads a list of three numbers, one per channel."""
    return tuple(entry.numbers(count=3))


def read_geometry(entry: JsonReader, default: Geometry) -> Geometry:
    """Reads the table `geometry`; absent keys keep the default."""
    entry.only(GEOMETRY_KEYS)
    geometry = replace(
        default,
        crop_margin=optional(entry, "crop_margin", _crop_margin, default.crop_margin),
        margins=optional(entry, "margins", _margins, default.margins),
        offset=optional(entry, "offset", _offset, default.offset),
        before=optional(entry, "before", _resizes, default.before),
        fit=optional(entry, "fit", choice(FITS), default.fit),
        template=optional(entry, "template", _template, default.template),
        interpolation=optional(
            entry, "interpolation", choice(INTERPOLATIONS), default.interpolation
        ),
        border=optional(entry, "border", choice(BORDERS), default.border),
        pad_color=optional(entry, "pad_color", _pad_color, default.pad_color),
    )
    for key, problem in geometry.problems():
        entry.problem_below(key, problem)
    return geometry


def read_views(entry: JsonReader) -> tuple[str, ...]:
    """Reads `views`, a list of some of `VIEWS`."""
    views = tuple(view.choice(VIEWS) for view in entry.elements())
    if len(set(views)) < len(views):
        entry.problem(f"must name each view once, got {shown(entry.value)}")
    return views


def read_layers(entry: JsonReader) -> tuple[str, ...]:
    """Reads `keep_fp32`, names of layers."""
    return tuple(element.string() for element in entry.elements())


def read_input_size(entry: JsonReader) -> tuple[int, int]:
    """Reads `input_size`, one number or [height, width] in pixels; 224 by default."""
    size = entry.child("input_size") if entry.has("input_size") else None
    if size is None:
        return 224, 224
    if not isinstance(size.value, list):
        side = size.integer(low=32)
        return side, side
    sides = [element.integer(low=32) for element in size.elements()]
    if len(sides) != 2:
        size.problem(f"must be one number or [height, width], got {sides}")
        return 224, 224
    return sides[0], sides[1]


def read_normalization(
    entry: JsonReader, color_orders: tuple[str, ...] = COLOR_ORDERS
) -> Normalization:
    """Reads the keys in `NORMALIZATION_KEYS`."""
    default = Normalization()
    std = optional(entry, "std", three_numbers, default.std)
    if min(std, default=1.0) <= 0.0:
        entry.child("std").problem("must be positive")
    return Normalization(
        scale=optional(entry, "scale", JsonReader.number, default.scale),
        mean=optional(entry, "mean", three_numbers, default.mean),
        std=std,
        color_order=optional(entry, "color_order", choice(color_orders), default.color_order),
    )


def read_age_head(entry: JsonReader, kinds: tuple[str, ...] = HEADS) -> AgeHead:
    """Reads the keys in `HEAD_KEYS`."""
    kind = optional(entry, "head", choice(kinds), "expectation")
    for key, all_owners in _KEY_OWNERS.items():
        owners = [owner for owner in all_owners if owner in kinds]
        if entry.has(key) and kind not in owners:
            belongs = " or ".join(map(repr, owners))
            entry.child(key).problem(f"belongs to head = {belongs}, this expert's is {kind!r}")
    grid = optional(entry, "age_grid", read_age_grid, WHOLE_YEARS)
    if kind == "ordinal" and grid != tuple(sorted(grid)):
        entry.child("age_grid").problem("must increase, since each threshold lies above the last")
    if optional(entry, "class_order", choice(_CLASS_ORDERS), "age") == "text":
        grid = tuple(sorted(grid, key=lambda age: f"{age:g}"))
    return AgeHead(
        kind,
        age_grid=grid,
        years_per_unit=optional(entry, "years_per_unit", JsonReader.number, 1.0),
        years_offset=optional(entry, "years_offset", JsonReader.number, 0.0),
        round_years=optional(entry, "round_years", JsonReader.boolean, default=False),
    )


def read_age_grid(entry: JsonReader) -> tuple[float, ...]:
    """Reads `"0..100"` for whole years, or a list of different ages in any order."""
    if isinstance(entry.value, list):
        ages = tuple(entry.numbers()) if len(entry.value) <= _MOST_CLASSES else ()
        if len(ages) < 2 or len(set(ages)) < len(ages):
            entry.problem(f"must hold 2 to {_MOST_CLASSES} different ages")
            return WHOLE_YEARS
        if not 0.0 <= min(ages) <= max(ages) <= OLDEST_YEARS:
            entry.problem(f"must lie within 0..{OLDEST_YEARS} years, got {shown(entry.value)}")
            return WHOLE_YEARS
        return ages
    first, dots, last = str(entry.value).partition("..")
    if not (dots and first.isdecimal() and last.isdecimal()):
        entry.problem(f'must be like "0..100" or a list of ages, got {shown(entry.value)}')
        return WHOLE_YEARS
    if len(last) > len(str(OLDEST_YEARS)) or not int(first) < int(last) <= OLDEST_YEARS:
        entry.problem(
            f'must be like "0..100", increase and end at {OLDEST_YEARS} years at most, got '
            f"{shown(entry.value)}"
        )
        return WHOLE_YEARS
    return tuple(float(age) for age in range(int(first), int(last) + 1))


def _crop_margin(entry: JsonReader) -> float:
    margin = entry.number()
    if not 0.0 <= margin <= MAX_CROP_MARGIN:
        entry.problem(f"must be within 0..{MAX_CROP_MARGIN:g}, got {margin}")
    return margin


def _margins(entry: JsonReader) -> tuple[float, float, float, float]:
    left, top, right, bottom = _shares(entry, 4, low=-1.0)
    return left, top, right, bottom


def _offset(entry: JsonReader) -> tuple[float, float]:
    across, down = _shares(entry, 2, low=-MAX_CROP_MARGIN)
    return across, down


def _shares(entry: JsonReader, count: int, *, low: float) -> list[float]:
    shares = entry.numbers(count=count)
    if any(not low <= share <= MAX_CROP_MARGIN for share in shares):
        entry.problem(f"must be within {low:g}..{MAX_CROP_MARGIN:g}, got {shares}")
    return (shares + [0.0] * count)[:count]


def _template(entry: JsonReader) -> tuple[Point, ...]:
    points = [point.numbers(count=2) for point in entry.elements()]
    return tuple((x, y) for x, y in (([*point, 0.0, 0.0])[:2] for point in points))


def _resizes(entry: JsonReader) -> tuple[Resize, ...]:
    return tuple(_resize(step) for step in entry.elements())


def _resize(step: JsonReader) -> Resize:
    """Reads `{ resize = side, interpolation = … }`; `resize` may be [height, width]."""
    step.only(("resize", "interpolation"))
    size = step.child("resize")
    sides = size.elements() if isinstance(size.value, list) else [size, size]
    pixels = [side.integer(low=1) for side in sides]
    if len(pixels) != 2 or max(pixels) > MAX_SIDE:
        size.problem(f"must be one number or [height, width] within 1..{MAX_SIDE}, got {pixels}")
        pixels = [1, 1]
    height, width = pixels
    return Resize(height, width, step.child("interpolation").choice(INTERPOLATIONS))


def _pad_color(entry: JsonReader) -> tuple[int, int, int]:
    values = [value.integer() for value in entry.elements()]
    if len(values) != 3 or max(values) > 255:
        entry.problem(f"must be three numbers within 0..255, got {values}")
        return 0, 0, 0
    return values[0], values[1], values[2]
