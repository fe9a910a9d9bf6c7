"""The reference model of an expert: its FP32 graph, and its outputs on the verification faces."""

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
"""Networks with more weights, 1 GiB in FP32, are exported in a process of their own."""


@dataclass(frozen=True, slots=True)
class ReferenceModel:
    """The signature, images and outputs that later steps need of a network."""

    signature: Signature
    images: Images
    """The verification faces, as the expert's inputs."""
    reference: Outputs
    """The network's outputs on them."""


def write_reference(
    config: ExpertConfig,
    checkpoint: Path | None,
    path: Path,
    stage: Callable[[str], None] = lambda _: None,
) -> ReferenceModel:
    """Builds a network, runs it on the verification faces and writes its FP32 graph.

    Without a checkpoint the weights are random. `stage` is called with the name of each stage.

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
    """Does the same as `write_reference` in a process of its own.

    PyTorch's exporter keeps references to the weights. Only the end of a process is certain to free
    that memory before ONNX Runtime loads the same weights again.

    Raises:
        ExportError: as for `write_reference`, or the process was killed.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(write_reference, config, checkpoint, path).result()
        except BrokenProcessPool as error:
            raise ExportError(
                f"The process that held the weights of {config.name!r} was killed, most likely "
                f"for lack of memory. Close other programs, or build on a larger machine."
            ) from error
