"""Comparison of a variant with the FP32 graph, layer by layer, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.config.contract import Images, Outputs
from export.diagnosis.layers import LayerValues, OnnxLayers, in_groups
from export.diagnosis.measures import LayerError, measured
from export.errors import GraphError
from export.faces.verification import PROBES
from export.graph.weights import has_data_file

MEMORY_BYTES = 1 << 30
"""Default memory for the values of a group of layers."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Every layer of a variant beside that of the FP32 graph."""

    errors: tuple[LayerError, ...]
    """In the order of computing."""
    found: Outputs
    exact: Outputs
    """Outputs of both graphs on the faces."""


def probe_faces(images: Images, path: Path) -> Images:
    """Returns the faces that layers are compared on: one for a network over 1 GiB, else three."""
    chosen = [0] if has_data_file(path) else list(PROBES)
    return {n: a if len(a) <= len(chosen) else a[chosen] for n, a in images.items()}


def compare_layers(
    exact: OnnxLayers,
    variant: LayerValues,
    outputs: Sequence[str],
    memory_bytes: int = MEMORY_BYTES,
    advance: Callable[[float], None] = lambda _: None,
) -> Compared:
    """Compares the layers that both graphs have, in groups that fit in memory.

    Both graphs are run once per group, so that less memory takes more time.

    Args:
        exact: the FP32 graph.
        variant: the graph to compare, on the same faces.
        outputs: names of the graphs' outputs.
        memory_bytes: for the values of a group.
        advance: called with the completed share.

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
        advance(done / len(layers))
    return Compared(tuple(errors), found, true)
