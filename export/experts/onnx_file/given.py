"""A given ONNX file as it is: read with its external data, and run unchanged by ONNX Runtime."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from export.checkpoints.onnx_files import external_data_files
from export.errors import GraphError
from export.experts.onnx_file.nodes import attribute_of, opset_of
from export.graph.conversion import OPSET
from export.graph.sessions import open_session
from export.graph.traversal import all_graphs, name_nodes

_LARGEST_PROTOBUF = (1 << 31) - 1
"""Bytes; a larger model is opened by its path."""
_KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "com.microsoft")
"""Domains of operators that ONNX Runtime has; others need a library of their own."""
OLDEST_OPSET = 7
"""Of which ONNX Runtime has all operators."""
_POINTER = b"version https://git-lfs"


class GivenFile:
    """A given ONNX file, unchanged."""

    def __init__(self, path: Path) -> None:
        """Reads the file and its external data.

        Raises:
            CheckpointError: external data is missing.
            GraphError: it is not an ONNX file, or damaged.
        """
        self.path = path
        self.model = _read(path)
        # ONNX Runtime opens no external data outside the file's own folder, and some versions none
        # through the symbolic links of the hub's cache; sizes of 0 it takes at their word.
        self._in_parts = bool(external_data_files(path)) or _clear_zeros(self.model)

    @cached_property
    def session(self) -> Any:  # noqa: ANN401 - onnxruntime has no types
        """ONNX Runtime's session of the unchanged file.

        Raises:
            GraphError: ONNX Runtime cannot load it.
        """
        try:
            return open_session(self._in_memory() if self._in_parts else str(self.path))
        except ModuleNotFoundError:  # of ONNX Runtime itself
            raise
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise GraphError(_not_loaded(self.path, self.model, error)) from error

    def run(self, name: str, pixels: NDArray[Any], outputs: list[str] | None) -> list[NDArray[Any]]:
        """Runs the file on an input given by name.

        Raises:
            GraphError: it cannot be run on it.
        """
        session = self.session
        try:
            found: list[NDArray[Any]] = session.run(outputs, {name: pixels})
        except Exception as error:  # onnxruntime's own exceptions have no common base
            reason = run_problem(self._in_memory(), {name: pixels}, error)
            raise GraphError(
                f"{self.path}: ONNX Runtime cannot run it on an input {name!r} of shape "
                f"{pixels.shape}: {reason}. Check `input_size`, `layout` and `color_order`, or "
                f"export the file again."
            ) from error
        return found

    def _in_memory(self) -> str | bytes:
        """Returns the whole model, or its path where it is too large for one protobuf."""
        small = self.model.ByteSize() <= _LARGEST_PROTOBUF
        return self.model.SerializeToString() if small else str(self.path)


def computes_in_half(model: onnx.ModelProto) -> bool:
    """Returns whether a model has tensors in half precision."""
    casts = (
        node.op_type == "Cast" and attribute_of(node, "to") == TensorProto.FLOAT16
        for graph in all_graphs(model.graph)
        for node in graph.node
    )
    values = (
        value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)
    )
    return (
        any(tensor.data_type == TensorProto.FLOAT16 for tensor in _tensors(model))
        or TensorProto.FLOAT16 in values
        or any(casts)
    )


def _read(path: Path) -> onnx.ModelProto:
    _refuse_others(path)
    files = external_data_files(path)
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf raises its own, without a common base
        raise GraphError(f"{path} is not a valid ONNX file: {error}") from error
    if not model.graph.node or not model.graph.output:
        raise GraphError(f"{path} is not a valid ONNX file: its graph is empty.")
    if 0 < opset_of(model) < OLDEST_OPSET:
        raise GraphError(
            f"{path} uses opset {opset_of(model)}; the oldest that can be read is {OLDEST_OPSET}. "
            f"Export the network again with opset {OPSET}."
        )
    name_nodes(model)
    if files:
        for tensor in _tensors(model):
            if uses_external_data(tensor):
                _load_outside(tensor, path)
    return model


def _refuse_others(path: Path) -> None:
    """Raises `GraphError` for a folder, or a pointer of Git LFS."""
    if path.is_dir():
        found = ", ".join(sorted(p.name for p in path.glob("*.onnx"))) or "none"
        raise GraphError(f"{path} is a folder; give the ONNX file itself (there: {found}).")
    with path.open("rb") as file:
        pointer = file.read(len(_POINTER)) == _POINTER
    if pointer:
        raise GraphError(
            f"{path} is not a valid ONNX file but Git LFS's pointer to one. Run `git lfs pull`."
        )


def _clear_zeros(model: onnx.ModelProto) -> bool:
    """Removes sizes of 0 from the declared shapes, by which some exporters mean any size.

    Returns whether there were any.
    """
    found = False
    for value in (*model.graph.input, *model.graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.HasField("dim_value") and axis.dim_value == 0:
                axis.ClearField("dim_value")
                found = True
    return found


def _tensors(model: onnx.ModelProto) -> list[TensorProto]:
    """Returns all tensors of a model: weights, and constants in nodes."""
    tensors = []
    graphs = list(all_graphs(model.graph))
    nodes = [node for graph in graphs for node in graph.node]
    for function in model.functions:
        nodes += function.node
        for node in function.node:
            for attribute in node.attribute:
                inner = [attribute.g] if attribute.HasField("g") else [*attribute.graphs]
                for graph in inner:
                    graphs += all_graphs(graph)
                    nodes += [n for part in all_graphs(graph) for n in part.node]
    for graph in graphs:
        tensors += graph.initializer
        for sparse in graph.sparse_initializer:
            tensors += [sparse.values, sparse.indices]
    for node in nodes:
        for attribute in node.attribute:
            tensors += [attribute.t] if attribute.HasField("t") else []
            tensors += attribute.tensors
    return tensors


def _load_outside(tensor: TensorProto, path: Path) -> None:
    """Reads a tensor's values from its file beside the model, into the tensor."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about entries that are not used
            info = ExternalDataInfo(tensor)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, ValueError) as error:
        raise GraphError(
            f"{path}: the external data of {tensor.name!r} are not described: {error}."
        ) from error
    source = path.parent / info.location
    wanted = info.length or math.prod(tensor.dims) * dtype.itemsize
    start, size = info.offset or 0, source.stat().st_size
    if not 0 <= start <= start + wanted <= size:
        raise GraphError(
            f"{source} is too short: {tensor.name!r} should have {wanted:,} bytes from {start:,}, "
            f"the file has {size:,}. Download it again."
        )
    with source.open("rb") as file:
        file.seek(start)
        tensor.raw_data = file.read(wanted)
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]
    try:
        numpy_helper.to_array(tensor)
    except ValueError as error:
        raise GraphError(f"{path}: {tensor.name!r} does not fit {source.name}: {error}") from error


def _not_loaded(path: Path, model: onnx.ModelProto, error: Exception) -> str:
    local = {function.domain for function in model.functions}
    foreign = [
        f"node {node.name or node.output[0]!r} is {node.domain}.{node.op_type}"
        for graph in all_graphs(model.graph)
        for node in graph.node
        if node.domain not in (*_KNOWN_DOMAINS, *local)
    ]
    if foreign:
        more = f" (and {len(foreign) - 1} more)" if len(foreign) > 1 else ""
        return (
            f"{path} uses an operator that ONNX Runtime does not have: {foreign[0]}{more}. Export "
            f"the network again with standard operators."
        )
    return f"{path} cannot be loaded by ONNX Runtime: {load_problem(error)}."


def load_problem(error: Exception) -> str:
    """Returns what ONNX Runtime objects to, without its error code and places in its sources."""
    text = re.sub(r"^Load model from .*? failed:", "", _reason(str(error)))
    return re.sub(r", -1\) : ", ") : ", text)


def run_problem(source: str | bytes, inputs: Mapping[str, NDArray[Any]], error: Exception) -> str:
    """Returns node, operator and reason of an error that ONNX Runtime raised on these inputs."""
    try:  # again, with the nodes as they are in the file
        open_session(source, frugal=True).run(None, dict(inputs))
    except Exception as plain:  # noqa: BLE001 - onnxruntime's exceptions have no common base
        error = plain
    text = str(error)
    node = re.search(r"while running (\w+) node\. Name:'([^']*)'", text)
    reason = _reason(text.partition("Status Message:")[2] or text)
    return f"node {node[2]!r} ({node[1]}): {reason}" if node else reason


def _reason(text: str) -> str:
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text.strip())
    line = " ".join(text.split("\n")[:3])
    return re.sub(r"^/\S+:\d+ .*?\) (?=\w)", "", line).strip(" .")
