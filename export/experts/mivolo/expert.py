"""MiVOLO as an expert of the pipeline: its checkpoint, what experts.toml says of it, its crops."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from export.checkpoints.loading import load_checkpoint
from export.config.contract import Signature
from export.config.settings import MiVoloSettings
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
from export.graph.torch_expert import TorchExpert
from runtime.geometry import Geometry
from runtime.manifest import InputSpec

REVISION = 1
"""Bumped whenever the files this module writes change."""
CONFIG = "config.json"
"""Beside the weights of a v2 folder; holds its age scale."""

IMDB_AGES = (1.0, 95.0, 48.0)
"""Of random weights only: the scale of the first published checkpoint."""

MIN_PERSON_PIXELS = 50
MIN_VISIBLE_SHARE = 0.4
"""A person crop narrower, or with fewer values that are not black, counts as none. This and the
erased face: WildChlamydia/MiVOLO, mivolo/structures.py, `crop_object`."""

FP32_OPERATORS: tuple[str, ...] = ()
"""None but the one norm over [2C, H, W], which always stays: of D1 at 224 pixels the sum of its
301,056 squares (random weights, verification faces) reached 174,631, over half precision's 65,504.
Over three seeds, FP16 ages then differ by 0.024 … 0.089 years on average and 0.184 at most, in
1,125 TensorRT layers. The usual operators in FP32 too: 0.028 … 0.078 and 0.154, but 1,259 layers;
the two heads: 0.034 … 0.085 and 0.189; heads and softmaxes: 0.024 … 0.084 and 0.147."""


def mivolo_expert(
    settings: MiVoloSettings, checkpoint: Path | None, geometry: Geometry
) -> TorchExpert:
    """MiVOLO with its weights.

    Args:
        settings: from experts.toml.
        checkpoint: a .pth.tar, a .safetensors or a v2 folder; None for seeded random weights.
        geometry: of both crops; what only concerns the person is added here.

    Raises:
        CheckpointError: the file is no MiVOLO, or is not what the settings say.
    """
    module = _loaded(settings, checkpoint) if checkpoint else random_mivolo(random_spec(settings))
    return TorchExpert(module, mivolo_signature(module, geometry))


def count_mivolo_parameters(settings: MiVoloSettings) -> int:
    """Number of weights, as far as the settings tell, without making them."""
    with torch.device("meta"):
        module = MiVoloExpert(random_spec(settings))
    return sum(parameter.numel() for parameter in module.parameters())


def random_spec(settings: MiVoloSettings) -> MiVoloSpec:
    """What the settings describe where no checkpoint does."""
    return MiVoloSpec(
        VARIANTS[settings.variant or "d1"],
        AgeScale(*(settings.age_scale or IMDB_AGES)),
        settings.input_size or 224,
        with_person=settings.inputs is None or "person" in settings.inputs,
    )


def _loaded(settings: MiVoloSettings, path: Path) -> MiVoloExpert:
    checkpoint = load_checkpoint(path)
    state = dict(checkpoint.state)
    metadata = {**checkpoint.metadata, **_config(path)}
    spec = spec_from_checkpoint(state, metadata, settings.age_scale)
    _check_settings(settings, spec, path)
    return build_mivolo(spec, state)


def _config(path: Path) -> Mapping[str, Any]:
    """The v2 folder's own description."""
    file = path / CONFIG
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON: {error}. Download the folder again.") from error
    return config if isinstance(config, dict) else {}


def _check_settings(settings: MiVoloSettings, spec: MiVoloSpec, path: Path) -> None:
    """Refuses a checkpoint that is not what experts.toml says."""
    found: dict[str, object] = {
        "variant": _variant(spec),
        "input_size": spec.input_size,
        "inputs": _inputs(spec),
    }
    problems = [
        f"{key}: experts.toml says {_shown(wanted)}, the checkpoint's is {_shown(found[key])}"
        for key in found
        if (wanted := getattr(settings, key)) not in (None, found[key])
    ]
    if problems:
        raise CheckpointError(
            f"{path.name} is not the MiVOLO that experts.toml describes:"
            + "".join(f"\n- {problem}" for problem in problems)
            + "\nThese keys may be left out: the checkpoint says them itself."
        )


def mivolo_signature(module: MiVoloExpert, geometry: Geometry) -> Signature:
    """What goes in and what comes out.

    Args:
        module: the expert.
        geometry: of both crops; what only concerns the person is added here.
    """
    spec = module.spec
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
        inputs=tuple(InputSpec(name, side, side, geometries[name]) for name in module.input_names),
        outputs=module.output_names,
        details={"variant": _variant(spec), "age_scale": asdict(spec.ages)},
        fp32_operators=FP32_OPERATORS,
        fold_weights=True,
    )


def _inputs(spec: MiVoloSpec) -> tuple[str, ...]:
    return ("face", "person") if spec.with_person else ("face",)


def _variant(spec: MiVoloSpec) -> str:
    return next(name for name, shape in VARIANTS.items() if shape == spec.shape)


def _shown(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
