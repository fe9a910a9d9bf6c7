"""FP32 to bfloat16 for OpenVINO's CPU plugin, with islands of FP32 where ages need them.

bfloat16 has the exponent of FP32 and 8 bits of precision. What comes of it is not rounded weights
but a mark on every node that has to stay in FP32; the file's weights are FP32 all the same.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.config.contract import Images
from export.errors import GraphError
from export.graph.weights import has_data_file
from runtime.backends.onnx import usable_cores
from runtime.backends.openvino_graph import bfloat16_share, compile_graph, import_openvino
from runtime.files import write_whole

REVISION = 1
"""Bumped whenever the files this module writes change."""
WITHIN_YEARS = (0.2, 1.0)
"""Mean and largest difference on the calibration faces: two thirds of what others are allowed."""
_RANKING_FACES = 16
_READING_A_WEIGHT = 40
"""Multiplications in FP32 that take as long as reading a weight from memory, by the first dense
layer of VGG16: 103 million weights in 27 ms on a CPU that multiplies 300 thousand million numbers a
second."""
_MARK = {"name": "DisablePrecisionConversion", "version": "0", "value": "dynamic:f16"}
"""What OpenVINO's own passes put on a node whose precision matters; the CPU plugin then leaves it
in FP32 also where bfloat16 is asked for (intel_cpu/src/node.cpp)."""
_PRODUCTS = ("Convolution", "MatMul")


@dataclass(frozen=True, slots=True)
class Bf16Variant:
    """What became of a graph's products with constant weights."""

    kept: tuple[str, ...]
    """Names of those that stay in FP32."""
    share: float
    """Of all products, those that are computed in bfloat16."""


def bf16_from_fp32(source: Path, target: Path, faces: Images) -> Bf16Variant:
    """Writes a form of an FP32 graph whose products with constant weights are bfloat16.

    In FP32 stays all else, attention included, and as many products as it takes for ages to stay
    within `WITHIN_YEARS` on the faces. First those that gain most for the time they take: how far
    each moves ages is measured by computing it alone in bfloat16.

    Args:
        source: the FP32 graph, its weights within.
        target: the file to write, `.xml`; its weights are written beside it, `.bin`.
        faces: to measure ages on, as the expert's inputs.

    Raises:
        GraphError: no such form is near enough to FP32, or the weights lie beside the graph.
    """
    if has_data_file(source):
        raise GraphError(
            f"The weights of {source.name} lie beside it, as those of networks over 2 GiB do. They "
            f"have no bf16 form; build it without --bf16."
        )
    mixer = Mixer(source, target, faces)
    kept = _fewest(mixer, mixer.by_worth())
    if kept is None:
        raise GraphError(
            f"{source.name} has no bf16 form within {WITHIN_YEARS[0]} years on average and "
            f"{WITHIN_YEARS[1]} at most of FP32, or none that says the same every time. Build it "
            f"without --bf16."
        )
    write_whole(target, mixer.marked(kept))
    return Bf16Variant(kept, bfloat16_share(mixer.compiled(kept)))


class Mixer:
    """One FP32 graph, and the forms of it that compute some products in bfloat16."""

    products: Mapping[str, float]
    """Those with constant weights, by name and in order: what each costs, in multiplications."""

    def __init__(self, source: Path, target: Path, faces: Images) -> None:
        """Writes the graph as OpenVINO's own files, and measures its ages."""
        self._openvino = import_openvino()
        self._faces = faces
        self._shapes = {name: (1, *array.shape[1:]) for name, array in faces.items()}
        model = self._openvino.Core().read_model(str(source))
        self.products = _products(model)
        _let_marks_last(model)
        self._openvino.save_model(model, str(target), compress_to_fp16=False)
        self._text = target.read_bytes()
        self._weights = np.fromfile(target.with_suffix(".bin"), np.uint8)
        self._ages = self.ages(self._compiled(self._text, bfloat16=False), faces)

    def marked(self, kept: Collection[str]) -> bytes:
        """The graph with marks on all that stays in FP32: some products, and all that is none."""
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
        """The form in which some products stay in FP32, ready to run."""
        return self._compiled(self.marked(kept), bfloat16=True)

    def errors_years(self, kept: Collection[str]) -> NDArray[np.float64]:
        """By how much that form differs on the faces, (N,); NaN where it contradicts itself."""
        form = self.compiled(kept)
        first, second = self.ages(form, self._faces), self.ages(form, self._faces)
        return np.where(first == second, np.abs(first - self._ages), np.nan)

    def by_worth(self) -> list[str]:
        """The products, that first which moves ages most for what it costs."""
        count = len(self._ages)
        some = np.linspace(0, count - 1, min(count, _RANKING_FACES)).astype(int)
        faces = {name: array[some] for name, array in self._faces.items()}
        moved = {}
        for product in self.products:
            others = [name for name in self.products if name != product]
            ages = self.ages(self.compiled(others), faces)
            moved[product] = float(np.square(ages - self._ages[some]).sum())
        return sorted(self.products, key=lambda name: -moved[name] / self.products[name])

    def ages(self, compiled: Any, faces: Images) -> NDArray[np.float64]:  # noqa: ANN401
        """Years, (N,)."""
        request = compiled.create_infer_request()
        columns = zip(*faces.values(), strict=True)
        rows = [dict(zip(faces, (view[None] for view in face), strict=True)) for face in columns]
        return np.array([np.float64(request.infer(row)["age_years"].item()) for row in rows])

    def _compiled(self, text: bytes, *, bfloat16: bool) -> Any:  # noqa: ANN401
        weights = self._openvino.Tensor(self._weights)
        try:
            model = self._openvino.Core().read_model(text, weights)
            return compile_graph(model, self._shapes, usable_cores(), bfloat16=bfloat16)
        except RuntimeError as error:  # which is what OpenVINO raises, whatever is wrong
            raise GraphError(
                f"OpenVINO cannot compile a bf16 form: {error} Build it without --bf16."
            ) from error


def _fewest(mixer: Mixer, ordered: Sequence[str]) -> tuple[str, ...] | None:
    """The fewest first products that have to stay in FP32; by bisection, then one by one."""
    low, high = 0, len(ordered)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _near(mixer, ordered[:middle]) else (middle + 1, high)
    while low < len(ordered) and not _near(mixer, ordered[:low]):
        low += 1  # errors add up by chance, and not always to more
    return tuple(ordered[:low]) if low < len(ordered) else None


def _near(mixer: Mixer, kept: Collection[str]) -> bool:
    errors = mixer.errors_years(kept)
    return bool(errors.mean() <= WITHIN_YEARS[0] and errors.max() <= WITHIN_YEARS[1])


def _products(model: Any) -> dict[str, float]:  # noqa: ANN401 - lazily imported type
    """The products with constant weights, by name and in order: their costs for one face."""
    return {
        node.get_friendly_name(): _cost(node)
        for node in model.get_ordered_ops()
        if node.get_type_name() in _PRODUCTS and _constant(node.input_value(1).get_node())
    }


def _cost(node: Any) -> float:  # noqa: ANN401 - lazily imported type
    """Multiplications, and the reading of weights as so many more."""
    weights: int = math.prod(node.input_value(1).get_shape())
    lengths = [
        axis.get_length() if axis.is_static else 1 for axis in node.get_output_partial_shape(0)
    ]
    channels = lengths[1 if node.get_type_name() == "Convolution" else -1]
    return weights * (math.prod(lengths) / channels + _READING_A_WEIGHT)


def _let_marks_last(model: Any) -> None:  # noqa: ANN401 - lazily imported type
    """Rewrites what OpenVINO would replace by something else, which loses a mark.

    A matrix product is fused with what follows; a Clamp to all the numbers there are keeps them
    apart until marks are read. Newer forms of MaxPool and Softmax become the oldest ones.
    """
    opset = import_openvino().opset1
    every = np.finfo(np.float32)
    for node in model.get_ordered_ops():
        readers = node.output(0).get_target_inputs() if node.get_output_size() else ()
        if node.get_type_name() == "MatMul" and _constant(node.input_value(1).get_node()):
            other = opset.clamp(node.output(0), float(every.min), float(every.max))
        elif node.get_type_name() == "MaxPool":
            facts = node.get_attributes()
            lengths = [facts[key] for key in ("strides", "pads_begin", "pads_end", "kernel")]
            how = facts["rounding_type"], facts["auto_pad"]
            other = opset.max_pool(node.input_value(0), *lengths, *how)
        elif node.get_type_name() == "Softmax":
            rank = node.get_output_partial_shape(0).rank.get_length()
            other = opset.softmax(node.input_value(0), node.get_attributes()["axis"] % rank)
        else:
            continue
        for reader in readers:
            reader.replace_source_output(other.output(0))


def _constant(node: Any) -> bool:  # noqa: ANN401 - lazily imported type
    """Whether a node depends on no input."""
    if node.get_type_name() == "Constant":
        return True
    sources = [port.get_source_output().get_node() for port in node.inputs()]
    return bool(sources) and all(map(_constant, sources))
