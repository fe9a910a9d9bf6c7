"""FP32 to static INT8 for CPUs: weights once, activations by ranges measured on faces.

The file keeps FP32's operators; pairs of QuantizeLinear and DequantizeLinear say where 8 bits are
enough, and ONNX Runtime and OpenVINO compute what lies between them in integers. Activations are
UINT8 and weights INT8 with a scale per output channel, which VNNI and AMX multiply as they are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.config.contract import Images
from export.errors import GraphError
from export.graph.weights import has_data_file, save_model

REVISION = 1
"""Bumped whenever the files this module writes change."""
Ranges = Mapping[str, tuple[float, float]]
"""By activation: smallest and largest value."""
Means = Mapping[str, NDArray[np.float64]]
"""By activation (N, F): its mean over N, (F,)."""

_PRODUCTS = ("Conv", "Gemm", "MatMul")
_FEWEST_WEIGHTS = 64
"""Products with fewer are arithmetic on ages."""
WITHIN_YEARS = (0.15, 0.75)
"""Mean and largest difference on the calibration faces: half of what others are allowed."""
_RANKING_FACES = 8
_LARGEST_WEIGHT = 127
_LARGEST_ACTIVATION = 255
_LARGEST_BIAS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Int8Variant:
    """What became of a graph's products with constant weights."""

    kept: tuple[str, ...]
    """Names of the inner ones that stay in FP32."""
    share: float
    """Of all of them, those that are INT8."""


def int8_from_fp32(source: Path, target: Path, faces: Images) -> Int8Variant:
    """Writes a form of an FP32 graph whose products with constant weights are INT8.

    In FP32 stay the first products after the pixels, the last ones before the ages, norms,
    softmaxes, products of two activations, and as many of the most sensitive products as it takes
    for ages to stay within `WITHIN_YEARS` on the faces: each product's share is measured by making
    it alone INT8. The bias of the last products makes up for what rounding shifts on average.

    Args:
        source: the FP32 graph, its weights within.
        target: the file to write.
        faces: to measure ranges and shares on, as the expert's inputs.

    Raises:
        GraphError: nothing in the graph can be INT8, or the weights lie beside it.
    """
    if has_data_file(source):
        raise GraphError(
            f"The weights of {source.name} lie beside it, as those of networks over 2 GiB do. They "
            f"have no INT8 form; build it without --int8."
        )
    single = onnx.load(str(source))
    for index, node in enumerate(single.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    view = _View(single.graph)
    inner = view.inner_products()
    if not inner:
        raise GraphError(
            f"{source.name} has no product with constant weights between its first and its last "
            f"ones, and so nothing that could be INT8. Build it without --int8."
        )
    quantizer = Quantizer(single, faces)
    model, kept = _within(quantizer, quantizer.by_sensitivity())
    save_model(model, target)
    return Int8Variant(kept, (len(inner) - len(kept)) / len(view.products()))


class Quantizer:
    """One FP32 graph, its ranges on faces, and the INT8 forms that can be made of it."""

    def __init__(self, single: onnx.ModelProto, faces: Images) -> None:
        """Measures ranges and ages of the FP32 graph."""
        self._single = single
        self._faces = faces
        inner = _View(single.graph).inner_products()
        self.products = tuple(node.name for node in inner)
        inputs = sorted({node.input[0] for node in inner})
        self._ranges = activation_ranges(single, inputs, faces)
        self._ages = _ages(single, faces)
        last = _View(single.graph).last_products()
        self._last = [node for node in last if node.op_type == "Gemm" and len(node.input) > 2]
        self._means = _means(single, self._last, faces)

    def model(self, keep: Collection[str] = ()) -> onnx.ModelProto:
        """The INT8 form in which some products stay in FP32."""
        model = self._rounded([name for name in self.products if name not in keep])
        _recenter(model, self._last, self._means, self._faces)
        return model

    def errors_years(self, model: onnx.ModelProto) -> NDArray[np.float64]:
        """By how much a form differs on the faces, (N,)."""
        return np.abs(_ages(model, self._faces) - self._ages)

    def by_sensitivity(self) -> list[str]:
        """The products, that first which alone moves ages most."""
        count = len(self._ages)
        some = np.linspace(0, count - 1, min(count, _RANKING_FACES)).astype(int)
        faces = {name: array[some] for name, array in self._faces.items()}
        moved = {
            name: float(np.square(_ages(self._rounded([name]), faces) - self._ages[some]).sum())
            for name in self.products
        }
        return sorted(self.products, key=lambda name: -moved[name])

    def _rounded(self, chosen: Collection[str]) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(self._single)
        _Rounding(model.graph, self._ranges).run(chosen)
        return model


def _within(
    quantizer: Quantizer, ordered: Sequence[str]
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The form with the fewest products in FP32 whose ages are near enough; by bisection."""
    fewest, most = 0, len(ordered) - 1
    while fewest < most:
        middle = (fewest + most) // 2
        errors = quantizer.errors_years(quantizer.model(ordered[:middle]))
        near = errors.mean() <= WITHIN_YEARS[0] and errors.max() <= WITHIN_YEARS[1]
        fewest, most = (fewest, middle) if near else (middle + 1, most)
    kept = tuple(ordered[:fewest])
    return quantizer.model(kept), kept


def activation_ranges(model: onnx.ModelProto, names: Sequence[str], faces: Images) -> Ranges:
    """Smallest and largest values of some activations over faces.

    They are taken within the graph, right after each activation, so that none has to be kept.
    """
    ends = {name: (f"{name}.least", f"{name}.largest") for name in names}
    nodes = [
        helper.make_node(operator, [name], [out], keepdims=0)
        for name, outs in ends.items()
        for operator, out in zip(("ReduceMin", "ReduceMax"), outs, strict=True)
    ]
    rows = _run(model, nodes, [out for outs in ends.values() for out in outs], faces)
    table = np.asarray(rows, np.float64).reshape(-1, len(names), 2)
    low, high = table[..., 0].min(axis=0).tolist(), table[..., 1].max(axis=0).tolist()
    return dict(zip(names, zip(low, high, strict=True), strict=True))


class _View:
    """The products of a graph, and what lies before and after them."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._nodes = list(graph.node)
        self._weights = {tensor.name: tensor for tensor in graph.initializer}

    def products(self) -> list[onnx.NodeProto]:
        """Products of an activation with a constant weight."""
        return [node for node in self._nodes if self._is_product(node)]

    def inner_products(self) -> list[onnx.NodeProto]:
        """Those before and after which there are others."""
        behind, leading = self._behind(), self._leading()
        return [n for n in self.products() if n.input[0] in behind and n.output[0] in leading]

    def last_products(self) -> list[onnx.NodeProto]:
        """Those after which there are no others."""
        leading = self._leading()
        return [node for node in self.products() if node.output[0] not in leading]

    def _is_product(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in _PRODUCTS or node.input[1] not in self._weights:
            return False
        weight = self._weights[node.input[1]]
        usual = node.op_type == "Conv" or len(weight.dims) == 2
        large = math.prod(weight.dims) >= _FEWEST_WEIGHTS
        return usual and large and all(name in self._weights for name in node.input[2:])

    def _behind(self) -> set[str]:
        """Activations that a product has had a part in."""
        found: set[str] = set()
        for node in self._nodes:
            if self._is_product(node) or not found.isdisjoint(node.input):
                found.update(node.output)
        return found

    def _leading(self) -> set[str]:
        """Activations that have a part in a product to come."""
        found: set[str] = set()
        for node in reversed(self._nodes):
            if self._is_product(node) or not found.isdisjoint(node.output):
                found.update(node.input)
        return found


class _Rounding:
    """Rewrites one graph: what goes into chosen products is rounded, and their weights."""

    def __init__(self, graph: onnx.GraphProto, ranges: Ranges) -> None:
        self._graph = graph
        self._steps = {name: _step(*ends) for name, ends in ranges.items()}
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._nodes: list[onnx.NodeProto] = []

    def run(self, chosen: Collection[str]) -> None:
        """Rewrites the products named, and leaves out the weights that nothing reads any more."""
        for node in list(self._graph.node):
            if node.name in chosen:
                self._round_weights(node)
                self._round_activation(node)
            self._nodes.append(node)
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        self._graph.initializer.extend(t for name, t in self._weights.items() if name in used)

    def _round_activation(self, node: onnx.NodeProto) -> None:
        """Lets a product read rounded values; they are rounded once for all that read them."""
        name = node.input[0]
        node.input[0] = f"{name}.real"
        if f"{name}.scale" in self._weights:
            return
        scale, zero = self._steps[name]
        self._put(f"{name}.scale", np.asarray(scale, np.float32))
        self._put(f"{name}.zero", np.asarray(zero, np.uint8))
        step = [f"{name}.scale", f"{name}.zero"]
        integers = f"{name}.uint8"
        self._nodes += [
            helper.make_node("QuantizeLinear", [name, *step], [integers], integers),
            helper.make_node("DequantizeLinear", [integers, *step], [f"{name}.real"]),
        ]

    def _round_weights(self, node: onnx.NodeProto) -> None:
        axis = _output_axis(node)
        weight = numpy_helper.to_array(self._weights[node.input[1]])
        scales = _weight_scales(weight, axis)
        along = np.expand_dims(scales, [i for i in range(weight.ndim) if i != axis])
        integers = np.rint(weight / along).astype(np.int8)
        name = f"{node.output[0]}.weight"
        if len(node.input) > 2:
            bias = numpy_helper.to_array(self._weights[node.input[2]]).reshape(-1)
            steps = np.float64(self._steps[node.input[0]][0]) * scales
            whole = np.clip(np.rint(bias / steps), -_LARGEST_BIAS, _LARGEST_BIAS)
            node.input[2] = self._constant(
                f"{node.output[0]}.bias", whole.astype(np.int32), steps, axis=0
            )
        node.input[1] = self._constant(name, integers, scales, axis=axis)

    def _constant(
        self, name: str, integers: NDArray[np.generic], scales: NDArray[np.floating], *, axis: int
    ) -> str:
        """Stores integers and their scales; returns the name of their product."""
        self._put(f"{name}.integers", integers)
        self._put(f"{name}.scales", scales.astype(np.float32))
        self._put(f"{name}.zeros", np.zeros(scales.shape, integers.dtype))
        parts = [f"{name}.integers", f"{name}.scales", f"{name}.zeros"]
        self._nodes.append(helper.make_node("DequantizeLinear", parts, [name], axis=axis))
        return name

    def _put(self, name: str, array: NDArray[np.generic]) -> None:
        self._weights[name] = numpy_helper.from_array(array, name)


def _step(low: float, high: float) -> tuple[np.float32, int]:
    """What one of 256 steps from `low` to `high` is worth, and the step at which 0 lies."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / _LARGEST_ACTIVATION or 1.0)
    return scale, round(-low / float(scale))


def _weight_scales(weight: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """What one integer is worth, per output channel."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others)
    return np.where(largest > 0, largest / _LARGEST_WEIGHT, 1.0).astype(np.float32)


def _output_axis(node: onnx.NodeProto) -> int:
    if node.op_type == "Conv":
        return 0
    transposed = any(a.name == "transB" and a.i == 1 for a in node.attribute)
    return 0 if transposed else 1


def _recenter(
    model: onnx.ModelProto, last: Sequence[onnx.NodeProto], wanted: Means, faces: Images
) -> None:
    """Moves the last biases so that the mean of what they are added to is that of FP32."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    found = _means(model, last, faces)
    for node in last:
        weight, bias = (numpy_helper.to_array(weights[name]) for name in node.input[1:])
        columns = weight if _output_axis(node) == 1 else weight.T
        shift = (wanted[node.input[0]] - found[node.input[0]]) @ columns
        moved = (bias + shift.reshape(bias.shape)).astype(np.float32)
        weights[node.input[2]].CopyFrom(numpy_helper.from_array(moved, node.input[2]))


def _ages(model: onnx.ModelProto, faces: Images) -> NDArray[np.float64]:
    return np.asarray(_run(model, [], ["age_years"], faces), np.float64).reshape(-1)


def _means(model: onnx.ModelProto, last: Sequence[onnx.NodeProto], faces: Images) -> Means:
    """Means over faces of what goes into some products."""
    names = sorted({node.input[0] for node in last})
    if not names:
        return {}
    columns = zip(*_run(model, [], names, faces), strict=True)
    means = (np.mean([value.mean(axis=0) for value in column], axis=0) for column in columns)
    return dict(zip(names, means, strict=True))


def _run(
    model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto], outputs: Sequence[str], faces: Images
) -> list[list[NDArray[np.float32]]]:
    """Runs a graph with nodes added to it, face by face, for outputs of one's own."""
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.node.extend(nodes)
    float32 = TensorProto.FLOAT
    probe.graph.output.extend(helper.make_tensor_value_info(n, float32, None) for n in outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [session.run(None, dict(face)) for face in _one_by_one(faces)]


def _one_by_one(faces: Images) -> Iterator[Images]:
    for index in range(min(map(len, faces.values()))):
        yield {name: array[index : index + 1] for name, array in faces.items()}
