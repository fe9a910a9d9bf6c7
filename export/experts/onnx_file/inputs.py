"""The image input of a given ONNX file: its checks, and the nodes that prepare the pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.config.settings import Normalization
from export.errors import GraphError
from export.experts.onnx_file.given import GivenFile
from export.experts.onnx_file.nodes import Nodes
from export.experts.onnx_file.settings import GRAY, OnnxSettings
from export.graph.traversal import names_read

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_INTEGERS = (TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64)
"""Types of inputs that hold the pixels themselves, within 0..255."""
GRAY_WEIGHTS = np.array([19595, 38470, 7471], np.float32) / np.float32(65536)
"""Of red, green and blue, as in Pillow's conversion to mode L (ITU-R 601 in 16 bits; libImaging's
Convert.c). Products and sums are exact in float32, and so is the rounded result."""


@dataclass(frozen=True, slots=True)
class GivenInput:
    """The image input of a given file."""

    name: str
    kind: int
    """A `TensorProto.DataType`."""
    batch: int
    """Faces per run: the batch that the file fixes, or 1."""


def find_input(given: GivenFile, settings: OnnxSettings) -> GivenInput:
    """Returns the input of a file.

    Raises:
        GraphError: it differs from the settings.
    """
    graph, path = given.model.graph, given.path
    weights = {t.name for t in graph.initializer} | {
        t.values.name for t in graph.sparse_initializer
    }
    inputs = [value for value in graph.input if value.name not in weights]
    names = [str(value.name) for value in inputs]
    if len(inputs) != 1:
        raise GraphError(f"{path} has inputs {names}, expected one image.")
    tensor = inputs[0].type.tensor_type
    kind = int(tensor.elem_type)
    if kind not in (*_FLOATS, *_INTEGERS):
        wanted = ", ".join(TensorProto.DataType.Name(k) for k in (*_FLOATS, *_INTEGERS))
        found = TensorProto.DataType.Name(kind)
        raise GraphError(f"{path}: input {names[0]!r} is {found}, expected one of {wanted}.")
    if kind in _INTEGERS and settings.normalized:
        raise GraphError(
            f"{path}: input {names[0]!r} is {TensorProto.DataType.Name(kind)}, so it takes pixels "
            f"as they are, within 0..255. Leave out `scale`, `mean` and `std`."
        )
    return GivenInput(names[0], kind, _batch(given, names[0], tensor, settings))


def _batch(
    given: GivenFile, name: str, tensor: onnx.TypeProto.Tensor, settings: OnnxSettings
) -> int:
    """Compares the declared shape with the settings; returns the batch size that it fixes, or 1."""
    if not tensor.HasField("shape"):
        return 1
    found = [axis.dim_value for axis in tensor.shape.dim]
    channels = 1 if settings.normalization.color_order == GRAY else 3
    size = (settings.height, settings.width)
    wanted = [channels, *size] if settings.layout == "NCHW" else [*size, channels]
    fits = len(found) == 4 and all(f in (0, w) for f, w in zip(found[1:], wanted, strict=True))
    if not fits:
        shown = ", ".join(str(axis.dim_param or axis.dim_value or "?") for axis in tensor.shape.dim)
        raise GraphError(
            f"{given.path}: input {name!r} has the shape ({shown}), expected "
            f"(N, {str(wanted)[1:-1]}). Check `layout` and `input_size`{_hint(found, settings)}."
        )
    return int(found[0]) if found[0] > 0 else 1


def _hint(found: list[int], settings: OnnxSettings) -> str:
    """Returns the settings that would fit a declared shape, where they are evident."""
    gray = settings.normalization.color_order == GRAY
    axis = 1 if settings.layout == "NCHW" else -1
    if len(found) == 4 and found[axis] == (3 if gray else 1):
        return f"; with {found[axis]} channels, color_order is " + (
            "'RGB' or 'BGR'" if gray else f"{GRAY!r}"
        )
    if len(found) == 3:
        return "; an input without a batch takes one face only: export with a dynamic batch"
    return ""


def add_preparation(nodes: Nodes, settings: OnnxSettings, given: GivenInput) -> str:
    """Adds the nodes from `face`, uint8 (N, H, W, 3) RGB, to the given input; returns its name.

    The result still is float32: see `connect`.
    """
    order = settings.normalization.color_order
    pixels = nodes.add("Cast", ["face"], "pixels", to=TensorProto.FLOAT)
    if order == "BGR":
        channels = nodes.constant("bgr", np.array([2, 1, 0], np.int64))
        pixels = nodes.add("Gather", [pixels, channels], "ordered", axis=3)
    elif order == GRAY:
        weights = nodes.constant("gray_weights", GRAY_WEIGHTS.reshape(3, 1))
        half = nodes.constant("half", np.array(0.5, np.float32))
        gray = nodes.add("MatMul", [pixels, weights], "gray_sum")
        pixels = nodes.add("Floor", [nodes.add("Add", [gray, half], "gray_half")], "gray")
    if given.kind not in _INTEGERS:
        factor, offset = _factor_and_offset(settings.normalization)
        scaled = nodes.add("Mul", [pixels, nodes.constant("factor", factor)], "scaled")
        pixels = nodes.add("Add", [scaled, nodes.constant("offset", offset)], "normalized")
    if settings.layout == "NCHW":
        pixels = nodes.add("Transpose", [pixels], "image", perm=[0, 3, 1, 2])
    return pixels


def connect(graph: onnx.GraphProto, nodes: Nodes, pixels: str, name: str, kind: int) -> None:
    """Gives the given graph its input, by name and type, in place.

    An input of another type than float32 that nodes only cast is replaced by float32 pixels, since
    TensorRT has no uint8 within a network.
    """
    readers = [node for node in graph.node if name in names_read(node)]
    if kind in _INTEGERS and all(node.op_type == "Cast" for node in readers):
        for node in readers:
            node.input[0] = pixels
    elif kind == TensorProto.FLOAT:
        nodes.add("Identity", [pixels], "given_input", name)
    else:
        nodes.add("Cast", [pixels], "given_input", name, to=kind)


def as_input(
    face: NDArray[np.uint8], settings: OnnxSettings, given: GivenInput
) -> NDArray[np.generic]:
    """Prepares one face, uint8 (H, W, 3), for the given file: (B, C, H, W) or (B, H, W, C).

    A file with a fixed batch of B gets the face B times.
    """
    order = settings.normalization.color_order
    pixels = (face[..., ::-1] if order == "BGR" else face).astype(np.float32)
    if order == GRAY:
        pixels = np.floor((face * GRAY_WEIGHTS).sum(axis=-1, keepdims=True) + np.float32(0.5))
    if given.kind not in _INTEGERS:
        factor, offset = _factor_and_offset(settings.normalization)
        pixels = pixels * factor + offset
    laid_out = pixels.transpose(2, 0, 1) if settings.layout == "NCHW" else pixels
    dtype = helper.tensor_dtype_to_np_dtype(given.kind)
    return np.repeat(np.ascontiguousarray(laid_out)[None], given.batch, axis=0).astype(dtype)


def _factor_and_offset(n: Normalization) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rewrites (pixel * scale - mean) / std as pixel * factor + offset, per channel."""
    mean, std = np.array(n.mean), np.array(n.std)
    if n.color_order == GRAY:
        mean, std = mean[:1], std[:1]
    return (n.scale / std).astype(np.float32), (-mean / std).astype(np.float32)
