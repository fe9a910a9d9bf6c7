"""The architecture `faceapi`."""

from __future__ import annotations

from pathlib import Path

from export.config.architecture import Architecture, ExpertConfig
from export.config.contract import BuiltExpert
from export.experts.faceapi.settings import PAD_SQUARE, read_faceapi


def _build(config: ExpertConfig, checkpoint: Path | None) -> BuiltExpert:
    from export.experts.faceapi.expert import faceapi_expert

    return faceapi_expert(checkpoint, config.geometry)


def _count_parameters(config: ExpertConfig, checkpoint: Path | None) -> int:
    del config, checkpoint  # there is one size
    from export.experts.faceapi.expert import count_faceapi_parameters

    return count_faceapi_parameters()


FACEAPI = Architecture(1, read_faceapi, _build, _count_parameters, geometry=PAD_SQUARE)
