"""Rules for the weights of every checkpoint: wrappers, counters, finite values, scalars.

A loader takes `load_checkpoint(path)`, whose weights are checked for NaN and infinity on access and
whose metadata holds plain numbers, and passes its `state` to `plain_state`:

    checkpoint = load_checkpoint(path)
    weights = plain_state(checkpoint.state)
    if problem := describe_mismatch(name, weights, network.state_dict()):
        raise CheckpointError(*problem)
    network.load_state_dict(dict(weights), strict=False)  # counters alone may be missing
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from export.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

WRAPPERS = (
    "module.",
    "_module.",
    "_forward_module.",
    "backbone.",
    "model.",
    "_model.",
    "base_model.",
    "ema_model.",
    "net.",
    "network.",
    "encoder.",
    "student.",
    "teacher.",
    "resnet.",
    "resnet50.",
    "vgg.",
    "vgg16.",
)
"""Prefixes that wrappers put before every key: DataParallel, Opacus, Lightning Fabric, ema-pytorch,
training scripts."""
_TRANSPARENT = re.compile(
    r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module)\."
)
"""Parts that torch.compile, FSDP, activation checkpointing and DataParallel put before the key of
whichever module they wrap."""
_COUNTERS = ("num_batches_tracked", "n_averaged", "initted", "step")
"""Last parts of keys that count training steps; networks do not need them to predict."""
_BESIDE = re.compile(
    r"([a-z0-9]+_)*(criterion|criteria|loss|losses|loss_fn|loss_func)(_[a-z0-9]+)*\."
    r"|(train|training|val|valid|validation|test)_[a-z0-9_]+\."
    r"|(metric|metrics)\."
)
"""First parts of keys of losses and metrics, which Lightning saves beside the network."""


class PlainState(Mapping[str, "Tensor"]):
    """Weights under other names, each read on access."""

    def __init__(self, state: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
        """Keeps the weights and the key in `state` of every new name."""
        self._state = state
        self._names = names

    def __getitem__(self, key: str) -> Tensor:
        """Reads the weights of a name."""
        return self._state[self._names[key]]

    def source(self, key: str) -> str:
        """Returns the key in `state` of a name."""
        return self._names[key]

    def __iter__(self) -> Iterator[str]:
        """Iterates over the new names."""
        return iter(self._names)

    def __len__(self) -> int:
        """Returns the number of names."""
        return len(self._names)


def plain_state(
    state: Mapping[str, Tensor],
    *,
    wrappers: Sequence[str] = WRAPPERS,
    unused: Sequence[str] = (),
) -> PlainState:
    """Names weights as the network itself does; nothing is read.

    Args:
        state: weights by their key in the file.
        wrappers: prefixes to remove where all keys have them, in any order and number.
        unused: weights whose key contains one of these are omitted.

    Returns:
        The weights without wrappers' prefixes, counters of training steps, losses and metrics.
    """
    names = {
        key: key
        for key in state
        if not is_counter(key) and not _BESIDE.match(key) and not any(u in key for u in unused)
    }
    if wrappers:
        names = _without_transparent(names)
    stripped = True
    while stripped:
        stripped = False
        for prefix in wrappers:
            if names and all(name.startswith(prefix) for name in names):
                names = {name.removeprefix(prefix): key for name, key in names.items()}
                stripped = True
    return PlainState(state, names)


def _without_transparent(names: Mapping[str, str]) -> dict[str, str]:
    """Leaves out the parts of wrappers within names, unless two would become the same."""
    short = {_TRANSPARENT.sub("", name): key for name, key in names.items()}
    return short if len(short) == len(names) else dict(names)


def is_counter(key: str) -> bool:
    """Returns whether a key holds a counter of training steps."""
    return key.rpartition(".")[2] in _COUNTERS


def scalar(value: object) -> object:
    """Returns the number that a tensor of one element holds; any other value unchanged."""
    import torch

    return value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value


def finite(tensor: Tensor, key: str, path: Path) -> Tensor:
    """Returns a tensor if it holds neither NaN nor infinity; float8 becomes float32.

    Args:
        tensor: the weights.
        key: theirs, for the message.
        path: of their file, for the message.

    Raises:
        CheckpointError: a value is not finite, or it is sparse, quantized, complex or empty of
            values.
    """
    import torch

    if problem := unusual(tensor):
        raise CheckpointError(
            f"{path}: {key!r} is {problem}; expected an ordinary tensor. Save the network's own "
            f"weights in float32."
        )
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return tensor
    tensor = tensor if tensor.element_size() > 1 else tensor.float()  # float8 has no arithmetic
    # The extremes need no memory, unlike a mask; NaN is both of them where there is one.
    if not torch.isfinite(torch.stack(torch.aminmax(tensor))).all():
        count = int((~torch.isfinite(tensor)).sum())
        raise CheckpointError(
            f"{path}: {key!r} holds {count} of {tensor.numel()} values that are NaN or infinite. "
            f"The file is damaged or its training diverged; use another checkpoint."
        )
    return tensor


def unusual(tensor: Tensor) -> str:
    """Names a kind of tensor that holds no plain values; empty for ordinary ones."""
    import torch

    if tensor.is_meta:
        return "a tensor without values (device meta)"
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_quantized:
        return "quantized"
    return "complex" if tensor.is_complex() else ""
