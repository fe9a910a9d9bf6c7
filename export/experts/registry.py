"""The registry of architectures. A new one is a module of its own and one line here."""

from __future__ import annotations

from pathlib import Path

from export.config.architecture import Architecture, ExpertConfig
from export.config.contract import BuiltExpert
from export.experts.cnn.architecture import RESNET50, VGG16
from export.experts.faceapi.architecture import FACEAPI
from export.experts.janus.architecture import JANUS
from export.experts.mivolo.architecture import MIVOLO
from export.experts.onnx_file.architecture import ONNX

ARCHITECTURES: dict[str, Architecture] = {
    "vgg16": VGG16,
    "resnet50": RESNET50,
    "onnx": ONNX,
    "faceapi": FACEAPI,
    "janus": JANUS,
    "mivolo": MIVOLO,
}
"""By the name used in experts.toml."""


def build_expert(config: ExpertConfig, checkpoint: Path | None) -> BuiltExpert:
    """Builds an expert.

    Args:
        config: from experts.toml.
        checkpoint: its weights; None for seeded random ones.

    Raises:
        CheckpointError: the weights cannot be loaded or do not fit.
        GraphError: a given ONNX file is not as configured.
    """
    expert = ARCHITECTURES[config.architecture].build(config, checkpoint)
    if not config.views:
        return expert
    from export.graph.views import MirroredExpert

    return MirroredExpert(expert)


def count_parameters(config: ExpertConfig, checkpoint: Path | None = None) -> int:
    """Counts the weights of an expert without creating them.

    Args:
        config: from experts.toml.
        checkpoint: read where its own files give the size; None for random weights.
    """
    return ARCHITECTURES[config.architecture].count_parameters(config, checkpoint)
