"""The architecture `janus`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from export.config.architecture import Architecture, ExpertConfig
from export.config.contract import BuiltExpert
from export.experts.janus.settings import read_janus
from runtime.geometry import Pixels

if TYPE_CHECKING:
    from torch import Tensor


def _build(config: ExpertConfig, checkpoint: Path | None) -> BuiltExpert:
    from export.experts.janus.expert import janus_expert

    return janus_expert(config.settings, checkpoint, config.geometry)


def _count_parameters(config: ExpertConfig, checkpoint: Path | None) -> int:
    from export.experts.janus.expert import count_janus_parameters

    return count_janus_parameters(config.settings, checkpoint)


def _fit_demo(
    config: ExpertConfig, folder: Path, faces: Pixels, ages_years: NDArray[np.float64]
) -> Mapping[str, Tensor]:
    from export.experts.janus.demo import fit_demo_janus

    return fit_demo_janus(config.settings, folder, faces, ages_years)


JANUS = Architecture(
    2,
    read_janus,
    _build,
    _count_parameters,
    # Too large for the bf16 search. Its INT8 products quantize their input at run time, which ONNX
    # Runtime computes.
    variants={"fp32": "onnx", "fp16": "onnx", "int8": "onnx"},
    fit_demo=_fit_demo,
    checkpoint_is_folder=True,
)
