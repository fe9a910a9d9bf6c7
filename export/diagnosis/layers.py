"""Layers of a graph, and their values by ONNX Runtime on the CPU."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import onnx
from numpy.typing import NDArray

from export.config.contract import Images
from export.diagnosis.half import kept_wide, own_name, round_to_half
from export.errors import GraphError
from export.graph.sessions import open_session
from export.graph.traversal import names_read
from export.variants.fp16 import tensor_types

Values = Mapping[str, NDArray[Any]]
"""By name of a tensor."""
_BYTES_PER_NUMBER = 8
"""Of a number in both graphs, FP32."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A floating-point tensor that a node of the FP32 graph computes."""

    name: str
    """The tensor's name."""
    operator: str
    shape: tuple[int, ...]
    """On the faces compared."""
    sources: tuple[str, ...]
    """The nearest layers that it is computed from."""

    @property
    def size_bytes(self) -> int:
        """Memory of both sides' values."""
        return math.prod(self.shape) * _BYTES_PER_NUMBER


class LayerValues(Protocol):
    """A graph whose inner tensors can be read."""

    @property
    def names(self) -> Collection[str]:
        """Names of the floating-point tensors that can be read."""
        ...

    def values(self, names: Sequence[str]) -> Values:
        """Runs the graph on the faces; returns some tensors, float32 or float16."""
        ...


class OnnxLayers:
    """An ONNX graph in ONNX Runtime on the CPU."""

    def __init__(self, path: Path, faces: Images) -> None:
        """Reads the graph; weights in an external data file stay there.

        Args:
            path: of the file. If it holds half precision, that is rounded as on a GPU.
            faces: the inputs.
        """
        self._model = onnx.load(str(path), load_external_data=False)
        self._folder, self._name = path.parent, path.name
        self._faces: dict[str, NDArray[Any]] = dict(faces)
        types = tensor_types(path)
        made = {out for node in self._model.graph.node for out in node.output}
        self.names = frozenset(types.keys() & made)
        halves = {name for name, kind in types.items() if kind == "fp16"}
        if halves:
            round_to_half(self._model.graph, halves)
        self._nodes = list(self._model.graph.node)

    def values(self, names: Sequence[str]) -> Values:
        """Runs the nodes that some tensors need; returns these tensors."""
        return self._run(self._nodes, names)

    def outputs_given(self, given: Values, names: Sequence[str]) -> Values:
        """Returns some outputs as they are where some layers have the given values, float32."""
        inputs = self._model.graph.input
        own = len(inputs)
        inputs.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(array.shape))
            for name, array in given.items()
        )
        try:
            return self._run([_without(node, given) for node in self._nodes], names, given)
        finally:
            del inputs[own:]

    def outputs_kept(self, kept: Collection[str], names: Sequence[str]) -> Values:
        """Returns some outputs as they are where some half-precision layers stay in FP32."""
        return self._run(kept_wide(self._nodes, kept), names)

    def layers(self, compared: Collection[str]) -> list[Layer]:
        """Returns the layers among some names, in the order of computing."""
        both = self.names.intersection(compared)
        chosen = [name for node in self._nodes for name in node.output if name in both]
        if not chosen:
            return []
        shapes = self._shapes(chosen)
        origins: dict[str, tuple[str, ...]] = {}
        layers = []
        for node in self._nodes:
            found = (origins.get(name, ()) for name in sorted(names_read(node)))
            sources = tuple(dict.fromkeys(name for names in found for name in names))
            for name in node.output:
                origins[name] = (name,) if name in shapes else sources
                if name in shapes:
                    layers.append(Layer(name, node.op_type, shapes[name], sources))
        return layers

    def _shapes(self, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of tensors, measured in one run that keeps none of them."""
        chosen, nodes = set(names), []
        for node in self._nodes:
            nodes.append(node)
            nodes += [
                onnx.helper.make_node("Shape", [name], [own_name(name, "shape")])
                for name in chosen.intersection(node.output)
            ]
        found = self._run(nodes, [own_name(name, "shape") for name in names])
        return {name: tuple(found[own_name(name, "shape")].tolist()) for name in names}

    def _run(
        self,
        nodes: Sequence[onnx.NodeProto],
        names: Sequence[str],
        given: Values = MappingProxyType({}),
    ) -> Values:
        graph = self._model.graph
        del graph.node[:], graph.output[:]
        graph.node.extend(_needed(nodes, names))
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        try:
            session = open_session(self._model.SerializeToString(), self._folder, frugal=True)
            read = {value.name for value in session.get_inputs()}
            feeds = {n: a for n, a in (self._faces | dict(given)).items() if n in read}
            return dict(zip(names, session.run(list(names), feeds), strict=True))
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise GraphError(
                f"ONNX Runtime cannot show the layers of {self._name}: {error}"
            ) from error


def _without(node: onnx.NodeProto, outputs: Collection[str]) -> onnx.NodeProto:
    """Returns a node that does not compute some outputs: itself, or a copy."""
    if not set(outputs).intersection(node.output):
        return node
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for position, name in enumerate(node.output):
        if name in outputs:
            copy.output[position] = own_name(name, "replaced")
    return copy


def _needed(nodes: Sequence[onnx.NodeProto], names: Sequence[str]) -> list[onnx.NodeProto]:
    """Returns the nodes that some tensors depend on."""
    needed, kept = set(names), []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed |= names_read(node)
    return kept[::-1]


def in_groups(layers: Sequence[Layer], most_bytes: int) -> Iterator[list[Layer]]:
    """Yields layers in groups whose values fit in the given memory, a larger layer alone."""
    group: list[Layer] = []
    size_bytes = 0
    for layer in layers:
        if group and size_bytes + layer.size_bytes > most_bytes:
            yield group
            group, size_bytes = [], 0
        group.append(layer)
        size_bytes += layer.size_bytes
    if group:
        yield group
