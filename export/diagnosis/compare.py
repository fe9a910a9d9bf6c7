"""Comparison of a variant with the FP32 graph, layer by layer, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from export.config.contract import Images, Outputs
from export.diagnosis.layers import Layer, LayerValues, OnnxLayers, in_groups
from export.diagnosis.measures import LayerError, measured
from export.errors import GraphError
from runtime.progress import Report, unreported

MEMORY_BYTES = 1 << 30
"""Default memory for the values of a group of layers."""
_FEWEST_FACES = 3


@dataclass(frozen=True, slots=True)
class Compared:
    """Every layer of a variant beside that of the FP32 graph."""

    errors: tuple[LayerError, ...]
    """In the order of computing."""
    found: Outputs
    exact: Outputs
    """Outputs of both graphs on the faces."""


@dataclass(frozen=True, slots=True)
class Sides:
    """Both graphs, to be opened on some faces."""

    exact: Callable[[Images], OnnxLayers]
    """The FP32 graph."""
    variant: Callable[[Images], LayerValues]
    large: bool
    """Weights over 1 GiB: one face is compared."""

    def faces(self, images: Images, memory_bytes: int) -> Images:
        """Returns the faces to compare layers on.

        These are as many as have room for all layers at once, and at least three: those whose ages
        differ most. A layer may overflow on one face alone.
        """
        number = min(map(len, images.values()))
        if self.large or number == 0:
            return _taken(images, [0])
        first = _taken(images, [0])
        layers = self.exact(first).layers(self.variant(first).names)
        size_bytes = sum(layer.size_bytes for layer in layers)
        count = max(_FEWEST_FACES, memory_bytes // max(1, size_bytes))
        if count >= number:
            return images
        exact, found = (
            np.asarray(side(images).values(["age_years"])["age_years"], np.float64)
            for side in (self.exact, self.variant)
        )
        differences = np.nan_to_num(np.abs(found - exact), nan=np.inf)
        return _taken(images, sorted(np.argsort(-differences, kind="stable")[:count].tolist()))


def _taken(images: Images, faces: list[int]) -> Images:
    return {name: views[faces] for name, views in images.items()}


def compare_layers(
    exact: OnnxLayers,
    variant: LayerValues,
    outputs: Sequence[str],
    memory_bytes: int = MEMORY_BYTES,
    report: Report = unreported,
) -> Compared:
    """Compares the layers that both graphs have, in groups that fit in memory.

    Both graphs are run once per group, so that less memory takes more time.

    Args:
        exact: the FP32 graph.
        variant: the graph to compare, on the same faces.
        outputs: names of the graphs' outputs.
        memory_bytes: for the values of a group.
        report: called with the number of layers compared, and of all.

    Raises:
        GraphError: the two have no layer in common.
    """
    layers = exact.layers(frozenset(variant.names))
    if not layers:
        raise GraphError("The two graphs have no layer of the same name; nothing can be compared.")
    errors: list[LayerError] = []
    found: Outputs = {}
    true: Outputs = {}
    done = 0
    report(done, len(layers))
    for group in in_groups(layers, memory_bytes):
        names = [layer.name for layer in group]
        theirs, ours = variant.values(names), exact.values(names)
        errors += [
            measured(layer, theirs[layer.name], ours[layer.name])
            for layer in group
            if theirs[layer.name].size == ours[layer.name].size
        ]
        for name in set(outputs).intersection(names):
            found[name] = np.asarray(theirs[name], np.float32)
            true[name] = np.asarray(ours[name], np.float32)
        done += len(group)
        report(done, len(layers))
    return Compared(tuple(_without_others(errors, layers)), found, true)


def _without_others(errors: Sequence[LayerError], layers: Sequence[Layer]) -> Iterator[LayerError]:
    """Yields the errors, with no sources but layers that were compared.

    A layer whose size depends on its values may have another size in the variant; the layers that
    it is computed from then stand for it.
    """
    compared = {error.layer.name: error for error in errors}
    origins: dict[str, tuple[str, ...]] = {}
    for layer in layers:
        found = (origins.get(name, ()) for name in layer.sources)
        sources = tuple(dict.fromkeys(name for names in found for name in names))
        origins[layer.name] = (layer.name,) if layer.name in compared else sources
        if layer.name in compared:
            yield replace(compared[layer.name], layer=replace(layer, sources=sources))
