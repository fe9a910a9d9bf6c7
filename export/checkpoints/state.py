"""Rules for the weights of every checkpoint: wrappers, counters, finite values, scalars.

A loader takes `load_checkpoint(path)`, whose weights are checked for NaN and infinity on access and
whose metadata holds plain numbers, and passes its `state` to `plain_state`:

    checkpoint = load_checkpoint(path)
    weights = plain_state(checkpoint.state)
    if problem := describe_mismatch(name, weights, network.state_dict()):
        raise CheckpointError(problem)
    network.load_state_dict(dict(weights), strict=False)  # counters alone may be missing
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from export.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

WRAPPERS = ("module.", "_orig_mod.", "backbone.", "model.", "net.", "encoder.")
"""Prefixes that wrappers put before every key: DataParallel, torch.compile, training scripts."""
_COUNTERS = ("num_batches_tracked", "n_averaged")
"""Last parts of keys that count training steps; networks do not need them to predict."""


class PlainState(Mapping[str, "Tensor"]):
    """Weights under other names, each read on access."""

    def __init__(self, state: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
        """Keeps the weights and the key in `state` of every new name."""
        self._state = state
        self._names = names

    def __getitem__(self, key: str) -> Tensor:
        """Reads the weights of a name."""
        return self._state[self._names[key]]

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
        The weights without wrappers' prefixes and without counters of training steps.
    """
    names = {key: key for key in state if not is_counter(key) and not any(u in key for u in unused)}
    stripped = True
    while stripped:
        stripped = False
        for prefix in wrappers:
            if names and all(name.startswith(prefix) for name in names):
                names = {name.removeprefix(prefix): key for name, key in names.items()}
                stripped = True
    return PlainState(state, names)


def is_counter(key: str) -> bool:
    """Returns whether a key holds a counter of training steps."""
    return key.rpartition(".")[2] in _COUNTERS


def scalar(value: object) -> object:
    """Returns the number that a tensor of one element holds; any other value unchanged."""
    import torch

    return value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value


def finite(tensor: Tensor, key: str, path: Path) -> Tensor:
    """Returns a tensor unchanged if it holds neither NaN nor infinity.

    Args:
        tensor: the weights.
        key: theirs, for the message.
        path: of their file, for the message.

    Raises:
        CheckpointError: a value is not finite.
    """
    import torch

    if not tensor.is_floating_point() or tensor.numel() == 0:
        return tensor
    # The extremes need no memory, unlike a mask; NaN is both of them where there is one.
    if not torch.isfinite(torch.stack(torch.aminmax(tensor))).all():
        count = int((~torch.isfinite(tensor)).sum())
        raise CheckpointError(
            f"{path}: {key!r} holds {count} of {tensor.numel()} values that are NaN or infinite. "
            f"The file is damaged or its training diverged; use another checkpoint."
        )
    return tensor
