"""The last layer of a checkpoint under another name: `fc.1`, `age_head`, beside other heads."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from export.checkpoints.state import PlainState, plain_state
from export.errors import CheckpointError
from export.experts.cnn.layouts import Layout, find_layout

if TYPE_CHECKING:
    from torch import Tensor

_KINDS = (".weight", ".bias")
_DENSE = ("pre_logits.fc1", "pre_logits.fc2")
"""timm's names of VGG16's dense layers before the last one."""
_LISTED = 6


@dataclass(frozen=True, slots=True)
class NamedWeights:
    """Weights as a layout names them, without wrappers, and with its name of the last layer."""

    state: PlainState
    layout: Layout
    head_layer: str
    """Name of the last layer in the file where it is another than the layout's; else empty."""
    unused_heads: tuple[str, ...]
    """Layers beside the last one that take the same inputs, and are left out."""


def name_weights(
    architecture: str, state: Mapping[str, Tensor], head_layer: str | None
) -> NamedWeights:
    """Finds the layout of a checkpoint and its last layer.

    Args:
        architecture: `vgg16` or `resnet50`.
        state: weights by their key in the file.
        head_layer: name of the last layer, as in the file or without its wrappers' prefixes; None
            where it has the layout's own name, or is the only layer within it (`fc.1`).

    Raises:
        CheckpointError: there is no such layer.
    """
    if head_layer is None:
        plain = plain_state(state)
        layout = find_layout(architecture, list(plain))
        nested = _nested_head(layout, list(plain))
        names = {key: plain.source(key) for key in plain}
        if nested:
            names = _renamed(names, nested, layout.heads[0])
        return NamedWeights(PlainState(state, names), layout, nested, ())
    layer = _layer(state, head_layer)
    names, alike = _body(state, layer)
    layout = find_layout(architecture, list(names))
    unused = [name for name in alike if layout.rename(name) not in _DENSE]
    own = {f"{layout.heads[0]}{kind}": f"{layer}{kind}" for kind in _KINDS}
    left_out = {*layout.heads, *unused}
    unused = sorted(head for head in left_out if f"{head}.weight" in names)
    names = {name: key for name, key in names.items() if name.rpartition(".")[0] not in left_out}
    names |= {name: key for name, key in own.items() if key in state}
    return NamedWeights(PlainState(state, names), layout, layer, tuple(unused))


def suggest_head(named: NamedWeights, names: Mapping[str, str], wanted: Collection[str]) -> str:
    """Names the layers that may be the last one, where the checkpoint lacks it; else empty.

    Args:
        named: the checkpoint's weights.
        names: their keys, by timm's.
        wanted: keys of the network.
    """
    head = named.layout.rename(named.layout.heads[0])
    if f"{head}.weight" in names or named.head_layer:
        return ""
    odd = [names[name] for name in names if name not in wanted and name.endswith(".weight")]
    linear = {key.removesuffix(".weight"): tuple(named.state[key].shape) for key in odd}
    shown = [f"{layer} {shape}" for layer, shape in linear.items() if len(shape) == 2][:_LISTED]
    if not shown:
        return ""
    first = shown[0].partition(" ")[0]
    return (
        f" It has no layer {named.layout.heads[0]!r}; layers that may be the last one: "
        f"{', '.join(shown)}. Name it: head_layer = {first!r}."
    )


def _nested_head(layout: Layout, keys: Collection[str]) -> str:
    """Returns the only layer with weights within a head that is a sequence; else empty."""
    if any(f"{head}.weight" in keys for head in layout.heads):
        return ""
    pattern = re.compile(rf"{re.escape(layout.heads[0])}(\.[\w-]+)+")
    layers = {key.rpartition(".")[0] for key in keys if pattern.fullmatch(key.rpartition(".")[0])}
    return layers.pop() if len(layers) == 1 else ""


def _renamed(names: Mapping[str, str], layer: str, head: str) -> dict[str, str]:
    return {
        f"{head}{name.removeprefix(layer)}" if name.rpartition(".")[0] == layer else name: key
        for name, key in names.items()
    }


def _layer(state: Mapping[str, Tensor], head_layer: str) -> str:
    """Returns the name of a layer in the file."""
    suffix = f"{head_layer}.weight"
    found = [key for key in state if key == suffix or key.endswith(f".{suffix}")]
    exact = [key for key in found if key == suffix] or found
    if len(exact) != 1:
        has = f"has {len(exact)}: {', '.join(exact[:_LISTED])}" if exact else "has none"
        last = [key.removesuffix(".weight") for key in state if key.endswith(".weight")][-_LISTED:]
        raise CheckpointError(
            f"head_layer = {head_layer!r} names no layer of the checkpoint, which {has}. Its last "
            f"ones are {', '.join(last)}."
        )
    return exact[0].removesuffix(".weight")


def _body(state: Mapping[str, Tensor], layer: str) -> tuple[dict[str, str], list[str]]:
    """Returns the keys of all weights but a layer's by plain name, and the layers like it.

    The body's wrapper may not be around the heads, as in `resnet.conv1.weight` and `fc.weight`.
    """
    rest = [key for key in state if key.rpartition(".")[0] != layer]
    alike = _layers_alike(state, rest, tuple(state[f"{layer}.weight"].shape[1:]))
    body = {key: key for key in rest if key.rpartition(".")[0] not in alike}
    plain = plain_state(PlainState(state, body))
    prefix = next((k.removesuffix(n) for n in plain if (k := plain.source(n)).endswith(n)), "")
    names = {name: plain.source(name) for name in plain}
    names |= {key.removeprefix(prefix): key for key in rest if key not in body}
    return names, [name.removeprefix(prefix) for name in alike]


def _layers_alike(
    state: Mapping[str, Tensor], keys: Iterable[str], inputs: tuple[int, ...]
) -> set[str]:
    """Returns the linear layers with the same inputs."""
    weights = [key for key in keys if key.endswith(".weight") and f"{key[:-7]}.bias" in state]
    shapes = ((key, tuple(state[key].shape)) for key in weights)
    return {
        key.removesuffix(".weight")
        for key, shape in shapes
        if len(shape) == 2 and shape[1:] == tuple(inputs)
    }
