"""Small and full-size MiVOLOs with random weights, images for them, and their ONNX files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.experts.mivolo.expert import mivolo_signature
from export.experts.mivolo.module import AgeScale, MiVoloExpert, MiVoloSpec
from export.experts.mivolo.network import VARIANTS
from export.experts.mivolo.settings import LETTERBOX
from export.graph.conversion import onnx_from_module
from tests.export.reference_mivolo import raw_outputs

IMDB = AgeScale(1, 95, 48)
V2_AGES = AgeScale(0, 122, 61)


def spec(variant: str = "demo", input_size: int = 64, **options: bool) -> MiVoloSpec:
    return MiVoloSpec(VARIANTS[variant], IMDB, input_size, **options)


def v2_spec() -> MiVoloSpec:
    """The shape of iitolstykh/mivolo_v2."""
    return MiVoloSpec(VARIANTS["d1"], V2_AGES, 384)


def noise_images(expert: MiVoloExpert, count: int, seed: int = 0) -> list[Tensor]:
    """Returns noise of varied brightness, the last person black: uint8 (N, H, W, 3) each."""
    generator = torch.Generator().manual_seed(seed)
    size = expert.spec.input_size
    images = []
    for _ in expert.input_names:
        noise = torch.rand(count, size, size, 3, generator=generator)
        images.append((255 * noise * torch.rand(count, 1, 1, 3, generator=generator)).byte())
    if len(images) > 1:
        images[1][-1] = 0
    return images


def reference(expert: MiVoloExpert, images: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Returns years (N,) and gender probabilities (N, 2) of the reference, in float64."""
    state, shape = expert.network.state_dict(), expert.spec.shape
    raw = raw_outputs(state, shape.num_heads, images[0], images[1] if len(images) > 1 else None)
    ages = expert.spec.ages
    years = raw[:, -1] * (ages.max_years - ages.min_years) + ages.avg_years
    return years, raw[:, :2].softmax(-1)


def write_onnx(expert: MiVoloExpert, path: Path) -> Path:
    onnx_from_module(expert, mivolo_signature(expert, LETTERBOX), path)
    return path


def run_onnx(path: Path, expert: MiVoloExpert, images: list[Tensor]) -> list[NDArray[np.float32]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = zip(expert.input_names, images, strict=True)
    outputs: list[NDArray[np.float32]] = session.run(
        list(expert.output_names), {name: image.numpy() for name, image in feeds}
    )
    return outputs
