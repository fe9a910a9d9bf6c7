"""Saved ONNX graphs and their weights: in the graph, or in an external data file beside it.

External weights are read and written one at a time, so that memory does not grow with the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

LARGEST_INLINE_BYTES = 16 << 20
"""Larger weights go into a file of their own, which ONNX Runtime maps into memory; those within a
graph are copied twice while it is parsed."""
LARGEST_WHOLE_BYTES = 1 << 30
"""Graphs with more weights are never held whole in memory: protobuf ends at 2 GiB."""
SMALLEST_OUTSIDE_BYTES = 1024
"""Smaller weights stay in the graph, where shape inference can read them."""
_ALIGNMENT_BYTES = 64
"""Of each weight in the file: a cache line, and a multiple of every element's size."""


def data_path(path: Path) -> Path:
    """Returns the path of a graph's external data file."""
    return path.with_name(f"{path.name}.data")


def has_data_file(path: Path) -> bool:
    """Returns whether a saved graph has an external data file."""
    return data_path(path).exists()


def model_files(path: Path) -> list[Path]:
    """Returns the files of a saved model, the graph first."""
    return [path, data_path(path)] if has_data_file(path) else [path]


def is_large(path: Path) -> bool:
    """Returns whether a saved model is too large to be held whole in memory."""
    return sum(file.stat().st_size for file in model_files(path)) >= LARGEST_WHOLE_BYTES


def fits_in_graph(size_bytes: int) -> bool:
    """Returns whether weights of this size are stored in the graph itself."""
    return size_bytes < LARGEST_INLINE_BYTES


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Writes a model; weights that do not fit in the graph move to an external data file."""
    if fits_in_graph(model.ByteSize()):
        data_path(path).unlink(missing_ok=True)  # of an earlier, larger model
        onnx.save(model, path)
        return
    weights = [(tensor.name, numpy_helper.to_array(tensor)) for tensor in model.graph.initializer]
    save_with_weights(model, weights, path, external=True)


def save_with_weights(
    model: onnx.ModelProto,
    weights: Iterable[tuple[str, NDArray[np.generic]]],
    path: Path,
    *,
    external: bool,
) -> None:
    """Writes a model with new weights.

    Args:
        model: the graph; its own weights are replaced.
        weights: names and arrays; those of an external data file are read one at a time.
        path: of the file to write.
        external: whether weights go to an external data file.
    """
    if external:
        with data_path(path).open("wb") as file:
            stored = [_append(file, name, array) for name, array in weights]
    else:
        stored = [numpy_helper.from_array(array, name) for name, array in weights]
    del model.graph.initializer[:]
    model.graph.initializer.extend(stored)
    if external:
        onnx.save(model, path)
    else:
        save_model(model, path)


def weight_array(tensor: TensorProto, folder: Path) -> NDArray[np.generic]:
    """Returns the values of a weight and leaves the tensor unchanged.

    Args:
        tensor: of a graph that was loaded without its external data.
        folder: the graph's.
    """
    if not uses_external_data(tensor):
        return numpy_helper.to_array(tensor)
    info = ExternalDataInfo(tensor)
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    count = math.prod(tensor.dims)
    offset = info.offset or 0
    return np.fromfile(folder / info.location, dtype, count, offset=offset).reshape(tensor.dims)


def _append(file: BinaryIO, name: str, array: NDArray[np.generic]) -> TensorProto:
    """Appends a weight to an external data file, unless it is small or text; returns its tensor."""
    if array.nbytes < SMALLEST_OUTSIDE_BYTES or array.dtype == object:
        return numpy_helper.from_array(array, name)
    tensor = TensorProto(
        name=name,
        dims=array.shape,
        data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
        data_location=TensorProto.EXTERNAL,
    )
    file.write(bytes(-file.tell() % _ALIGNMENT_BYTES))
    location = Path(file.name).name
    facts = {"location": location, "offset": file.tell(), "length": array.nbytes}
    for key, value in facts.items():
        tensor.external_data.add(key=key, value=str(value))
    np.ascontiguousarray(array).tofile(file)
    return tensor
