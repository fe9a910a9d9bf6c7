"""Settings of MiVOLO, read without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from export.config.settings import COMMON_KEYS
from runtime.geometry import ALIGN, Geometry
from runtime.json_reader import JsonReader, shown

SIZES = ("d1", "d2", "d3", "d4", "d5", "demo")
SIZE_STEP = 16
"""The sides of MiVOLO's images are multiples of this number of pixels."""
INPUT_SETS = (("face",), ("face", "person"))
LETTERBOX = Geometry(fit="letterbox", interpolation="opencv_bilinear")
"""The geometry of MiVOLO's own code, padded with black."""


@dataclass(frozen=True, slots=True)
class MiVoloSettings:
    """MiVOLO; a checkpoint that describes itself is checked against these settings.

    Random and demo weights are built from them.
    """

    variant: str | None
    """Size of the network, one of `SIZES`; None: the checkpoint's, or d1."""
    input_size: int | None
    """Side of the square images, pixels; None: the checkpoint's, or 224."""
    inputs: tuple[str, ...] | None
    """`face`, or `face` and `person`; None: the checkpoint's, or both."""
    age_scale: tuple[float, float, float] | None
    """Its min_age, max_age and avg_age; years = output * (max_age - min_age) + avg_age."""
    weights_key: str | None = None
    """Name of the set of weights in a file that holds several."""


def read_mivolo(entry: JsonReader) -> MiVoloSettings:
    """Reads the table of a MiVOLO."""
    entry.only((*COMMON_KEYS, "variant", "input_size", "inputs", "age_scale", "weights_key"))
    if entry.has("geometry") and entry.child("geometry").has("fit"):
        fit = entry.child("geometry").child("fit")
        if fit.value == ALIGN:
            fit.problem(f"{ALIGN!r} is for faces; MiVOLO takes crops of face and person")
    return MiVoloSettings(
        variant=entry.child("variant").choice(SIZES) if entry.has("variant") else None,
        input_size=_input_size(entry.child("input_size")) if entry.has("input_size") else None,
        inputs=_inputs(entry.child("inputs")) if entry.has("inputs") else None,
        age_scale=_age_scale(entry.child("age_scale")) if entry.has("age_scale") else None,
        weights_key=entry.child("weights_key").string() if entry.has("weights_key") else None,
    )


def _input_size(entry: JsonReader) -> int:
    size = entry.integer(low=1)
    if size % SIZE_STEP:
        entry.problem(f"must be a multiple of {SIZE_STEP}, got {size}")
    return size


def _inputs(entry: JsonReader) -> tuple[str, ...]:
    inputs = tuple(value.string() for value in entry.elements())
    if inputs not in INPUT_SETS:
        entry.problem(f"must be ['face'] or ['face', 'person'], got {shown(list(inputs))}")
    return inputs


def _age_scale(entry: JsonReader) -> tuple[float, float, float]:
    low, high, average = ([*entry.numbers(count=3), 0.0, 0.0, 0.0])[:3]
    if low >= high:
        entry.problem(
            f"must be [min_age, max_age, avg_age], min_age < max_age, got {shown(entry.value)}"
        )
    return low, high, average
