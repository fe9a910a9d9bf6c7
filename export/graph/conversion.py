"""PyTorch modules to ONNX files."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from export.config.contract import Signature
from export.errors import GraphError
from export.graph.dense import dense_from_convolutions
from export.graph.shapes import fix_reshapes
from export.graph.weights import SMALLEST_OUTSIDE_BYTES, data_path, fits_in_graph, save_model

if TYPE_CHECKING:
    import torch
    from torch import nn

OPSET = 20
"""Newest opset whose operators TensorRT 10.0 and later support."""
BATCH = "batch"
"""Name of the only dynamic dimension."""
REVISION = 3
"""Bumped whenever the files this module writes change."""


def onnx_from_module(module: nn.Module, signature: Signature, path: Path) -> None:
    """Writes a module as ONNX with a dynamic batch and all other dimensions constant.

    Args:
        module: takes uint8 (N, H, W, 3) per input, returns a tuple with a tensor per output.
        signature: names and sizes of inputs and outputs.
        path: of the file; large weights go to an external data file beside it, `<name>.data`.

    Raises:
        GraphError: the exporter returned no program.
    """
    import torch

    examples = tuple(
        torch.zeros(2, spec.height, spec.width, 3, dtype=torch.uint8) for spec in signature.inputs
    )
    batch = torch.export.Dim(BATCH, min=1, max=1024)
    with _quiet(), torch.inference_mode():
        program = torch.onnx.export(
            module,
            examples,
            dynamo=True,
            opset_version=OPSET,
            input_names=[spec.name for spec in signature.inputs],
            output_names=list(signature.outputs),
            dynamic_shapes=tuple({0: batch} for _ in examples),
            verbose=False,
        )
    if program is None:
        raise GraphError("torch.onnx.export returned no program.")
    if signature.fold_weights:
        _fold(program)
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, with the paths of this machine
    if not fits_in_graph(sum(p.numel() * p.element_size() for p in module.parameters())):
        _stream(program, path)
        return
    model = program.model_proto
    fix_reshapes(model)
    dense_from_convolutions(model)
    save_model(model, path)


def _stream(program: torch.onnx.ONNXProgram, path: Path) -> None:
    """Writes a large program without `model_proto`, which would copy all its weights."""
    import onnx_ir

    onnx_ir.save(
        program.model,
        path,
        external_data=data_path(path).name,
        size_threshold_bytes=SMALLEST_OUTSIDE_BYTES,
    )
    # PyTorch's caches keep the program alive, so that its weights are released here.
    for value in program.model.graph.initializers.values():
        value.const_value = None
    program.exported_program = None
    model = onnx.load(str(path), load_external_data=False)
    fix_reshapes(model)
    dense_from_convolutions(model)
    onnx.save(model, path)


def _fold(program: torch.onnx.ONNXProgram) -> None:
    """Folds arithmetic on weights of any size; the exporter itself folds small ones only."""
    from onnxscript import optimizer

    any_size = 1 << 62
    with _quiet():
        optimizer.optimize(program.model, input_size_limit=any_size, output_size_limit=any_size)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's progress and deprecation notices."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
