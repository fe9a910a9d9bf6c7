"""Demo weights of the CNNs: a random body with a readout fitted on drawn faces."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.experts.cnn.network import CnnExpert, cnn_module, settle
from export.experts.cnn.settings import CnnSettings
from export.faces.readouts import fit_classes, fit_regression
from runtime.geometry import Geometry, Pixels, fit

_RIDGE_PENALTY = 100.0
_CLASS_PENALTY = 30.0
_BATCH = 64


def fit_cnn(
    architecture: str,
    settings: CnnSettings,
    geometry: Geometry,
    faces: Pixels,
    ages_years: NDArray[np.float64],
) -> Mapping[str, Tensor]:
    """Fits the readout of a random network.

    Args:
        architecture: `vgg16` or `resnet50`.
        settings: of the expert.
        geometry: of the expert.
        faces: to be fitted on, uint8 (N, size, size, 3), RGB.
        ages_years: of the faces, (N,).

    Returns:
        The network's weights.
    """
    module = cnn_module(architecture, settings)
    size = settings.height, settings.width
    images = np.stack([fit(face, *size, geometry) for face in faces])
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


def _features(module: CnnExpert, images: Pixels) -> NDArray[np.float64]:
    """Returns the inputs of the last layer, float64 (N, F)."""
    with torch.inference_mode():
        batches = [
            module.features(torch.from_numpy(images[start : start + _BATCH]))
            for start in range(0, len(images), _BATCH)
        ]
    return torch.cat(batches).double().numpy()
