"""Settings of a CNN as its checkpoint determines them: by its names, and by its description."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from export.checkpoints.description import Description
from export.errors import CheckpointError
from export.experts.cnn.settings import CnnSettings
from runtime.geometry import Geometry
from runtime.printing import bullets

SYNONYMS = {
    "vgg16": ("vgg16", "tvvgg16"),
    "resnet50": ("resnet50", "tvresnet50", "gluonresnet50v1b", "sslresnet50", "swslresnet50"),
}
"""Names of the same network in timm and torchvision, lower-case, letters and digits only."""
_INTERPOLATIONS = {"bilinear": "pillow_bilinear", "bicubic": "pillow_bicubic"}
"""timm's names; torchvision's resize of a picture is Pillow's, antialiased."""
_HARMLESS = ("num_classes", "in_chans", "pretrained", "global_pool", "drop_rate", "drop_path_rate")
"""Arguments of timm's models that the weights' shapes show, or that matter in training only."""
_LOOK_ALIKES = {
    r"layer\d\.\d+\.se\.": "an SE-ResNet (timm seresnet50)",
    r"conv1\.0\.": "a ResNet with a deep stem (timm resnet50c, resnet50d, resnet50s, resnet50t)",
    r"(stem|layer0)\.": "a ResNet of another family (timm resnetv2_50, resnet50_clip, …)",
    r"features\.\d+\.running_mean": "a VGG16 with batch normalization (timm, torchvision vgg16_bn)",
    r".*\.aa\.": "a ResNet with antialiasing (timm resnetblur50, resnetaa50)",
}
"""Networks by an expression for a key that ours lack. The keys of timm's present resnetaa50 and
resnetblur50, and those of networks with other strides, are the same as ours."""
_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True, slots=True)
class Described:
    """Settings completed by a checkpoint's description."""

    settings: CnnSettings
    geometry: Geometry
    taken: Mapping[str, Any]
    """Values taken from the description, by key of experts.toml."""
    overruled: Mapping[str, Any]
    """Values in the description that experts.toml overrules, by key."""


def check_architecture(architecture: str, description: Description) -> None:
    """Raises an error if a checkpoint says that it is of another architecture.

    Raises:
        CheckpointError: with the place and the name, or an argument that changes the network.
    """
    for place, name in description.architectures.items():
        plain = "".join(c for c in name.split(".")[0].lower() if c.isalnum())
        if plain not in SYNONYMS[architecture]:
            raise CheckpointError(
                f"{place} says that the architecture is {name!r}, experts.toml has "
                f"{architecture!r}. Networks of other names differ even where all keys and shapes "
                f"agree. If it is {architecture} under another name, correct the file, or save "
                f"model.state_dict() in a folder of its own."
            )
    odd = {k: v for k, v in description.model_args.items() if k not in _HARMLESS}
    pool = description.model_args.get("global_pool", "avg")
    if pool not in ("", "avg"):
        odd["global_pool"] = pool
    if odd:
        raise CheckpointError(
            f"{description.path} builds {architecture} with model_args {odd}, which this exporter "
            f"does not implement. Export the model to ONNX, and use architecture = 'onnx'."
        )


def describe_settings(
    settings: CnnSettings, geometry: Geometry, description: Description
) -> Described:
    """Takes size, mean, std and interpolation from a description unless experts.toml gives them.

    Mean and std of a description hold for pixels within 0..1, so they are not taken where
    experts.toml gives a scale.

    Raises:
        CheckpointError: a value cannot be used.
    """
    found = _preprocessing(description)
    given = set(settings.given)
    if "scale" in given:
        given |= {"mean", "std"}
    taken = {key: value for key, value in found.items() if key not in given}
    overruled = {k: v for k, v in found.items() if k in given and v != _used(settings, geometry, k)}
    height, width = taken.get("input_size", (settings.height, settings.width))
    pixels = settings.normalization
    pixels = replace(
        pixels,
        mean=tuple(taken.get("mean", pixels.mean)),
        std=tuple(taken.get("std", pixels.std)),
    )
    return Described(
        replace(settings, height=height, width=width, normalization=pixels),
        replace(geometry, interpolation=taken.get("interpolation", geometry.interpolation)),
        taken,
        overruled,
    )


def look_alike(unexpected: Sequence[str], missing: Sequence[str]) -> str:
    """Names the network that keys which do not fit belong to; empty if none is known."""
    for pattern, network in _LOOK_ALIKES.items():
        if any(re.match(pattern, key) for key in unexpected):
            return f" These are keys of {network}."
    if missing and all(key.endswith(_STATISTICS) for key in missing):
        return " These are keys of a network with group normalization (timm resnet50_gn)."
    return ""


def _preprocessing(description: Description) -> dict[str, Any]:
    """Returns the values of `pretrained_cfg` that experts.toml has a key for, validated."""
    config = description.preprocessing
    found: dict[str, Any] = {}
    problems = []
    size = config.get("input_size")
    if size is not None:
        if _numbers(size, 3) and size[0] == 3 and min(size) > 0:
            found["input_size"] = (int(size[1]), int(size[2]))
        else:
            problems.append(f"input_size is {size}, expected [3, height, width]")
    for key in ("mean", "std"):
        value = config.get(key)
        if value is None:
            continue
        if _numbers(value, 3) and (key == "mean" or min(value) > 0):
            found[key] = [float(number) for number in value]
        else:
            problems.append(f"{key} is {value}, expected three numbers")
    kind = config.get("interpolation")
    if kind in _INTERPOLATIONS:
        found["interpolation"] = _INTERPOLATIONS[kind]
    elif kind is not None:
        problems.append(f"interpolation is {kind!r}, expected one of {', '.join(_INTERPOLATIONS)}")
    if problems:
        raise CheckpointError(
            f"{description.path} cannot be followed:",
            *bullets(problems),
            "Correct it, or give the keys in experts.toml and move it away.",
        )
    return found


def _numbers(value: object, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    )


def _used(settings: CnnSettings, geometry: Geometry, key: str) -> object:
    """Returns the value of experts.toml in the form of `_preprocessing`."""
    return {
        "input_size": (settings.height, settings.width),
        "mean": list(settings.normalization.mean),
        "std": list(settings.normalization.std),
        "interpolation": geometry.interpolation,
    }[key]
