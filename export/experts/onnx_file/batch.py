"""Given graphs that were exported for one batch size, made to take any.

Many files fix the batch in their declared shapes only, which is harmless. Others also hold it in
constants: the targets of Reshape, the sizes of Resize, constants that are concatenated with
activations. These are rewritten here, where the axis of the batch is followed through the graph;
whether the result is right is for the comparison with the unchanged file to decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.experts.onnx_file.folding import fold_constants
from export.experts.onnx_file.nodes import (
    OWN,
    attribute_of,
    constants_of,
    depend_on,
)
from export.graph.conversion import BATCH

_RECURRENT = ("LSTM", "GRU", "RNN")
_FOLDED = 0
"""In the target of a Reshape: the input's own dimension."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the batch lies in a tensor."""

    axis: int
    lead: int = 1
    """Size of what precedes the batch within its axis, where others were merged into it."""


def free_batch(model: onnx.ModelProto, batch: int, shape: Sequence[int]) -> None:
    """Makes the batch of a graph dynamic, in place.

    Args:
        model: in its normal form, with one input.
        batch: that it is declared for, or 1.
        shape: of its input for one face.
    """
    value = model.graph.input[0]
    kind = value.type.tensor_type.elem_type
    fixed = helper.make_tensor_value_info(value.name, kind, [batch, *shape])
    fold_constants(model, fixed)
    _Rewriting(model, fixed, batch).run()
    dynamic = helper.make_tensor_value_info(value.name, kind, [BATCH, *shape])
    del model.graph.input[:], model.graph.value_info[:]
    model.graph.input.append(dynamic)
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")


class _Rewriting:
    """One pass over a graph that follows the axis of the batch."""

    def __init__(self, model: onnx.ModelProto, value: onnx.ValueInfoProto, batch: int) -> None:
        self._graph = model.graph
        self._batch = batch
        self._shapes = _shapes(model, value)
        self._constants = constants_of(model.graph)
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._data = depend_on(model.graph, value.name, shapes=False)
        self._places: dict[str, Place] = {value.name: Place(0)}
        self._nodes: list[onnx.NodeProto] = []

    def run(self) -> None:
        for node in self._graph.node:
            source = next((name for name in node.input if name in self._data), None)
            if source is not None and node.op_type not in ("Shape", "Size"):
                place = self._place(node, source)
                self._rewrite(node, source, place.axis)
                self._places.update(dict.fromkeys(node.output, place))
            self._nodes.append(node)
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self._nodes]
        del self._graph.node[:]
        self._graph.node.extend(copies)

    def _rewrite(self, node: onnx.NodeProto, source: str, axis: int) -> None:
        if node.op_type == "Reshape":
            self._free_reshape(node, axis)
        elif node.op_type == "Expand" and source == node.input[0]:
            self._free_expand(node, axis)
        elif node.op_type == "Concat":
            joined = attribute_of(node, "axis", 0)
            for position, name in enumerate(node.input):
                if joined % max(len(self._shapes.get(name, ())), 1) != axis:
                    self._repeat(node, position, source, axis)
        elif node.op_type in _RECURRENT:  # initial states, (directions, batch, features)
            for position in range(5, len(node.input)):
                self._repeat(node, position, source, 1)
        elif node.op_type == "Resize" and len(node.input) > 3 and node.input[3]:
            self._free_resize(node, axis)

    def _place(self, node: onnx.NodeProto, source: str) -> Place:
        """Returns the batch's place in a node's outputs; the first axis where it is not evident."""
        place = self._places.get(source, Place(0))
        before = self._shapes.get(source)
        after = self._shapes.get(node.output[0])
        if node.op_type == "Transpose":
            permutation = attribute_of(node, "perm")
            if permutation is None:
                return replace(place, axis=len(before) - 1 - place.axis) if before else Place(0)
            return replace(place, axis=list(permutation).index(place.axis))
        if before is None or after is None:
            return Place(0)
        if node.op_type == "Reshape":
            return _reshaped(before, after, place, self._batch)
        return replace(place, axis=self._moved(node, before, after, place.axis))

    def _moved(
        self, node: onnx.NodeProto, before: Sequence[int], after: Sequence[int], axis: int
    ) -> int:
        """Returns the batch's axis after a node that removes, adds or keeps axes."""
        axes = self._axes_argument(node)
        reduced = node.op_type.startswith("Reduce") and len(after) < len(before)
        if (node.op_type == "Squeeze" or reduced) and axes is not None:
            return axis - sum(1 for a in axes if a % len(before) < axis)
        if node.op_type == "Unsqueeze" and axes is not None:
            added = {a % len(after) for a in axes}
            return [a for a in range(len(after)) if a not in added][axis]
        if node.op_type == "Gather":
            gathered = attribute_of(node, "axis", 0) % len(before)
            return axis + (len(after) - len(before) if gathered < axis else 0)
        if node.op_type in _RECURRENT:  # (steps, directions, batch, features)
            return 2
        if node.op_type == "Flatten":
            return 0
        return max(axis + len(after) - len(before), 0)  # aligned at the end, as in broadcasting

    def _axes_argument(self, node: onnx.NodeProto) -> list[int] | None:
        """Returns the axes of a node, an attribute or from opset 13 on an input."""
        axes: list[int] | None = attribute_of(node, "axes")
        if axes is None and len(node.input) > 1 and node.input[1] in self._constants:
            axes = self._constants[node.input[1]].reshape(-1).tolist()
        return axes

    def _free_reshape(self, node: onnx.NodeProto, axis: int) -> None:
        """Gives the batch the open dimension of a Reshape with a constant target."""
        target = self._constants.get(node.input[1])
        shape = self._shapes.get(node.output[0])
        if target is None or shape is None or axis >= len(shape):
            return
        written = target.reshape(-1).tolist()
        kept = written[axis] == _FOLDED and self._places.get(node.input[0]) == Place(axis)
        if written[axis] == -1 or kept:
            return
        free = [-1 if index == axis else size for index, size in enumerate(shape)]
        node.input[1] = self._constant(f"{node.output[0]}.target", free)

    def _free_expand(self, node: onnx.NodeProto, axis: int) -> None:
        """Lets an Expand keep its input's batch: a target of 1 is broadcast to it."""
        target = self._constants.get(node.input[1])
        if target is not None and axis < target.size and target[axis] == self._batch > 1:
            free = [1 if i == axis else size for i, size in enumerate(target.tolist())]
            node.input[1] = self._constant(f"{node.output[0]}.target", free)

    def _repeat(self, node: onnx.NodeProto, position: int, data: str, axis: int) -> None:
        """Repeats what does not depend on the image, such as a class token, for every face."""
        name = node.input[position]
        shape = self._shapes.get(name)
        if name in self._data or not shape or axis >= len(shape) or shape[axis] != self._batch:
            return
        label = f"{node.output[0]}.{position}"
        source = self._first(name, axis, label) if self._batch > 1 else name
        sizes = [1 if index == axis else size for index, size in enumerate(shape)]
        target = self._with_batch(data, axis, sizes, label)
        node.input[position] = self._node("Expand", [source, target], f"{label}.expanded")

    def _free_resize(self, node: onnx.NodeProto, axis: int) -> None:
        """Takes the batch in the sizes of a Resize from its input."""
        sizes = self._constants.get(node.input[3])
        if sizes is not None and attribute_of(node, "axes") is None and axis < sizes.size:
            label = f"{node.output[0]}.sizes"
            node.input[3] = self._with_batch(node.input[0], axis, sizes.tolist(), label)

    def _with_batch(self, data: str, axis: int, sizes: list[int], label: str) -> str:
        """Adds nodes that compute a shape whose batch is that of an activation."""
        shape = self._node("Shape", [data], f"{label}.shape")
        place = self._constant(f"{label}.axis", [self._places[data].axis])
        batch = self._node("Gather", [shape, place], f"{label}.n")
        parts = [batch]
        if axis:
            parts.insert(0, self._constant(f"{label}.before", sizes[:axis]))
        if axis + 1 < len(sizes):
            parts.append(self._constant(f"{label}.after", sizes[axis + 1 :]))
        return self._node("Concat", parts, f"{label}.all", axis=0)

    def _first(self, name: str, axis: int, label: str) -> str:
        """Adds a node that takes the first of equal constants, one per face."""
        zero = self._constant(f"{label}.zero", [0])
        return self._node("Gather", [name, zero], f"{label}.first", axis=axis)

    def _node(self, operator: str, inputs: list[str], label: str, **attributes: int) -> str:
        output = f"{OWN}{label.removeprefix(OWN)}"
        self._nodes.append(
            helper.make_node(operator, inputs, [output], output, None, None, None, **attributes)
        )
        return output

    def _constant(self, label: str, values: list[int]) -> str:
        name = f"{OWN}{label.removeprefix(OWN)}"
        tensor = numpy_helper.from_array(np.array(values, np.int64), name)
        self._graph.initializer.append(tensor)
        return name


def _shapes(model: onnx.ModelProto, value: onnx.ValueInfoProto) -> dict[str, list[int]]:
    """Returns the shapes that are known for the batch that a file was exported for."""
    outputs = [onnx.ValueInfoProto(name=output.name) for output in model.graph.output]
    weights = [_shape_only(tensor) for tensor in model.graph.initializer]
    graph = helper.make_graph(model.graph.node, "shapes", [value], outputs, weights)
    copy = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    shapes = {}
    for known in (*inferred.value_info, *inferred.output, *inferred.input):
        tensor = known.type.tensor_type
        axes = tensor.shape.dim
        if tensor.HasField("shape") and all(axis.HasField("dim_value") for axis in axes):
            shapes[known.name] = [axis.dim_value for axis in axes]
    for weight in model.graph.initializer:
        shapes[weight.name] = list(weight.dims)
    return shapes


def _shape_only(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Returns a weight without its values, unless they may be shapes."""
    if tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32):
        return tensor
    return onnx.TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)


def _reshaped(before: Sequence[int], after: Sequence[int], place: Place, batch: int) -> Place:
    """Returns where the batch lies after a Reshape: behind as many values as before.

    A batch of 1 leaves a choice. An axis of its own comes first; a batch that is merged leads the
    axis that follows, unless that holds exactly what followed the batch.
    """
    outer = int(np.prod(before[: place.axis], dtype=np.int64)) * place.lead
    inner = int(np.prod(before, dtype=np.int64)) // (outer * batch)
    starts = [int(np.prod(after[:index], dtype=np.int64)) for index in range(len(after))]
    for index, start in enumerate(starts):
        if start == outer and after[index] == batch:
            return Place(index)
    for index, start in reversed(list(enumerate(starts))):
        rest = index == len(after) - 1 and after[index] == inner and index > 0
        if start == outer and after[index] % batch == 0 and not rest:
            return Place(index)
        if start < outer:
            return Place(index, outer // start)
    return Place(0)
