"""ONNX models as the kernels of the fake TensorRT and the fake CUDA provider.

They run on ONNX Runtime's CPU provider with one thread, one row of the batch at a time, so that the
output for a row does not depend on its batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tests.gpu.fake_driver import SimulatedDriver
from tests.gpu.fake_streams import Span, Work

DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
_CPU = onnxruntime.InferenceSession
_sessions: dict[str, Any] = {}


class Model:
    """One graph, loaded once per process."""

    def __init__(self, graph: bytes | str) -> None:
        """Loads the graph from its bytes or, with external data, from its path."""
        key = hashlib.sha256(graph).hexdigest() if isinstance(graph, bytes) else graph
        if key not in _sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            _sessions[key] = _CPU(graph, options, providers=["CPUExecutionProvider"])
        self._session = _sessions[key]
        self.inputs = {value.name: value for value in self._session.get_inputs()}
        self.outputs = {value.name: value for value in self._session.get_outputs()}

    def dtype(self, name: str) -> np.dtype[Any]:
        """Returns the dtype of an input or output."""
        dtype: np.dtype[Any] = np.dtype(DTYPES[(self.inputs | self.outputs)[name].type])
        return dtype

    def shape(self, name: str, batch: int = -1) -> tuple[int, ...]:
        """Returns the shape of an input or output; -1 stands for the batch."""
        declared = (self.inputs | self.outputs)[name].shape
        return batch, *(dim if isinstance(dim, int) else -1 for dim in declared[1:])

    def size_bytes(self, name: str, batch: int) -> int:
        return int(np.prod(self.shape(name, batch))) * self.dtype(name).itemsize

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        rows = range(len(next(iter(inputs.values()))))
        results = [
            self._session.run(None, {name: array[i : i + 1] for name, array in inputs.items()})
            for i in rows
        ]
        columns = zip(*results, strict=True)
        return {
            name: np.concatenate(column) for name, column in zip(self.outputs, columns, strict=True)
        }


def execution(
    gpu: SimulatedDriver,
    label: str,
    model: Model,
    addresses: Mapping[str, int],
    batch: int,
    exclusive: Sequence[Span] = (),
) -> Work:
    """Returns the run of a model as work for a stream.

    Args:
        gpu: that owns the memory.
        label: of the work.
        model: to run.
        addresses: of the device memory of all inputs and outputs.
        batch: rows.
        exclusive: spans that no other work may use at the same time.

    Raises:
        RuleBrokenError: an address does not point to live memory of sufficient size.
    """
    views = {name: _view(gpu, label, model, name, addresses[name], batch) for name in addresses}

    def run() -> None:
        outputs = model.run({name: views[name].copy() for name in model.inputs})
        for name in model.outputs:
            if name in views:
                views[name][...] = outputs[name].reshape(views[name].shape)

    def spans(names: Mapping[str, Any]) -> tuple[Span, ...]:
        used = [name for name in names if name in addresses]
        return tuple((addresses[n], addresses[n] + model.size_bytes(n, batch)) for n in used)

    return Work(label, run, reads=spans(model.inputs), writes=(*spans(model.outputs), *exclusive))


def _view(
    gpu: SimulatedDriver, label: str, model: Model, name: str, address: int, batch: int
) -> NDArray[Any]:
    size = model.size_bytes(name, batch)
    view = gpu.memory.view(address, size, "device")
    if view is None:
        gpu.fault(f"{label}: {name} needs {size:,} bytes at {address:#x}, which are not allocated")
    assert view is not None
    return view.view(model.dtype(name)).reshape(model.shape(name, batch))
