"""Weights that lie beside a graph: read and written one at a time, however large the whole is."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

SMALLEST_OUTSIDE_BYTES = 1024
"""Smaller weights stay in the graph, where shape inference can read them."""


def data_path(path: Path) -> Path:
    """Where the weights of a graph lie if they are not in it."""
    return path.with_name(f"{path.name}.data")


def has_data_file(path: Path) -> bool:
    """Whether a saved graph's weights lie beside it."""
    return data_path(path).exists()


def weight_array(tensor: TensorProto, folder: Path) -> NDArray[np.generic]:
    """A weight, wherever it lies; the tensor itself is left as it is.

    Args:
        tensor: of a graph that was loaded without its external data.
        folder: the graph's.
    """
    if not uses_external_data(tensor):
        return numpy_helper.to_array(tensor)
    info = ExternalDataInfo(tensor)
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    count = math.prod(tensor.dims)
    offset = info.offset or 0
    return np.fromfile(folder / info.location, kind, count, offset=offset).reshape(tensor.dims)


class WeightFile:
    """A file beside a graph, to which weights are appended."""

    def __init__(self, path: Path) -> None:
        """Opens a new file.

        Args:
            path: of the graph; the weights go to `data_path` of it.
        """
        self._path = data_path(path)
        self._file = self._path.open("wb")

    def put(self, name: str, array: NDArray[np.generic]) -> TensorProto:
        """Appends a weight, unless it is small.

        Returns:
            What stands for it in the graph.
        """
        if array.nbytes < SMALLEST_OUTSIDE_BYTES:
            return numpy_helper.from_array(array, name)
        tensor = TensorProto(
            name=name,
            dims=array.shape,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            data_location=TensorProto.EXTERNAL,
        )
        facts = {"location": self._path.name, "offset": self._file.tell(), "length": array.nbytes}
        for key, value in facts.items():
            tensor.external_data.add(key=key, value=str(value))
        np.ascontiguousarray(array).tofile(self._file)
        return tensor

    def __enter__(self) -> Self:
        """The file itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the file."""
        self._file.close()
