"""Comparison of a wrapped graph with the unchanged file on a batch, node by node if needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.config.contract import Outputs
from export.experts.onnx_file.given import GivenFile, run_problem
from export.experts.onnx_file.normal import given_name
from export.graph.sessions import open_session

_YEARS = 0.05
_PROBABILITY = 0.005
"""Largest allowed differences. These are to find graphs that mix up the faces of a batch; parity is
measured later, and is stricter."""
_SHARE = 1e-3
"""Largest allowed difference of an activation, as a share of its largest value."""
_LARGEST_TRACED_BYTES = 1 << 30


def difference(
    path: Path,
    given: GivenFile,
    faces: NDArray[np.uint8],
    expected: Outputs,
    as_given: Callable[[NDArray[np.uint8]], dict[str, NDArray[Any]]],
) -> str | None:
    """Describes where a wrapped graph fails on a batch; returns None if it does not.

    Args:
        path: of the wrapped graph.
        given: the unchanged file.
        faces: uint8 (N, H, W, 3).
        expected: the outputs, computed face by face.
        as_given: from a face to the input of the unchanged file.
    """
    try:
        session = open_session(path)
        found = session.run(list(expected), {"face": faces})
    except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions have no common base
        return run_problem(str(path), {"face": faces}, error)
    limits = {"age_years": _YEARS, "age_probs": _PROBABILITY}
    alike = all(
        array.shape == expected[name].shape
        and np.allclose(array, expected[name], rtol=1e-3, atol=limits[name])
        for name, array in zip(expected, found, strict=True)
    )
    return None if alike else _first_difference(path, given, faces, as_given)


def _first_difference(
    path: Path,
    given: GivenFile,
    faces: NDArray[np.uint8],
    as_given: Callable[[NDArray[np.uint8]], dict[str, NDArray[Any]]],
) -> str:
    """Names the first node whose result for a batch is not that for each face."""
    unknown = "its ages in a batch differ from those of single faces"
    wrapped = onnx.load(str(path))
    if given.model.ByteSize() + wrapped.ByteSize() > _LARGEST_TRACED_BYTES:
        return unknown
    makers = {name: node for node in given.model.graph.node for name in node.output if name}
    present = {name for node in wrapped.graph.node for name in node.output}
    names = [name for name in makers if given_name(name) in present]
    batch = _traced(wrapped, [given_name(name) for name in names], {"face": faces})
    single = [_traced(given.model, names, as_given(face)) for face in faces]
    for name in names:
        if name not in single[0] or given_name(name) not in batch:
            continue
        node = makers[name]
        if not _stacked([found[name] for found in single], batch[given_name(name)]):
            return f"node {node.name!r} ({node.op_type}) gives another result than for one face"
    return unknown


def _traced(
    model: onnx.ModelProto, names: Sequence[str], inputs: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Runs a graph as far as it goes; returns the floating-point tensors among those named."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inferred = onnx.shape_inference.infer_shapes(copy).graph
    values = (*inferred.value_info, *inferred.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    floats = [name for name in names if kinds.get(name) == TensorProto.FLOAT]
    found: dict[str, NDArray[Any]] = {}
    del copy.graph.output[:]
    copy.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in floats
    )
    try:
        session = open_session(copy.SerializeToString(), frugal=True)
        found = dict(zip(floats, session.run(floats, inputs), strict=True))
    except Exception:  # noqa: BLE001 - then the node stays unknown
        return {}
    return found


def _stacked(singles: Sequence[NDArray[Any]], batch: NDArray[Any]) -> bool:
    """Returns whether a batch's result holds those of single faces, along any axis."""
    limit = _SHARE * max(float(np.abs(single).max(initial=0.0)) for single in singles) + 1e-6
    joined = [np.concatenate(singles, axis) for axis in range(singles[0].ndim)]
    if all(np.array_equal(single, singles[0]) for single in singles):
        joined.append(singles[0])  # does not depend on the image
    return any(
        one.shape == batch.shape and np.allclose(one, batch, rtol=0.0, atol=limit) for one in joined
    )
