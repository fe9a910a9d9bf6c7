"""ONNX graphs computed in PyTorch, which differentiates them.

It knows the operators of networks for photographs; graphs with others cannot be differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor
from torch.nn import functional

from export.errors import GraphError
from export.graph.traversal import unrounded_ages

Values = list[Any]
"""Inputs of a node: tensors, and None where one is left out."""
Wrapper = Callable[[onnx.NodeProto, Values, Callable[[Values], Tensor]], Tensor]
"""Computes a node, given its inputs and the function that it computes."""


class DifferentiableGraph:
    """An ONNX graph as a function of PyTorch."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Reads the weights.

        Raises:
            GraphError: the graph has operators, or forms of them, that are not known here.
        """
        self.nodes = list(model.graph.node)
        self._opset = next((o.version for o in model.opset_import if not o.domain), 0)
        strange = {n.op_type for n in self.nodes if n.domain or n.op_type not in _OPERATORS}
        if strange:
            raise GraphError(f"PyTorch cannot differentiate {', '.join(sorted(strange))}.")
        self.weights = {
            tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
            for tensor in model.graph.initializer
        }
        """By name."""

    def ages(self, face: Mapping[str, NDArray[np.generic]], wrapper: Wrapper) -> Tensor:
        """Returns ages in years, (N,), before they are rounded."""
        return self.run(face, unrounded_ages(self.nodes), wrapper)

    def run(
        self, inputs: Mapping[str, NDArray[np.generic]], output: str, wrapper: Wrapper
    ) -> Tensor:
        """Returns one output; `wrapper` computes the nodes with weights.

        Raises:
            GraphError: a node cannot be computed.
        """
        known: dict[str, Any] = {"": None, **self.weights}
        known |= {name: torch.from_numpy(array) for name, array in inputs.items()}
        for node in self.nodes:
            call = _Call(node, self._opset)
            given = [known[name] for name in node.input]
            try:
                if node.op_type in _WITH_WEIGHTS:
                    result: Any = wrapper(node, given, call)
                else:
                    result = call(given)
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                raise GraphError(f"PyTorch cannot compute node {node.name!r}: {error}") from error
            results = result if isinstance(result, tuple) else (result,)
            known.update(zip(node.output, results, strict=False))
        found: Tensor = known[output]
        return found


class _Call:
    """One node, with its attributes: a function of its inputs."""

    def __init__(self, node: onnx.NodeProto, opset: int) -> None:
        self.opset = opset
        self._node = node
        self._facts = {a.name: helper.get_attribute_value(a) for a in node.attribute}

    def __call__(self, given: Values) -> Any:  # noqa: ANN401 - a tensor, or several
        return _OPERATORS[self._node.op_type](self, *given)

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - as in ONNX
        """Returns an attribute."""
        return self._facts.get(name, default)

    def text(self, name: str, default: str) -> str:
        """Returns an attribute that is text."""
        return str(self._facts.get(name, default.encode()).decode())

    def numbers(self, name: str, given: Tensor | None) -> list[int] | None:
        """Returns integers, which are an attribute in old opsets and an input in newer ones."""
        found = self._facts.get(name) if given is None else given.reshape(-1).tolist()
        return None if found is None else [int(number) for number in found]

    def require(self, *, allowed: bool) -> None:
        """Raises `ValueError` for a form of an operator that is not known here."""
        if not allowed:
            raise ValueError(f"{self._node.op_type} in this form")


def _padded(call: _Call, x: Tensor, value: float) -> Tensor:
    """Returns the input of a window's operator with its padding."""
    call.require(allowed=call.text("auto_pad", "NOTSET") in ("NOTSET", "VALID"))
    pads = call.get("pads", [0] * 2 * (x.ndim - 2))
    return _with_pads(x, pads, value) if any(pads) else x


def _with_pads(x: Tensor, pads: Sequence[int], value: float) -> Tensor:
    """Pads the last axes; `pads` are their beginnings, then their ends."""
    count = len(pads) // 2
    sides = [pad for axis in range(count)[::-1] for pad in (pads[axis], pads[axis + count])]
    return functional.pad(x, sides, value=value)


def _conv(call: _Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    function = {3: functional.conv1d, 4: functional.conv2d}[x.ndim]
    ones = [1] * (x.ndim - 2)
    steps = (call.get(name, ones) for name in ("strides", "dilations"))
    strides, dilations = steps
    padded = _padded(call, x, 0.0)
    return function(padded, weight, bias, strides, 0, dilations, call.get("group", 1))


def _gemm(call: _Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if call.get("transA", 0) else a
    b = b.T if call.get("transB", 0) else b
    product: Tensor = call.get("alpha", 1.0) * (a @ b)
    return product if c is None else product + call.get("beta", 1.0) * c


def _max_pool(call: _Call, x: Tensor) -> Tensor:
    padded = _padded(call, x, -torch.inf)
    steps = call.get("strides", [1, 1]), 0, call.get("dilations", [1, 1])
    return functional.max_pool2d(
        padded, call.get("kernel_shape"), *steps, ceil_mode=bool(call.get("ceil_mode", 0))
    )


def _average_pool(call: _Call, x: Tensor) -> Tensor:
    shape, strides = call.get("kernel_shape"), call.get("strides", [1, 1])
    call.require(allowed=not call.get("ceil_mode", 0))
    sums = functional.avg_pool2d(_padded(call, x, 0.0), shape, strides)
    if call.get("count_include_pad", 0):
        return sums
    return sums / functional.avg_pool2d(_padded(call, torch.ones_like(x), 0.0), shape, strides)


def _batch_norm(call: _Call, x: Tensor, *facts: Tensor) -> Tensor:
    weight, bias, mean, variance = facts
    return functional.batch_norm(x, mean, variance, weight, bias, eps=call.get("epsilon", 1e-5))


def _layer_norm(call: _Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    shape = x.shape[call.get("axis", -1) :]
    return functional.layer_norm(x, shape, weight, bias, call.get("epsilon", 1e-5))


def _softmax(call: _Call, x: Tensor) -> Tensor:
    if call.opset >= 13:
        return x.softmax(call.get("axis", -1))
    axis = call.get("axis", 1)  # until opset 12, over all axes from this one on
    return x.flatten(axis).softmax(-1).reshape(x.shape)


def _reduced(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduce(call: _Call, x: Tensor, given: Tensor | None = None) -> Tensor:
        axes = call.numbers("axes", given)
        over = list(range(x.ndim)) if axes is None else axes
        return function(x, over, keepdim=bool(call.get("keepdims", 1)))

    return reduce


def _reshape(call: _Call, x: Tensor, shape: Tensor) -> Tensor:
    copied = not call.get("allowzero", 0)  # a zero stands for the size of the input's axis
    return x.reshape([x.shape[i] if n == 0 and copied else n for i, n in enumerate(shape.tolist())])


def _squeeze(call: _Call, x: Tensor, given: Tensor | None = None) -> Tensor:
    axes = call.numbers("axes", given)
    return x.squeeze() if axes is None else x.squeeze(axes)


def _unsqueeze(call: _Call, x: Tensor, given: Tensor | None = None) -> Tensor:
    axes = call.numbers("axes", given) or []
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _slice(call: _Call, x: Tensor, *given: Tensor | None) -> Tensor:
    starts, ends, axes, steps = (
        call.numbers(name, given[i] if i < len(given) else None)
        for i, name in enumerate(("starts", "ends", "axes", "steps"))
    )
    chosen = range(len(starts or ())) if axes is None else axes
    for start, end, axis, step in zip(
        starts or (), ends or (), chosen, steps or [1] * len(chosen), strict=True
    ):
        places = range(x.shape[axis])[slice(start, end, step)]
        x = x.index_select(axis, torch.tensor(places, dtype=torch.int64))
    return x


def _split(call: _Call, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, ...]:
    sizes = call.numbers("split", given)
    axis = call.get("axis", 0)
    if sizes is None:
        call.require(allowed=call.get("num_outputs") is not None)
        return tuple(x.chunk(call.get("num_outputs"), axis))
    return torch.split(x, sizes, axis)


def _gather(call: _Call, x: Tensor, indices: Tensor) -> Tensor:
    axis = call.get("axis", 0) % x.ndim
    flat = x.index_select(axis, indices.reshape(-1) % x.shape[axis])
    return flat.reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])


def _pad(call: _Call, x: Tensor, given: Tensor | None = None, value: Any = None) -> Tensor:  # noqa: ANN401
    call.require(allowed=call.text("mode", "constant") == "constant")
    pads = call.numbers("pads", given) or []
    return _with_pads(x, pads, float(call.get("value", 0.0) if value is None else value))


def _cast(call: _Call, x: Tensor) -> Tensor:
    kind = helper.tensor_dtype_to_np_dtype(call.get("to"))
    return x.to(torch.from_numpy(np.zeros(0, kind)).dtype)


def _clip(call: _Call, x: Tensor, low: Any = None, high: Any = None) -> Tensor:  # noqa: ANN401
    ends = [call.get("min") if low is None else low, call.get("max") if high is None else high]
    return x.clamp(*(None if end is None else float(end) for end in ends))


def _prelu(_: _Call, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x >= 0, x, x * slope)


def _constant(call: _Call) -> Tensor:
    call.require(allowed=call.get("value") is not None)
    return torch.from_numpy(numpy_helper.to_array(call.get("value")).copy())


def _plain(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """Returns an operator without attributes."""
    return lambda _, *given: function(*given)


_WITH_WEIGHTS = ("Conv", "Gemm", "MatMul")
_OPERATORS: Mapping[str, Callable[..., Any]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _plain(torch.matmul),
    **{
        name: _plain(getattr(torch, name.lower()))
        for name in "Add Sub Mul Div Pow Sqrt Exp Log Neg Abs Erf Tanh Sigmoid Relu Round".split()  # noqa: SIM905
    },
    "Max": _plain(torch.maximum),
    "Min": _plain(torch.minimum),
    "Reciprocal": _plain(torch.reciprocal),
    "Identity": _plain(lambda x: x),
    "Dropout": _plain(lambda x, *_: x),
    "HardSwish": _plain(functional.hardswish),
    "HardSigmoid": lambda c, x: (c.get("alpha", 0.2) * x + c.get("beta", 0.5)).clamp(0, 1),
    "LeakyRelu": lambda c, x: functional.leaky_relu(x, c.get("alpha", 0.01)),
    "Elu": lambda c, x: functional.elu(x, c.get("alpha", 1.0)),
    "Gelu": lambda c, x: functional.gelu(x, approximate=c.text("approximate", "none")),
    "PRelu": _prelu,
    "Clip": _clip,
    "Softmax": _softmax,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _plain(lambda x: x.mean((2, 3), keepdim=True)),
    "ReduceMean": _reduced(torch.mean),
    "ReduceSum": _reduced(torch.sum),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMin": _reduced(torch.amin),
    "Reshape": _reshape,
    "Transpose": lambda c, x: x.permute(c.get("perm", list(range(x.ndim))[::-1])),
    "Flatten": lambda c, x: x.reshape(int(np.prod(x.shape[: c.get("axis", 1)])), -1),
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": lambda c, *parts: torch.cat(parts, c.get("axis")),
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "Pad": _pad,
    "Cast": _cast,
    "Constant": _constant,
}
"""Operators by name. Each takes the node and its inputs."""
