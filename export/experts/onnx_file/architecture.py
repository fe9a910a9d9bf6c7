"""The architecture `onnx`: a given file, wrapped into the contract."""

from __future__ import annotations

from pathlib import Path

from export.config.architecture import Architecture, ExpertConfig
from export.config.contract import BuiltExpert
from export.experts.onnx_file.settings import read_onnx


def _build(config: ExpertConfig, checkpoint: Path | None) -> BuiltExpert:
    if checkpoint is None:
        raise ValueError(f"Expert {config.name!r} needs an ONNX file.")
    from export.experts.onnx_file.wrapper import external_expert

    return external_expert(checkpoint, config.settings, config.geometry)


def _count_parameters(config: ExpertConfig, checkpoint: Path | None) -> int:
    """Returns 0: the file's own size is what counts."""
    del config, checkpoint
    return 0


ONNX = Architecture(3, read_onnx, _build, _count_parameters, checkpoint_kind="onnx")
