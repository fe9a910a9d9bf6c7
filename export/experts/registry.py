"""From an expert's configuration and its weights to what the pipeline exports."""

from __future__ import annotations

from pathlib import Path

import torch

from export.build.options import ExpertConfig
from export.checkpoints.loading import load_checkpoint
from export.config.contract import BuiltExpert
from export.config.settings import JanusSettings, MiVoloSettings, OnnxSettings
from export.experts.cnn import cnn_expert, cnn_module, load_cnn, settle
from export.experts.janus.expert import count_janus_parameters, janus_expert
from export.experts.mivolo.expert import count_mivolo_parameters, mivolo_expert
from export.experts.onnx_file import external_expert
from export.faces.verification import verification_images


def count_parameters(config: ExpertConfig, checkpoint: Path | None = None) -> int:
    """Number of weights of an expert, without making them.

    Args:
        config: what experts.toml says of it.
        checkpoint: where its own files tell its size; None for random weights.
    """
    if isinstance(config.settings, OnnxSettings):
        return 0
    if isinstance(config.settings, JanusSettings):
        return count_janus_parameters(config.settings, checkpoint)
    if isinstance(config.settings, MiVoloSettings):
        return count_mivolo_parameters(config.settings)
    with torch.device("meta"):
        module = cnn_module(config.architecture, config.settings)
    return sum(parameter.numel() for parameter in module.parameters())


def build_expert(config: ExpertConfig, checkpoint: Path | None) -> BuiltExpert:
    """Builds an expert.

    Args:
        config: what experts.toml says of it.
        checkpoint: its weights; None for seeded random ones.

    Raises:
        CheckpointError: the weights cannot be loaded or do not fit.
        GraphError: a given ONNX file is not what the configuration says.
    """
    settings = config.settings
    if isinstance(settings, OnnxSettings):
        if checkpoint is None:
            raise ValueError(f"Expert {config.name!r} is a given ONNX file and none was given.")
        return external_expert(checkpoint, settings, config.geometry)
    if isinstance(settings, JanusSettings):
        return janus_expert(settings, checkpoint, config.geometry.crop_margin)
    if isinstance(settings, MiVoloSettings):
        return mivolo_expert(settings, checkpoint, config.geometry)
    module = cnn_module(config.architecture, settings)
    expert = cnn_expert(module, settings, config.geometry)
    if checkpoint is None:
        images = verification_images(expert.signature.inputs)
        settle(module, torch.from_numpy(images["face"]))
    else:
        load_cnn(module, config.architecture, load_checkpoint(checkpoint).state)
    return expert
