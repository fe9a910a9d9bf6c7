"""FP32 to static INT8 for CPUs: weights once, activations by ranges calibrated on faces.

Pairs of QuantizeLinear and DequantizeLinear mark what ONNX Runtime and OpenVINO may compute in
integers. Activations are UINT8, weights INT8 with a scale per output channel, as VNNI and AMX
multiply them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.config.contract import Images
from export.errors import GraphError
from export.graph.shapes import remove_unused
from export.graph.traversal import name_nodes, tensors_after, tensors_before, unrounded_ages
from export.graph.weights import save_model
from export.variants.first_order import Compute, Tensor, squared_effects
from export.variants.search import Budget, Reduction, products_to_keep

REVISION = 2
"""Bumped whenever the files this module writes change."""
Ranges = Mapping[str, tuple[float, float]]
"""By activation: smallest and largest value."""
Means = Mapping[str, NDArray[np.float64]]
"""By activation (N, F): its mean over N, (F,)."""

BUDGET = Budget(0.15, 0.75)
"""Half of the build's tolerance."""
_PRODUCTS = ("Conv", "Gemm", "MatMul")
_FEWEST_WEIGHTS = 64
"""Products with fewer are arithmetic on ages."""
_LARGEST_WEIGHT = 127
_LARGEST_ACTIVATION = 255
_LARGEST_BIAS = 2**31 - 1


def int8_from_fp32(source: Path, target: Path, faces: Images) -> Reduction:
    """Writes a variant of an FP32 graph whose products with constant weights are INT8.

    In FP32 stay the first products after the pixels, the last ones before the ages, norms,
    softmaxes, products of two activations, and as many of the most sensitive products as it takes
    for ages to stay within `BUDGET` on the faces. The biases of the last products are corrected
    for the mean error of quantization.

    Args:
        source: the FP32 graph.
        target: the file to write.
        faces: quantization faces as the expert's inputs, to calibrate ranges and measure ages on.

    Raises:
        GraphError: nothing in the graph can be INT8, or no variant is near enough to FP32.
    """
    fp32 = onnx.load(str(source))
    name_nodes(fp32)
    products = _Products(fp32.graph)
    if not products.inner:
        raise GraphError(
            f"{source.name} has no product with constant weights between its first and its last "
            f"ones, and so nothing that could be INT8. Build it without --int8."
        )
    graph = Int8Graph(fp32, faces)
    kept = products_to_keep(graph, source.name)
    save_model(graph.variant(kept), target)
    return Reduction(kept, (len(products.inner) - len(kept)) / len(products.all))


class Int8Graph:
    """An FP32 graph, and its variants that compute some products in INT8."""

    precision = "int8"
    budget = BUDGET
    products: Mapping[str, float]

    def __init__(self, fp32: onnx.ModelProto, faces: Images) -> None:
        """Calibrates ranges and measures ages on the faces."""
        self._fp32 = fp32
        self.faces = faces
        found = _Products(fp32.graph)
        self.products = {node.name: 1.0 for node in found.inner}
        inputs = sorted({node.input[0] for node in found.inner})
        self._ranges = activation_ranges(fp32, inputs, faces)
        self.ages_years = _ages(fp32, faces)
        self._last = [n for n in found.last if n.op_type == "Gemm" and len(n.input) > 2]
        self._means = _means(fp32, self._last, faces)
        self._rounded_weights: dict[str, Tensor] = {}

    def variant(self, kept: Collection[str] = ()) -> onnx.ModelProto:
        """Returns the INT8 variant in which some products stay in FP32."""
        model = self.quantized([name for name in self.products if name not in kept])
        _correct_biases(model, self._last, self._means, self.faces)
        return model

    def predicted(self) -> dict[str, float]:
        """Returns the mean squared years by which products, reduced alone, should move ages."""
        effects = squared_effects(self._fp32, self.faces, self._rounded)
        return {name: effects[name] for name in self.products if name in effects}

    def fits(self, kept: Collection[str]) -> bool:
        """Returns whether a variant is within the budget."""
        return self.budget.allows(self.errors_years(kept))

    def errors_years(self, kept: Collection[str]) -> NDArray[np.float64]:
        """Returns absolute differences from FP32 on the faces, (N,)."""
        return np.abs(_ages(self.variant(kept), self.faces) - self.ages_years)

    def ages_reducing(self, products: Collection[str], faces: Images) -> NDArray[np.float64]:
        """Returns ages in years, (N,), with some products in INT8, their mean error included."""
        return _ages(self.quantized(products), faces)

    def _rounded(self, node: onnx.NodeProto, given: list[Tensor], compute: Compute) -> Tensor:
        """Computes a product with its input and weights rounded; others as they are."""
        if node.name not in self.products:
            return compute(given)
        scale, zero = _scale_and_zero(*self._ranges[node.input[0]])
        steps = (given[0] / float(scale)).round().add(zero).clamp(0, _LARGEST_ACTIVATION)
        if node.name not in self._rounded_weights:
            weight, axis = given[1], _output_axis(node)
            scales = weight.new_tensor(_weight_scales(weight.numpy(), axis))
            along = scales.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
            self._rounded_weights[node.name] = (weight / along).round() * along
        operands = [(steps - zero) * float(scale), self._rounded_weights[node.name]]
        return compute([*operands, *given[2:]])

    def quantized(self, chosen: Collection[str]) -> onnx.ModelProto:
        """Returns the graph with some products in INT8, before biases are corrected."""
        model = onnx.ModelProto()
        model.CopyFrom(self._fp32)
        _Quantization(model, self._ranges).run(chosen)
        return model


def activation_ranges(model: onnx.ModelProto, names: Sequence[str], faces: Images) -> Ranges:
    """Returns the smallest and largest values of some activations over faces.

    They are computed within the graph, right after each activation, so that none has to be stored.
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


class _Products:
    """The products of a graph that have constant weights, by their position in it."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        weights = {tensor.name: tensor for tensor in graph.initializer}
        self.all = [node for node in graph.node if _is_product(node, weights)]
        names = {node.name for node in self.all}
        after = tensors_after(graph.node, names)
        before = tensors_before(graph.node, names)
        self.inner = [n for n in self.all if n.input[0] in after and n.output[0] in before]
        self.last = [node for node in self.all if node.output[0] not in before]


def _is_product(node: onnx.NodeProto, weights: Mapping[str, TensorProto]) -> bool:
    if node.op_type not in _PRODUCTS or node.input[1] not in weights:
        return False
    weight = weights[node.input[1]]
    usual = node.op_type == "Conv" or len(weight.dims) == 2
    large = math.prod(weight.dims) >= _FEWEST_WEIGHTS
    return usual and large and all(name in weights for name in node.input[2:])


class _Quantization:
    """Rewrites one graph: quantizes the inputs of some products and their weights."""

    def __init__(self, model: onnx.ModelProto, ranges: Ranges) -> None:
        self._model = model
        self._steps = {name: _scale_and_zero(*ends) for name, ends in ranges.items()}
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._nodes: list[onnx.NodeProto] = []

    def run(self, chosen: Collection[str]) -> None:
        """Rewrites the products named, and removes the weights that are no longer used."""
        graph = self._model.graph
        for node in list(graph.node):
            if node.name in chosen:
                self._quantize_weights(node)
                self._quantize_activation(node)
            self._nodes.append(node)
        del graph.node[:], graph.initializer[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend(self._weights.values())
        remove_unused(self._model)

    def _quantize_activation(self, node: onnx.NodeProto) -> None:
        """Quantizes the input of a product, once for all products that read it."""
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

    def _quantize_weights(self, node: onnx.NodeProto) -> None:
        axis = _output_axis(node)
        weight = numpy_helper.to_array(self._weights[node.input[1]])
        scales = _weight_scales(weight, axis)
        along = np.expand_dims(scales, [i for i in range(weight.ndim) if i != axis])
        integers = np.rint(weight / along).astype(np.int8)
        name = f"{node.output[0]}.weight"
        if len(node.input) > 2:
            bias = numpy_helper.to_array(self._weights[node.input[2]]).reshape(-1)
            steps = np.float64(self._steps[node.input[0]][0]) * scales
            rounded = np.clip(np.rint(bias / steps), -_LARGEST_BIAS, _LARGEST_BIAS)
            node.input[2] = self._constant(
                f"{node.output[0]}.bias", rounded.astype(np.int32), steps, axis=0
            )
        node.input[1] = self._constant(name, integers, scales, axis=axis)

    def _constant(
        self, name: str, integers: NDArray[np.generic], scales: NDArray[np.floating], *, axis: int
    ) -> str:
        """Stores integers and their scales; returns the name of the dequantized tensor."""
        self._put(f"{name}.integers", integers)
        self._put(f"{name}.scales", scales.astype(np.float32))
        self._put(f"{name}.zeros", np.zeros(scales.shape, integers.dtype))
        parts = [f"{name}.integers", f"{name}.scales", f"{name}.zeros"]
        self._nodes.append(helper.make_node("DequantizeLinear", parts, [name], axis=axis))
        return name

    def _put(self, name: str, array: NDArray[np.generic]) -> None:
        self._weights[name] = numpy_helper.from_array(array, name)


def _scale_and_zero(low: float, high: float) -> tuple[np.float32, int]:
    """Returns the scale of UINT8 over a range extended to 0, and the integer that represents 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / _LARGEST_ACTIVATION or 1.0)
    return scale, round(-low / float(scale))


def _weight_scales(weight: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Returns the scale of INT8 per output channel, (channels,)."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others)
    return np.where(largest > 0, largest / _LARGEST_WEIGHT, 1.0).astype(np.float32)


def _output_axis(node: onnx.NodeProto) -> int:
    if node.op_type == "Conv":
        return 0
    transposed = any(a.name == "transB" and a.i == 1 for a in node.attribute)
    return 0 if transposed else 1


def _correct_biases(
    model: onnx.ModelProto, last: Sequence[onnx.NodeProto], wanted: Means, faces: Images
) -> None:
    """Shifts the last biases so that the mean outputs of their products are those of FP32."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    found = _means(model, last, faces)
    for node in last:
        weight, bias = (numpy_helper.to_array(weights[name]) for name in node.input[1:])
        columns = weight if _output_axis(node) == 1 else weight.T
        shift = (wanted[node.input[0]] - found[node.input[0]]) @ columns
        moved = (bias + shift.reshape(bias.shape)).astype(np.float32)
        weights[node.input[2]].CopyFrom(numpy_helper.from_array(moved, node.input[2]))


def _ages(model: onnx.ModelProto, faces: Images) -> NDArray[np.float64]:
    """Returns ages in years, (N,), unrounded: the search compares fractions of a year."""
    name = unrounded_ages(model.graph.node)
    return np.asarray(_run(model, [], [name], faces), np.float64).reshape(-1)


def _means(model: onnx.ModelProto, last: Sequence[onnx.NodeProto], faces: Images) -> Means:
    """Returns the means over faces of the inputs of some products."""
    names = sorted({node.input[0] for node in last})
    if not names:
        return {}
    columns = zip(*_run(model, [], names, faces), strict=True)
    means = (np.mean([value.mean(axis=0) for value in column], axis=0) for column in columns)
    return dict(zip(names, means, strict=True))


def _run(
    model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto], outputs: Sequence[str], faces: Images
) -> list[list[NDArray[np.float32]]]:
    """Runs a graph with nodes added to it, face by face, and returns the outputs named."""
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.node.extend(nodes)
    float32 = TensorProto.FLOAT
    probe.graph.output.extend(helper.make_tensor_value_info(n, float32, None) for n in outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # FP32, as on any CPU
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    count = min(map(len, faces.values()))
    rows = ({name: array[i : i + 1] for name, array in faces.items()} for i in range(count))
    return [session.run(None, row) for row in rows]
