"""An expert's original network: its FP32 graph, and what it says of the verification faces."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from export.config.architecture import ExpertConfig
from export.config.contract import Images, Outputs, Signature
from export.errors import ExportError
from export.experts.registry import build_expert
from export.faces.verification import verification_images

LARGE_PARAMETERS = 1 << 28
"""From 1 GiB of FP32 weights on, a network gets a process of its own."""


@dataclass(frozen=True, slots=True)
class ReferenceModel:
    """What remains of a network when its graph is written."""

    signature: Signature
    images: Images
    """The verification faces, as the expert's inputs."""
    reference: Outputs
    """What the network says of them."""


def write_reference(
    config: ExpertConfig,
    checkpoint: Path | None,
    path: Path,
    stage: Callable[[str], None] = lambda _: None,
) -> ReferenceModel:
    """Builds a network, runs it on the verification faces and writes its FP32 graph.

    Args:
        config: the expert.
        checkpoint: its weights; None for random ones.
        path: of the ONNX file.
        stage: hears what is being done.

    Raises:
        ExportError: the weights do not fit, or the graph cannot be written.
    """
    stage("loading the weights")
    expert = build_expert(config, checkpoint)
    images = verification_images(expert.signature.inputs, few=expert.signature.few_faces)
    stage("running the reference on the verification faces")
    reference = expert.reference(images)
    stage("writing ONNX")
    expert.write_onnx(path)
    return ReferenceModel(expert.signature, images, reference)


def write_large_reference(
    config: ExpertConfig, checkpoint: Path | None, path: Path
) -> ReferenceModel:
    """The same in a process of its own.

    PyTorch's exporter leaves references to the weights behind; only the end of a process gives
    such memory back for certain, before ONNX Runtime loads the same weights again.

    Raises:
        ExportError: as `write_reference`, or the process was killed.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(write_reference, config, checkpoint, path).result()
        except BrokenProcessPool as error:
            raise ExportError(
                f"The process that held the weights of {config.name!r} was killed, most likely "
                f"for want of memory. Close other programs, or build on a larger machine."
            ) from error
