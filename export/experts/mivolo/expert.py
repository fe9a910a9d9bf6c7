"""MiVOLO as an expert: checkpoint, settings of experts.toml, crops of face and person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from export.checkpoints.loading import Checkpoint, load_checkpoint
from export.checkpoints.recognition import read_json
from export.config.contract import Signature
from export.errors import CheckpointError
from export.experts.mivolo.module import (
    AgeScale,
    MiVoloExpert,
    MiVoloSpec,
    build_mivolo,
    random_mivolo,
    spec_from_checkpoint,
)
from export.experts.mivolo.network import VARIANTS
from export.experts.mivolo.settings import MiVoloSettings
from export.graph.torch_expert import TorchExpert
from runtime.geometry import Geometry
from runtime.manifest import InputSpec
from runtime.printing import bullets

CONFIG = "config.json"
"""File of a v2 folder with its age scale."""

IMDB_AGES = (1.0, 95.0, 48.0)
"""Scale of the first published checkpoint; used for random weights only."""

MIN_PERSON_PIXELS = 50
MIN_VISIBLE_SHARE = 0.4
"""A person crop narrower, or with a smaller share of nonzero values, counts as missing. This and
the erased face: WildChlamydia/MiVOLO, mivolo/structures.py, `crop_object`."""

MIVOLO_FP32_OPERATORS = ("Sub", "ReduceMean", "Sqrt", "Div")
"""Those of the norm over [2C, H, W], and with it the four means of outlook attention: for D1 at 224
pixels the sum of its 301,056 squares (random weights, verification faces) reached 174,631, over
FP16's 65,504. With all the norm in FP32, over three seeds, FP16 ages differ by 0.024 … 0.089 years
on average and 0.184 at most. The usual operators in FP32 too: 0.028 … 0.078 and 0.154, but 134
TensorRT layers more; the two heads: 0.034 … 0.085 and 0.189; heads and softmaxes: 0.024 … 0.084 and
0.147. The scale and the bias after the norm are in FP16: 0.020 and 0.058 for the first seed."""


def mivolo_expert(
    settings: MiVoloSettings, checkpoint: Path | None, geometry: Geometry
) -> TorchExpert:
    """Returns MiVOLO with its weights.

    Args:
        settings: from experts.toml.
        checkpoint: a .pth.tar, a .safetensors or a v2 folder; None for seeded random weights.
        geometry: of both crops; the authors' edges and the person's own options are added here.

    Raises:
        CheckpointError: the file is no MiVOLO, or contradicts the settings.
    """
    if checkpoint is None:
        module = random_mivolo(random_spec(settings))
        return TorchExpert(module, mivolo_signature(module, geometry))
    loaded = load_checkpoint(checkpoint, settings.weights_key)
    module = _module(settings, loaded)
    return TorchExpert(module, mivolo_signature(module, geometry, loaded.facts))


def count_mivolo_parameters(settings: MiVoloSettings) -> int:
    """Returns the number of weights that the settings imply, allocating none."""
    with torch.device("meta"):
        module = MiVoloExpert(random_spec(settings))
    return sum(parameter.numel() for parameter in module.parameters())


def random_spec(settings: MiVoloSettings) -> MiVoloSpec:
    """Returns the specification of the settings, with defaults where they leave it open."""
    return MiVoloSpec(
        VARIANTS[settings.variant or "d1"],
        AgeScale(*(settings.age_scale or IMDB_AGES)),
        settings.input_size or 224,
        with_person=settings.inputs is None or "person" in settings.inputs,
    )


def _module(settings: MiVoloSettings, checkpoint: Checkpoint) -> MiVoloExpert:
    state = dict(checkpoint.state)
    metadata = {**checkpoint.metadata, **_config(checkpoint.path)}
    spec = spec_from_checkpoint(state, metadata, settings.age_scale)
    _check_settings(settings, spec, checkpoint.path)
    return build_mivolo(spec, state)


def _config(path: Path) -> Mapping[str, Any]:
    """Returns the content of a v2 folder's config.json; empty if there is none."""
    file = path / CONFIG
    return read_json(file) if path.is_dir() and file.exists() else {}


def _check_settings(settings: MiVoloSettings, spec: MiVoloSpec, path: Path) -> None:
    """Raises an error if a checkpoint contradicts experts.toml."""
    found: dict[str, object] = {
        "variant": _variant(spec),
        "input_size": spec.input_size,
        "inputs": spec.inputs,
    }
    problems = [
        f"{key}: experts.toml has {_text(given)}, the checkpoint {_text(found[key])}"
        for key in found
        if (given := getattr(settings, key)) not in (None, found[key])
    ]
    if problems:
        raise CheckpointError(
            f"{path.name} is not the MiVOLO that experts.toml describes:",
            *bullets(problems),
            "These keys can be omitted: the checkpoint defines them.",
        )


def mivolo_signature(
    module: MiVoloExpert, geometry: Geometry, facts: Mapping[str, object] | None = None
) -> Signature:
    """Returns the inputs and outputs of the graph.

    Args:
        module: the expert.
        geometry: of both crops; the authors' edges and the person's own options are added here.
        facts: about the checkpoint, for the manifest.
    """
    spec = module.spec
    geometry = replace(geometry, edges="truncate")
    geometries = {
        "face": geometry,
        "person": replace(
            geometry,
            erase_face=True,
            min_side=MIN_PERSON_PIXELS,
            min_visible_share=MIN_VISIBLE_SHARE,
        ),
    }
    side = spec.input_size
    return Signature(
        inputs=tuple(InputSpec(name, side, side, geometries[name]) for name in spec.inputs),
        outputs=module.output_names,
        details={"variant": _variant(spec), "age_scale": asdict(spec.ages), **(facts or {})},
        fp32_operators=MIVOLO_FP32_OPERATORS,
        fold_weights=True,
    )


def _variant(spec: MiVoloSpec) -> str:
    return next(name for name, shape in VARIANTS.items() if shape == spec.shape)


def _text(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
