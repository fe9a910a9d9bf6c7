"""Description of a checkpoint in its own files: config.json beside the weights, `arch` in the file.

timm's config.json has `architecture`, `pretrained_cfg` (older ones: its entries at the top level)
and `model_args`; training scripts store `arch` beside the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.checkpoints.recognition import read_json

CONFIG = "config.json"
_ARCHITECTURE_KEYS = ("arch", "architecture")


@dataclass(frozen=True, slots=True)
class Description:
    """A checkpoint's description of itself; empty where it has none."""

    architectures: Mapping[str, str] = field(default_factory=dict)
    """Names of the architecture, by the place where each stands."""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    """timm's `pretrained_cfg`: `input_size`, `mean`, `std`, `interpolation`, …"""
    model_args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of timm's model, and its `global_pool`."""
    path: Path | None = None
    """The config.json."""


def describe(path: Path, metadata: Mapping[str, object]) -> Description:
    """Returns the description of a checkpoint.

    Args:
        path: the file or folder.
        metadata: entries of the file other than weights.

    Raises:
        CheckpointError: config.json is not a JSON object.
    """
    named = {
        f"{path.name}, {key!r}": str(metadata[key])
        for key in _ARCHITECTURE_KEYS
        if isinstance(metadata.get(key), str)
    }
    file = config_file(path)
    if file is None:
        return Description(named)
    config = read_json(file)
    if isinstance(config.get("architecture"), str):
        named[str(file)] = config["architecture"]
    preprocessing = config.get("pretrained_cfg", config)
    given = config.get("model_args")
    model_args = dict(given) if isinstance(given, dict) else {}
    if "global_pool" in config:
        model_args.setdefault("global_pool", config["global_pool"])
    return Description(
        named,
        preprocessing if isinstance(preprocessing, dict) else {},
        model_args,
        file,
    )


def config_file(path: Path) -> Path | None:
    """Returns the config.json in a folder or beside a file, if it describes a network of timm.

    Raises:
        CheckpointError: it is not a JSON object.
    """
    file = (path if path.is_dir() else path.parent) / CONFIG
    if not file.exists():
        return None
    return file if {"architecture", "pretrained_cfg"} & read_json(file).keys() else None
