"""Small experts with random weights, and checkpoints of them, for tests of the exporter."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from safetensors.torch import save_file

from export.config.settings import AgeHead, Normalization
from export.experts.cnn.network import CnnExpert, cnn_module, settle
from export.experts.cnn.settings import CnnSettings
from export.faces.verification import verification_images
from runtime.geometry import Geometry
from runtime.manifest import InputSpec

SIDE = 64


def small_settings(kind: str = "expectation", classes: int = 101) -> CnnSettings:
    grid = tuple(float(age) for age in range(classes))
    head = AgeHead("regression", years_per_unit=10.0, years_offset=40.0)
    if kind == "expectation":
        head = AgeHead("expectation", age_grid=grid)
    return CnnSettings(SIDE, SIDE, Normalization(), head, width_factor=0.125)


def small_module(
    architecture: str = "resnet50", kind: str = "expectation", seed: int = 0
) -> CnnExpert:
    module = cnn_module(architecture, small_settings(kind), seed)
    images = verification_images((InputSpec("face", SIDE, SIDE, Geometry()),))
    settle(module, torch.from_numpy(images["face"]), seed=seed)
    return module


def round_ages(source: Path, target: Path) -> Path:
    """Writes a graph with its ages rounded, as a head with `round_years` does."""
    model = onnx.load(str(source))
    for node in model.graph.node:
        for position, name in enumerate(node.output):
            if name == "age_years":
                node.output[position] = "exact_years"
    model.graph.node.append(onnx.helper.make_node("Round", ["exact_years"], ["age_years"], "whole"))
    onnx.save(model, str(target))
    return target


def write_checkpoint(path: Path, module: CnnExpert) -> Path:
    state = {key: value.contiguous() for key, value in module.network.state_dict().items()}
    save_file(state, path)
    return path


def experts_toml(folder: Path, **checkpoints: str) -> Path:
    """Writes experts.toml with small experts named after their architecture."""
    tables = []
    for name, checkpoint in checkpoints.items():
        tables.append(
            f"[experts.{name}]\narchitecture = '{name}'\ncheckpoint = '{checkpoint}'\n"
            f"input_size = {SIDE}\nwidth_factor = 0.125\n"
        )
    path = folder / "experts.toml"
    path.write_text("\n".join(tables))
    return path
