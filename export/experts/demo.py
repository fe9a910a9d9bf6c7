"""Demo experts: shrunk networks with random bodies whose readouts are fitted on drawn faces.

They go through the same checkpoint files and the same exporter as real weights, so that demo,
tests and documentation run anywhere. On photographs they are useless.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.build.demo_weights import METADATA_KEY, demo_key
from export.build.options import ExpertConfig
from export.config.settings import CnnSettings, MiVoloSettings
from export.experts.cnn import CnnExpert, cnn_module, settle
from export.experts.janus.demo import write_demo_janus
from export.experts.mivolo.demo import fit_mivolo
from export.faces.drawn import drawn_faces
from export.faces.readouts import fit_classes, fit_regression
from runtime.files import replacing
from runtime.geometry import Pixels, fit

FITTING_FACES = 1500
FITTING_SEED = 1
"""Seed of the faces the readouts are fitted on; every other seed is a face not seen."""
_DRAWN_SIZE = 96
_RIDGE_PENALTY = 100.0
_CLASS_PENALTY = 30.0
_BATCH = 64


def write_demo_checkpoint(config: ExpertConfig, path: Path) -> None:
    """Fits a demo expert and writes its weights as an ordinary safetensors checkpoint.

    Args:
        config: the expert, of experts.demo.toml.
        path: of the checkpoint: a file, for Janus a folder.
    """
    from safetensors.torch import save_file

    if config.architecture == "janus":
        write_demo_janus(config, path, *_fitting_faces())
        return
    state = _FITS[config.architecture](config)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(dict(state), temporary, {METADATA_KEY: demo_key(config)})


@cache
def _fitting_faces() -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Faces (N, size, size, 3) and their ages in years (N,); drawn once per process."""
    faces = list(drawn_faces(FITTING_FACES, seed=FITTING_SEED, size=_DRAWN_SIZE))
    return np.stack([face.image for face in faces]), np.array([f.age_years for f in faces])


def _fit_cnn(config: ExpertConfig) -> Mapping[str, Tensor]:
    settings = config.settings
    if not isinstance(settings, CnnSettings):
        raise TypeError(f"{config.name}: settings of {config.architecture} expected.")
    module = cnn_module(config.architecture, settings)
    faces, ages_years = _fitting_faces()
    size = settings.height, settings.width
    images = np.stack([fit(face, *size, config.geometry) for face in faces])
    settle(module, torch.from_numpy(images[:_BATCH]))
    features = _features(module, images)
    head = settings.head
    if head.kind == "regression":
        units = (ages_years - head.years_offset) / head.years_per_unit
        weight, bias = fit_regression(features, units, _RIDGE_PENALTY)
    else:
        weight, bias = fit_classes(features, ages_years, head.age_grid, _CLASS_PENALTY)
    readout = module.network.get_classifier()  # type: ignore[operator]
    with torch.no_grad():
        readout.weight.copy_(weight)
        readout.bias.copy_(bias)
    return {key: value.contiguous() for key, value in module.network.state_dict().items()}


def _fit_mivolo(config: ExpertConfig) -> Mapping[str, Tensor]:
    if not isinstance(config.settings, MiVoloSettings):
        raise TypeError(f"{config.name}: settings of {config.architecture} expected.")
    return fit_mivolo(config.settings, config.geometry, *_fitting_faces())


def _features(module: CnnExpert, images: Pixels) -> NDArray[np.float64]:
    """What the readout sees: float64 (N, F)."""
    with torch.inference_mode():
        batches = [
            module.features(torch.from_numpy(images[start : start + _BATCH]))
            for start in range(0, len(images), _BATCH)
        ]
    return torch.cat(batches).double().numpy()


_FITS: Mapping[str, Callable[[ExpertConfig], Mapping[str, Tensor]]] = {
    "vgg16": _fit_cnn,
    "resnet50": _fit_cnn,
    "mivolo": _fit_mivolo,
}
"""By architecture."""
