"""The architectures `vgg16` and `resnet50`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from export.config.architecture import Architecture, ExpertConfig
from export.config.contract import BuiltExpert
from export.experts.cnn.settings import read_resnet50, read_vgg16
from runtime.geometry import Pixels

if TYPE_CHECKING:
    from torch import Tensor


def _build(config: ExpertConfig, checkpoint: Path | None) -> BuiltExpert:
    from export.experts.cnn.network import build_cnn

    return build_cnn(config.architecture, config.settings, config.geometry, checkpoint)


def _count_parameters(config: ExpertConfig, checkpoint: Path | None) -> int:
    del checkpoint  # the settings give the size
    from export.experts.cnn.network import count_cnn_parameters

    return count_cnn_parameters(config.architecture, config.settings)


def _fit_demo(
    config: ExpertConfig, folder: Path, faces: Pixels, ages_years: NDArray[np.float64]
) -> Mapping[str, Tensor]:
    del folder  # the weights are the whole checkpoint
    from export.experts.cnn.demo import fit_cnn

    return fit_cnn(config.architecture, config.settings, config.geometry, faces, ages_years)


VGG16 = Architecture(2, read_vgg16, _build, _count_parameters, fit_demo=_fit_demo)
RESNET50 = Architecture(2, read_resnet50, _build, _count_parameters, fit_demo=_fit_demo)
