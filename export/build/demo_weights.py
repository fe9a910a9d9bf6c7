"""Demo checkpoints: fitted on drawn faces, and reused while nothing they depend on changes.

They are ordinary checkpoint files and pass through the same exporter as real weights, so that demo,
tests and documentation run anywhere. On photographs they are useless.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.config.architecture import ExpertConfig
from export.config.fingerprints import fingerprint
from export.experts.registry import ARCHITECTURES
from export.faces import drawn
from runtime.files import replacing
from runtime.geometry import Pixels

FITTING_FACES = 1500
FITTING_SEED = 1
"""Seed of the faces that readouts are fitted on; those of every other seed are unseen."""
_DRAWN_SIZE = 96
_METADATA_KEY = "demo_key"
"""Entry of a checkpoint's metadata with the fingerprint of everything it depends on."""
_WEIGHTS_FILE = "model.safetensors"
"""Holds the weights where a checkpoint is a folder."""


def demo_checkpoint_name(config: ExpertConfig) -> str:
    """Returns the name of a demo checkpoint, a file or a folder."""
    folder = ARCHITECTURES[config.architecture].checkpoint_is_folder
    return f"{config.name}.demo" + ("" if folder else ".safetensors")


def demo_checkpoint_fits(config: ExpertConfig, path: Path) -> bool:
    """Returns whether a checkpoint was written for exactly this expert by this exporter."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(_weights_path(config, path), framework="numpy") as file:
            written: str = (file.metadata() or {}).get(_METADATA_KEY, "")
    except (OSError, SafetensorError):
        return False
    return written == _demo_key(config)


def write_demo_checkpoint(config: ExpertConfig, path: Path) -> None:
    """Fits a demo expert and writes its checkpoint, the weights last."""
    from safetensors.torch import save_file

    fit_demo = ARCHITECTURES[config.architecture].fit_demo
    if fit_demo is None:
        raise ValueError(f"Architecture {config.architecture!r} has no demo weights.")
    weights = _weights_path(config, path)
    weights.parent.mkdir(parents=True, exist_ok=True)
    state = fit_demo(config, weights.parent, *fitting_faces())
    with replacing(weights) as temporary:
        save_file(dict(state), temporary, {_METADATA_KEY: _demo_key(config)})


@cache
def fitting_faces() -> tuple[Pixels, NDArray[np.float64]]:
    """Returns drawn faces (N, size, size, 3) and their ages in years (N,)."""
    faces = list(drawn.drawn_faces(FITTING_FACES, seed=FITTING_SEED, size=_DRAWN_SIZE))
    return np.stack([face.image for face in faces]), np.array([f.age_years for f in faces])


def _demo_key(config: ExpertConfig) -> str:
    revision = ARCHITECTURES[config.architecture].demo_revision
    return fingerprint([config.described(), revision, drawn.REVISION])


def _weights_path(config: ExpertConfig, path: Path) -> Path:
    folder = ARCHITECTURES[config.architecture].checkpoint_is_folder
    return path / _WEIGHTS_FILE if folder else path
