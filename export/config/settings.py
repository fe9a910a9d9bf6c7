"""What experts.toml says of one expert, by architecture; read without PyTorch.

An architecture is one entry of `ARCHITECTURES`: how its settings are read. How they become a
network stands in `export/experts/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import cast, get_args

from export.experts.janus.prompt import IMAGE, PromptOptions, Termination
from runtime.geometry import FITS, INTERPOLATIONS, MAX_CROP_MARGIN, Geometry
from runtime.json_reader import JsonReader, shown

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
WHOLE_YEARS = tuple(float(age) for age in range(101))

COLOR_ORDERS = ("RGB", "BGR")
HEADS = ("expectation", "regression")
LAYOUTS = ("NCHW", "NHWC")
JANUS_HEADS = ("prompt", "light")
JANUS_SIZES = ("1B", "7B", "demo")
MIVOLO_VARIANTS = ("d1", "d2", "d3", "d4", "d5", "demo")
MIVOLO_STEP = 16
"""Sides of MiVOLO's images are multiples of so many pixels."""
INPUT_SETS = (("face",), ("face", "person"))
LETTERBOX = Geometry(fit="letterbox", interpolation="opencv_bilinear")
"""What MiVOLO's own code does, on black."""


@dataclass(frozen=True, slots=True)
class Normalization:
    """What a network was trained to see: (pixel * scale - mean) / std, channel by channel."""

    scale: float = 1.0 / 255.0
    """Applied to pixels within 0..255 first."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """In the network's own color order."""
    std: tuple[float, ...] = IMAGENET_STD
    """In the network's own color order."""
    color_order: str = "RGB"
    """`RGB` or `BGR`."""


@dataclass(frozen=True, slots=True)
class AgeHead:
    """How a network's last layer becomes an age in years."""

    kind: str = "expectation"
    """`expectation`: softmax over age classes, times their ages (DEX); `regression`: one number,
    years = output * years_per_unit + years_offset."""
    age_grid: tuple[float, ...] = WHOLE_YEARS
    """Ages of the classes, in years."""
    years_per_unit: float = 1.0
    years_offset: float = 0.0


@dataclass(frozen=True, slots=True)
class CnnSettings:
    """A timm network with an age head: `vgg16` and `resnet50`."""

    height: int
    width: int
    normalization: Normalization
    head: AgeHead
    width_factor: float
    """Share of the channels of the full-size network; the demo experts are shrunk."""


@dataclass(frozen=True, slots=True)
class OnnxSettings:
    """A given ONNX file with one float32 image input, wrapped into the contract."""

    height: int
    width: int
    normalization: Normalization
    head: AgeHead
    layout: str
    """`NCHW` or `NHWC`."""
    output: str | None
    """Name of the output that holds the age; None if the file has one output only."""
    probabilities: bool
    """With an expectation head: the output holds probabilities already, not logits."""


@dataclass(frozen=True, slots=True)
class JanusSettings:
    """Janus-Pro with a fixed question; everything about pixels comes from its own files."""

    head: str
    """`prompt`: the language model answers; `light`: a distilled head on the image tokens."""
    question: PromptOptions
    """What is asked; of a light head only the ages matter."""
    size: str
    """Shape of random and demo weights: `1B`, `7B` or `demo`; a checkpoint says its own."""


@dataclass(frozen=True, slots=True)
class MiVoloSettings:
    """MiVOLO; what a checkpoint says itself is checked against this.

    Random and demo weights say nothing: they are what stands here.
    """

    variant: str | None
    """Size of the network, one of `MIVOLO_VARIANTS`; None: as the checkpoint, or d1."""
    input_size: int | None
    """Side of the square images, pixels; None: as the checkpoint, or 224."""
    inputs: tuple[str, ...] | None
    """`face`, or `face` and `person`; None: as the checkpoint, or both."""
    age_scale: tuple[float, float, float] | None
    """Its min_age, max_age and avg_age; years = output * (max_age - min_age) + avg_age."""


Settings = CnnSettings | JanusSettings | MiVoloSettings | OnnxSettings
Reader = Callable[[JsonReader], Settings]

_GEOMETRY_KEYS = ("crop_margin", "fit", "interpolation", "pad_color")
_NORMALIZATION_KEYS = ("scale", "mean", "std", "color_order")
_QUESTION_KEYS = ("prompt", "answer_prefix", "system_prompt", "ages", "termination")
_HEAD_KEYS = ("head", "age_grid", "years_per_unit", "years_offset")


def read_geometry(entry: JsonReader, architecture: str) -> Geometry:
    """Reads the table `geometry`; what it leaves out keeps the architecture's default."""
    entry.only(_GEOMETRY_KEYS)
    default = default_geometry(architecture)
    color = default.pad_color
    if entry.has("pad_color"):
        values = [v.integer() for v in entry.child("pad_color").elements()]
        if len(values) != 3 or max(values) > 255:
            entry.child("pad_color").problem(f"must be three numbers within 0..255, got {values}")
        else:
            color = (values[0], values[1], values[2])
    margin = entry.child("crop_margin").number() if entry.has("crop_margin") else 0.0
    if not 0.0 <= margin <= MAX_CROP_MARGIN:
        entry.child("crop_margin").problem(f"must be within 0..{MAX_CROP_MARGIN:g}, got {margin}")
    return Geometry(
        crop_margin=margin,
        fit=_optional_choice(entry, "fit", FITS, default.fit),
        interpolation=_optional_choice(
            entry, "interpolation", INTERPOLATIONS, default.interpolation
        ),
        pad_color=color,
    )


def _read_cnn(entry: JsonReader) -> CnnSettings:
    entry.only((*COMMON_KEYS, "input_size", "width_factor", *_NORMALIZATION_KEYS, *_HEAD_KEYS))
    height, width = _input_size(entry)
    factor = entry.child("width_factor").number() if entry.has("width_factor") else 1.0
    if not 0.0 < factor <= 1.0:
        entry.child("width_factor").problem(f"must be within (0, 1], got {factor}")
    return CnnSettings(height, width, _normalization(entry), _age_head(entry), factor)


def _read_onnx(entry: JsonReader) -> OnnxSettings:
    own = ("input_size", "layout", "output", "probabilities")
    entry.only((*COMMON_KEYS, *own, *_NORMALIZATION_KEYS, *_HEAD_KEYS))
    height, width = _input_size(entry)
    head = _age_head(entry)
    probabilities = entry.has("probabilities") and entry.child("probabilities").boolean()
    if probabilities and head.kind != "expectation":
        entry.child("probabilities").problem("needs head = 'expectation'")
    return OnnxSettings(
        height,
        width,
        _normalization(entry),
        head,
        layout=_optional_choice(entry, "layout", LAYOUTS, "NCHW"),
        output=entry.child("output").string() if entry.has("output") else None,
        probabilities=probabilities,
    )


def _read_janus(entry: JsonReader) -> JanusSettings:
    entry.only((*COMMON_KEYS, "head", "size", *_QUESTION_KEYS))
    if entry.has("geometry"):
        for key, value in entry.child("geometry").items():
            if key != "crop_margin":
                value.problem("comes from the checkpoint's own processor files; leave it out")
    head = _optional_choice(entry, "head", JANUS_HEADS, "prompt")
    for key in _QUESTION_KEYS:
        if head == "light" and key != "ages" and entry.has(key):
            entry.child(key).problem("belongs to head = 'prompt'; a light head is not asked")
    return JanusSettings(head, _question(entry), _optional_choice(entry, "size", JANUS_SIZES, "1B"))


def _question(entry: JsonReader) -> PromptOptions:
    default = PromptOptions()
    prompt = entry.child("prompt").string() if entry.has("prompt") else default.prompt
    if prompt.count(IMAGE) != 1:
        entry.child("prompt").problem(
            f"must hold {IMAGE} exactly once, where the picture stands; found {prompt.count(IMAGE)}"
        )
    ages = _age_grid(entry.child("ages")) if entry.has("ages") else WHOLE_YEARS
    if ages != tuple(range(int(ages[0]), int(ages[-1]) + 1)):
        entry.child("ages").problem(f'must be whole years, like "0..100", got {shown(ages)}')
    return PromptOptions(
        prompt=prompt,
        answer_prefix=(
            entry.child("answer_prefix").string()
            if entry.has("answer_prefix")
            else default.answer_prefix
        ),
        system_prompt=(
            entry.child("system_prompt").boolean()
            if entry.has("system_prompt")
            else default.system_prompt
        ),
        ages=(int(ages[0]), int(ages[-1])),
        termination=cast(
            "Termination",
            _optional_choice(entry, "termination", get_args(Termination), default.termination),
        ),
    )


def _read_mivolo(entry: JsonReader) -> MiVoloSettings:
    entry.only((*COMMON_KEYS, "variant", "input_size", "inputs", "age_scale"))
    size = entry.child("input_size").integer(low=1) if entry.has("input_size") else None
    if size is not None and size % MIVOLO_STEP:
        entry.child("input_size").problem(f"must be a multiple of {MIVOLO_STEP}, got {size}")
    inputs = None
    if entry.has("inputs"):
        inputs = tuple(value.string() for value in entry.child("inputs").elements())
        if inputs not in INPUT_SETS:
            entry.child("inputs").problem(
                f"must be ['face'] or ['face', 'person'], got {shown(list(inputs))}"
            )
    return MiVoloSettings(
        variant=entry.child("variant").choice(MIVOLO_VARIANTS) if entry.has("variant") else None,
        input_size=size,
        inputs=inputs,
        age_scale=_age_scale(entry.child("age_scale")) if entry.has("age_scale") else None,
    )


def _age_scale(entry: JsonReader) -> tuple[float, float, float]:
    low, high, average = ([*entry.numbers(count=3), 0.0, 0.0, 0.0])[:3]
    if low >= high:
        entry.problem(
            f"must be [min_age, max_age, avg_age], min_age < max_age, got {shown(entry.value)}"
        )
    return low, high, average


COMMON_KEYS = ("architecture", "checkpoint", "geometry")
"""Keys that every expert may have, whatever its architecture."""

ARCHITECTURES: Mapping[str, Reader] = {
    "vgg16": _read_cnn,
    "resnet50": _read_cnn,
    "onnx": _read_onnx,
    "janus": _read_janus,
    "mivolo": _read_mivolo,
}
"""By the name used in experts.toml."""


def default_geometry(architecture: str) -> Geometry:
    """What experts.toml need not say of how crops become inputs."""
    return LETTERBOX if architecture == "mivolo" else Geometry()


def _input_size(entry: JsonReader) -> tuple[int, int]:
    if not entry.has("input_size"):
        return 224, 224
    size = entry.child("input_size")
    if not isinstance(size.value, list):
        side = size.integer(low=32)
        return side, side
    sides = [element.integer(low=32) for element in size.elements()]
    if len(sides) != 2:
        size.problem(f"must be one number or [height, width], got {sides}")
        return 224, 224
    return sides[0], sides[1]


def _normalization(entry: JsonReader) -> Normalization:
    default = Normalization()
    mean = entry.child("mean").numbers(count=3) if entry.has("mean") else default.mean
    std = entry.child("std").numbers(count=3) if entry.has("std") else default.std
    if min(std, default=1.0) <= 0.0:
        entry.child("std").problem("must be positive")
    return Normalization(
        scale=entry.child("scale").number() if entry.has("scale") else default.scale,
        mean=tuple(mean),
        std=tuple(std),
        color_order=_optional_choice(entry, "color_order", COLOR_ORDERS, default.color_order),
    )


def _age_head(entry: JsonReader) -> AgeHead:
    kind = _optional_choice(entry, "head", HEADS, "expectation")
    for key, owner in (
        ("age_grid", "expectation"),
        ("years_per_unit", "regression"),
        ("years_offset", "regression"),
    ):
        if entry.has(key) and kind != owner:
            entry.child(key).problem(f"belongs to head = {owner!r}, this expert's is {kind!r}")
    return AgeHead(
        kind,
        age_grid=_age_grid(entry.child("age_grid")) if entry.has("age_grid") else WHOLE_YEARS,
        years_per_unit=_optional_number(entry, "years_per_unit", 1.0),
        years_offset=_optional_number(entry, "years_offset", 0.0),
    )


def _age_grid(entry: JsonReader) -> tuple[float, ...]:
    """`"0..100"` for whole years, or a list of ages."""
    if isinstance(entry.value, list):
        ages = tuple(entry.numbers())
        if len(ages) < 2 or any(low >= high for low, high in pairwise(ages)):
            entry.problem("must hold at least 2 increasing ages")
        return ages
    first, dots, last = str(entry.value).partition("..")
    if not (dots and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        entry.problem(f'must be like "0..100" or a list of ages, got {shown(entry.value)}')
        return WHOLE_YEARS
    return tuple(float(age) for age in range(int(first), int(last) + 1))


def _optional_choice(entry: JsonReader, key: str, choices: tuple[str, ...], default: str) -> str:
    return entry.child(key).choice(choices) if entry.has(key) else default


def _optional_number(entry: JsonReader, key: str, default: float) -> float:
    return entry.child(key).number() if entry.has(key) else default
