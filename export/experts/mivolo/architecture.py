"""The architecture `mivolo`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from export.config.architecture import Architecture, ExpertConfig
from export.config.contract import BuiltExpert
from export.experts.mivolo.settings import LETTERBOX, read_mivolo
from runtime.geometry import Pixels

if TYPE_CHECKING:
    from torch import Tensor


def _build(config: ExpertConfig, checkpoint: Path | None) -> BuiltExpert:
    from export.experts.mivolo.expert import mivolo_expert

    return mivolo_expert(config.settings, checkpoint, config.geometry)


def _count_parameters(config: ExpertConfig, checkpoint: Path | None) -> int:
    del checkpoint  # the settings give the size
    from export.experts.mivolo.expert import count_mivolo_parameters

    return count_mivolo_parameters(config.settings)


def _fit_demo(
    config: ExpertConfig, folder: Path, faces: Pixels, ages_years: NDArray[np.float64]
) -> Mapping[str, Tensor]:
    del folder  # the weights are the whole checkpoint
    from export.experts.mivolo.demo import fit_mivolo

    return fit_mivolo(config.settings, config.geometry, faces, ages_years)


MIVOLO = Architecture(
    2,
    read_mivolo,
    _build,
    _count_parameters,
    geometry=LETTERBOX,
    fit_demo=_fit_demo,
    demo_revision=2,
)
