"""FP32 to bfloat16 for OpenVINO's CPU plugin; products that ages are sensitive to stay in FP32.

bfloat16 has the exponent of FP32 and 8 bits of precision. The file's weights remain FP32: nodes
that have to stay in FP32 carry a mark, and the plugin computes the others in bfloat16.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.config.contract import Images
from export.errors import GraphError
from export.variants.first_order import Compute, Tensor, squared_effects
from export.variants.search import Budget, Reduction, products_to_keep
from runtime.backends.openvino_graph import bfloat16_share, compile_graph, import_openvino
from runtime.cores import usable_cores
from runtime.files import write_whole

REVISION = 2
"""Bumped whenever the files this module writes change."""
BUDGET = Budget(0.2, 1.0)
"""Two thirds of the build's tolerance."""
_REPEATED = 4
"""One face in so many is computed twice, to see whether a variant reproduces its ages."""
_READING_A_WEIGHT = 40
"""Multiplications in FP32 that take as long as reading a weight from memory, by the first dense
layer of VGG16: 103 million weights in 27 ms on a CPU that multiplies 300 billion numbers a
second."""
_MARK = {"name": "DisablePrecisionConversion", "version": "0", "value": "dynamic:f16"}
"""Set by OpenVINO's own passes on precision-sensitive nodes; the CPU plugin leaves these in FP32
also where bfloat16 is requested (intel_cpu/src/node.cpp)."""
_PRODUCTS = ("Convolution", "MatMul")
_SUFFIX = "/WithoutBiases"
"""What OpenVINO appends to the name of a node with a bias, for the product in it."""
_UNROUNDED = "unrounded_years"
"""Output that measuring adds to graphs whose ages are rounded; it is not written."""


def bf16_from_fp32(source: Path, target: Path, faces: Images) -> Reduction:
    """Writes a variant of an FP32 graph whose products with constant weights are bfloat16.

    Everything else stays in FP32, attention included, and as many products as it takes for ages
    to stay within `BUDGET` on the faces.

    Args:
        source: the FP32 graph.
        target: the file to write, `.xml`; its weights are written beside it, `.bin`.
        faces: to measure ages on, as the expert's inputs.

    Raises:
        GraphError: no such variant is near enough to FP32, or OpenVINO cannot compile it.
    """
    graph = Bf16Graph(source, target, faces)
    kept = products_to_keep(graph, source.name)
    write_whole(target, graph.marked(kept))
    return Reduction(kept, bfloat16_share(graph.compiled(kept)))


def rounded_to_bfloat16(_: onnx.NodeProto, given: list[Tensor], compute: Compute) -> Tensor:
    """Computes a product in bfloat16, with sums in FP32; stands for what the plugin does."""
    operands = [value.bfloat16().float() for value in given[:2]]
    return compute([*operands, *given[2:]]).bfloat16().float()


class Bf16Graph:
    """An FP32 graph, and its variants that compute some products in bfloat16."""

    precision = "bf16"
    budget = BUDGET
    products: Mapping[str, float]

    def __init__(self, source: Path, target: Path, faces: Images) -> None:
        """Writes the graph in OpenVINO's format and measures its ages."""
        self._source = source
        self._openvino = import_openvino()
        self._shapes = {name: (1, *array.shape[1:]) for name, array in faces.items()}
        model = self._openvino.Core().read_model(str(source))
        self.products = _products(model)
        _preserve_marks(model)
        self._openvino.save_model(model, str(target), compress_to_fp16=False)
        self._text = target.read_bytes()
        self._weights = np.fromfile(target.with_suffix(".bin"), np.uint8)
        self.faces = faces
        self.ages_years = self.ages(self._compiled(self._text, bfloat16=False), faces)

    def marked(self, kept: Collection[str]) -> bytes:
        """Returns the graph with marks on the products kept and on all nodes that are none."""
        root = ET.fromstring(self._text)  # noqa: S314 - OpenVINO has just written it
        for layer in root.iter("layer"):
            name = layer.get("name")
            if layer.get("type") != "Const" and (name in kept or name not in self.products):
                marks = layer.find("rt_info")
                if marks is None:
                    marks = ET.Element("rt_info")
                    layer.insert(0 if layer.find("data") is None else 1, marks)
                ET.SubElement(marks, "attribute", _MARK)
        return ET.tostring(root)

    def compiled(self, kept: Collection[str]) -> Any:  # noqa: ANN401 - lazily imported type
        """Returns the variant that keeps some products in FP32, ready to run."""
        return self._compiled(self.marked(kept), bfloat16=True)

    def predicted(self) -> dict[str, float]:
        """Returns the mean squared years by which products, reduced alone, should move ages."""
        effects = squared_effects(onnx.load(str(self._source)), self.faces, rounded_to_bfloat16)
        nodes = {name: self.node_of(name) for name in self.products}
        return {name: effects[node] for name, node in nodes.items() if node in effects}

    @staticmethod
    def node_of(product: str) -> str:
        """Returns the name of a product's node in the FP32 graph."""
        return product.removesuffix(_SUFFIX)

    def fits(self, kept: Collection[str]) -> bool:
        """Returns whether a variant is within the budget, and two runs give the same ages."""
        variant = self.compiled(kept)
        first = self.ages(variant, self.faces)
        if not self.budget.allows(np.abs(first - self.ages_years)):
            return False
        repeated = {name: array[::_REPEATED] for name, array in self.faces.items()}
        return bool((self.ages(variant, repeated) == first[::_REPEATED]).all())

    def ages_reducing(self, products: Collection[str], faces: Images) -> NDArray[np.float64]:
        """Returns ages in years, (N,), with some products in bfloat16 and no others."""
        return self.ages(self.compiled(self.products.keys() - set(products)), faces)

    def ages(self, compiled: Any, faces: Images) -> NDArray[np.float64]:  # noqa: ANN401
        """Returns ages in years, (N,), unrounded: the search compares fractions of a year."""
        request = compiled.create_infer_request()
        named = {name for output in compiled.outputs for name in output.names}
        key = _UNROUNDED if _UNROUNDED in named else "age_years"
        columns = zip(*faces.values(), strict=True)
        rows = [dict(zip(faces, (view[None] for view in face), strict=True)) for face in columns]
        return np.array([np.float64(request.infer(row)[key].item()) for row in rows])

    def _compiled(self, text: bytes, *, bfloat16: bool) -> Any:  # noqa: ANN401
        weights = self._openvino.Tensor(self._weights)
        try:
            model = self._openvino.Core().read_model(text, weights)
            _expose_unrounded_ages(model)
            return compile_graph(model, self._shapes, usable_cores(), bfloat16=bfloat16)
        except RuntimeError as error:  # raised by OpenVINO for every kind of failure
            raise GraphError(
                f"OpenVINO cannot compile a bf16 variant: {error} Build it without --bf16."
            ) from error


def _expose_unrounded_ages(model: Any) -> None:  # noqa: ANN401 - lazily imported type
    """Adds an output with the ages before they are rounded, where they are."""
    ages = model.output("age_years").get_node().input_value(0).get_node()
    if ages.get_type_name() == "Round":
        unrounded = ages.input_value(0)
        unrounded.get_tensor().add_names({_UNROUNDED})
        model.add_outputs(unrounded)


def _products(model: Any) -> dict[str, float]:  # noqa: ANN401 - lazily imported type
    """Returns the costs for one face of the products with constant weights, in graph order."""
    return {
        node.get_friendly_name(): _cost(node)
        for node in model.get_ordered_ops()
        if node.get_type_name() in _PRODUCTS and _is_constant(node.input_value(1).get_node())
    }


def _cost(node: Any) -> float:  # noqa: ANN401 - lazily imported type
    """Returns the multiplications of a product, with reading its weights expressed in them."""
    weights: int = math.prod(node.input_value(1).get_shape())
    lengths = [
        axis.get_length() if axis.is_static else 1 for axis in node.get_output_partial_shape(0)
    ]
    channels = lengths[1 if node.get_type_name() == "Convolution" else -1]
    return weights * (math.prod(lengths) / channels + _READING_A_WEIGHT)


def _preserve_marks(model: Any) -> None:  # noqa: ANN401 - lazily imported type
    """Rewrites, in place, the nodes that OpenVINO would replace by others without their marks.

    A matrix product is fused with the node after it; a Clamp to the whole range of float32 keeps
    them apart until marks are read. MaxPool and Softmax become the versions of opset 1.
    """
    opset = import_openvino().opset1
    float32 = np.finfo(np.float32)
    for node in model.get_ordered_ops():
        readers = node.output(0).get_target_inputs() if node.get_output_size() else ()
        if node.get_type_name() == "MatMul" and _is_constant(node.input_value(1).get_node()):
            other = opset.clamp(node.output(0), float(float32.min), float(float32.max))
        elif node.get_type_name() == "MaxPool":
            facts = node.get_attributes()
            lengths = [facts[key] for key in ("strides", "pads_begin", "pads_end", "kernel")]
            modes = facts["rounding_type"], facts["auto_pad"]
            other = opset.max_pool(node.input_value(0), *lengths, *modes)
        elif node.get_type_name() == "Softmax":
            rank = node.get_output_partial_shape(0).rank.get_length()
            other = opset.softmax(node.input_value(0), node.get_attributes()["axis"] % rank)
        else:
            continue
        for reader in readers:
            reader.replace_source_output(other.output(0))


def _is_constant(node: Any) -> bool:  # noqa: ANN401 - lazily imported type
    """Returns whether a node depends on none of the graph's inputs."""
    if node.get_type_name() == "Constant":
        return True
    sources = [port.get_source_output().get_node() for port in node.inputs()]
    return bool(sources) and all(map(_is_constant, sources))
