"""The graph of a face detector: a given file, for pictures of any size."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto

from export.errors import GraphError
from export.graph.conversion import BATCH

REVISION = 1
"""To be raised with every change of the graph that is written."""
CENTERFACE_CHANNELS = (1, 2, 2, 10)
"""Of CenterFace's outputs in their order: heat, size, offset and landmarks of a face."""
STRIDE = 4
"""Pixels per cell of CenterFace's outputs."""


def write_centerface(source: Path, path: Path) -> None:
    """Writes CenterFace with symbolic batch, height and width.

    The published file declares the sizes 10, 32 and 32; its network is convolutional, so that any
    multiple of 32 will do. Input and outputs keep their names and order.

    Args:
        source: the published file; float32 input (N, 3, H, W), outputs (N, C, H / 4, W / 4) with
            the C of `CENTERFACE_CHANNELS`.
        path: of the file to write.

    Raises:
        GraphError: the file is not ONNX, or not CenterFace's.
    """
    try:
        model = onnx.load(str(source))
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and onnx raise their own, without a common base
        raise GraphError(f"{source} is not a valid ONNX file: {error}") from error
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    outputs = list(model.graph.output)
    found = [_sizes(value) for value in (*inputs, *outputs)]
    wanted = [3, *CENTERFACE_CHANNELS]
    fits = all(len(sizes) == 4 for sizes in found) and [sizes[1] for sizes in found] == wanted
    if len(inputs) != 1 or not fits or not _is_float(inputs[0]):
        raise GraphError(
            f"{source} is not CenterFace: it has {len(inputs)} inputs and {len(outputs)} outputs "
            f"of the sizes {found}; expected 1 and 4, with {wanted} channels."
        )
    _set_symbols(inputs[0], "height", "width")
    for value in outputs:
        _set_symbols(value, "rows", "columns")
    del model.graph.value_info[:]  # shapes inferred for the declared size
    onnx.save(model, str(path))


def _sizes(value: onnx.ValueInfoProto) -> list[int]:
    return [axis.dim_value for axis in value.type.tensor_type.shape.dim]


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT)


def _set_symbols(value: onnx.ValueInfoProto, height: str, width: str) -> None:
    axes = value.type.tensor_type.shape.dim
    for index, symbol in ((0, BATCH), (2, height), (3, width)):
        axes[index].dim_param = symbol
