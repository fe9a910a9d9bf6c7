"""Chooses among the sets of weights in one checkpoint: raw, averaged (EMA), of several networks.

| in the file | program |
|---|---|
| `state_dict`, `state_dict_ema` | timm |
| `model`, `model_ema` | torchvision's references, DeiT |
| `model`, `ema.module` | RT-DETR and others |
| `model_state_dict`, `ema_state_dict` | many training loops |
| `params`, `params_ema` | BasicSR |
| `online_model.…`, `ema_model.…` in one state dict | ema-pytorch |
| `model`, `swa_model` with `n_averaged` | torch.optim.swa_utils.AveragedModel |
| `state_dict` (averaged), `current_model_state` | Lightning's WeightAveraging |
| `student`, `teacher` | DINO, distillation |

Where there is one averaged set, it is used, as by timm. Any other choice is the user's, by a key of
experts.toml.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from export.checkpoints.state import PlainState, plain_state, scalar, unusual
from export.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS_KEY = "weights_key"
"""Key of experts.toml that names a set."""
_DEEPEST = 6
_MOST_ENTRIES = 500_000
"""Entries of containers that are visited; one that stands in several places counts in each."""
_MOST_SETS = 500
_ALONE = "Save the weights alone: torch.save(model.state_dict(), path)."
_AVERAGED = re.compile(
    r"(^|[^a-z])(ema|emas|swa|avg|averaged?|averaging|shadow|polyak)([^a-z]|$)|EMA|[a-z]Ema"
)
_RAW = re.compile(r"(^|[^a-z])(online|raw|current|student)([^a-z]|$)")
"""Parts of names of raw sets, also within an averaged one's."""
_TRAINING = re.compile(
    r"(^|_)(optim\w*|(lr_)?scheduler\w*|schedulers?|(grad_)?scaler|amp|loops|callbacks|criterion\w*"
    r"|loss\w*|rng\w*|random\w*|metrics?|hyper_parameters|args|opts?|config|cfg|meta|history)(_|$)",
    re.IGNORECASE,
)
"""Entries beside the weights whose tensors belong to the training."""
_PREFIX_SETS = frozenset(
    (
        *("model", "net", "network", "raw_model", "online_model", "student", "generator"),
        *("ema", "ema_model", "model_ema", "averaged_model", "swa_model", "teacher", "target"),
        "discriminator",
    )
)
"""First parts of keys in one state dict that stand for whole networks where there are several."""
_RAW_BESIDE_AVERAGED = "current_model_state"
"""Lightning's WeightAveraging keeps the raw weights here and the averaged ones as `state_dict`."""


@dataclass(frozen=True, slots=True)
class WeightSet:
    """One set of weights of a checkpoint."""

    name: str
    """Path of keys in the file, joined by dots; empty for a file that is the set itself."""
    state: Mapping[str, Tensor]
    metadata: Mapping[str, object]
    """Entries beside the set that are no weights; a tensor of one element is its number."""

    @property
    def averaged(self) -> bool:
        """Whether its name says that it is an average over training steps."""
        return bool(_AVERAGED.search(self.name)) and not _RAW.search(self.name)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The set of weights in use."""

    used: WeightSet
    others: tuple[str, ...]
    """Names of the sets that are not used."""


def choose(path: Path, sets: Sequence[WeightSet], key: str | None) -> Chosen:
    """Chooses one of the sets in a file: the one named, the only one, or the only averaged one.

    Args:
        path: of the file, for messages.
        sets: at least one.
        key: name of the set, or None.

    Raises:
        CheckpointError: no set has this name, or the choice is ambiguous.
    """
    names = [found.name for found in sets]
    listed = ", ".join(names)
    if key is not None:
        named = [found for found in sets if found.name == key]
        if not named:
            has = f"the sets of weights {listed}" if any(names) else "one set of weights, no key"
            raise CheckpointError(f"{path} has no {WEIGHTS_KEY} = {key!r}; it has {has}.")
        return _chosen(named[0], names)
    candidates = _distinct(sets)
    averaged = [found for found in candidates if _is_averaged(found, names)]
    preferred = candidates if len(candidates) == 1 else averaged
    if len(preferred) != 1:
        raise CheckpointError(
            f"{path} holds {len(sets)} sets of weights: {listed}. Name the one to use in "
            f"experts.toml: {WEIGHTS_KEY} = {names[0]!r}."
        )
    if len(candidates) > 1:
        _check_averaged(path, preferred[0], [s for s in sets if s is not preferred[0]])
    return _chosen(preferred[0], names)


def sets_in(loaded: object) -> list[WeightSet]:
    """Returns the sets of weights in what a file holds, by their paths of keys.

    Raises:
        CheckpointError: it has too many entries or sets.
    """
    found = list(islice(_sets(loaded, (), {}, [_MOST_ENTRIES]), _MOST_SETS + 1))
    if len(found) > _MOST_SETS:
        raise CheckpointError(
            f"The checkpoint holds more than {_MOST_SETS} sets of weights. {_ALONE}"
        )
    return [part for weights in found for part in prefix_sets(weights)]


def prefix_sets(weights: WeightSet) -> list[WeightSet]:
    """Splits a state dict that holds several networks under prefixes; else returns it alone."""
    groups: dict[str, dict[str, str]] = {}
    for key in weights.state:
        first, _, rest = key.partition(".")
        if rest and first in _PREFIX_SETS:
            groups.setdefault(first, {})[rest] = key
    alike = [name for name in groups if _same_network(groups[name], groups)]
    if len(alike) < 2:
        return [weights]
    beside = {key: scalar(weights.state[key]) for key in weights.state if "." not in key}
    metadata = {**weights.metadata, **beside}
    path = f"{weights.name}." if weights.name else ""
    return [
        WeightSet(path + name, PlainState(weights.state, groups[name]), metadata) for name in alike
    ]


def _same_network(own: Mapping[str, str], groups: Mapping[str, Mapping[str, str]]) -> bool:
    """Returns whether another group has mostly the same keys."""
    return any(
        2 * len(own.keys() & other.keys()) > max(len(own), len(other))
        for other in groups.values()
        if other is not own
    )


def _sets(
    value: object, path: tuple[str, ...], metadata: Mapping[str, object], left: list[int]
) -> Iterator[WeightSet]:
    """Yields the sets below a value; `left[0]`: entries that may still be visited."""
    import torch

    if isinstance(value, list | tuple):
        value = {str(i): v for i, v in enumerate(value) if isinstance(v, Mapping)}
    if not isinstance(value, Mapping) or len(path) > _DEEPEST:
        return
    left[0] -= len(value) + len(metadata) + 1
    if left[0] < 0:
        raise CheckpointError(f"The checkpoint has over {_MOST_ENTRIES:,} entries. {_ALONE}")
    entries = {key: entry for key, entry in value.items() if isinstance(key, str)}
    own = {k: scalar(v) for k, v in entries.items() if not isinstance(v, Mapping)}
    below = {**metadata, **own}
    nested: list[WeightSet] = []
    for key, entry in entries.items():
        if not _TRAINING.search(key):
            nested += _sets(entry, (*path, key), below, left)
    if nested:
        yield from nested
        return
    tensors = {key: entry for key, entry in entries.items() if isinstance(entry, torch.Tensor)}
    unnamed = any(isinstance(e, list) and _all_tensors(e) for e in entries.values())
    if unnamed and _AVERAGED.search(".".join(path)):
        yield WeightSet(".".join(path), {}, metadata)
    elif not path or any(tensor.numel() > 1 for tensor in tensors.values()):
        others = {key: entry for key, entry in value.items() if key not in tensors}
        yield WeightSet(".".join(path), tensors, {**metadata, **others})


def _all_tensors(values: list[object]) -> bool:
    import torch

    return bool(values) and all(isinstance(value, torch.Tensor) for value in values)


def _distinct(sets: Sequence[WeightSet]) -> list[WeightSet]:
    """Returns the sets without those that hold the same tensors as an earlier one."""
    distinct: list[WeightSet] = []
    for weights in sets:
        if not any(_equal(weights.state, other.state) for other in distinct):
            distinct.append(weights)
    return distinct


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    import torch

    def same(a: Tensor, b: Tensor) -> bool:
        if a.dtype != b.dtype or a.shape != b.shape or unusual(a) or unusual(b):
            return False
        small = a.is_floating_point() and a.element_size() == 1  # float8 has no comparison
        return torch.equal(a.float(), b.float()) if small else torch.equal(a, b)

    return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)


def _is_averaged(weights: WeightSet, names: Sequence[str]) -> bool:
    beside_raw = _RAW_BESIDE_AVERAGED in names and weights.name == "state_dict"
    return weights.averaged or beside_raw


def _check_averaged(path: Path, averaged: WeightSet, others: Sequence[WeightSet]) -> None:
    """Raises an error if averaged weights beside others cannot be meant, or not alone."""
    problem = ""
    if not averaged.state:
        problem = "are a list without names"
    elif _steps(averaged) == 0:
        problem = "are an average over 0 steps of training"
    elif missing := _missing(averaged, others):
        problem = f"lack {len(missing)} tensors that the other weights have, such as {missing[0]!r}"
    if problem:
        raise CheckpointError(
            f"{path}: the averaged weights in {averaged.name!r} {problem}. Name the set to use in "
            f"experts.toml: {WEIGHTS_KEY} = {others[0].name!r}."
        )


def _missing(averaged: WeightSet, others: Sequence[WeightSet]) -> list[str]:
    """Returns what averaged weights lack of the most similar other ones, such as statistics."""
    own = plain_state(averaged.state).keys()
    lacking = [sorted(plain_state(other.state).keys() - own) for other in others]
    return min(lacking, key=len)


def _steps(weights: WeightSet) -> float | None:
    """Returns the number of averaged steps as far as the file tells it."""
    for name, value in (
        *((key, scalar(weights.state[key])) for key in weights.state if key == "n_averaged"),
        *weights.metadata.items(),
    ):
        if name in ("n_averaged", "initted") and isinstance(value, int | float | bool):
            return float(value)
    return None


def _chosen(used: WeightSet, names: Sequence[str]) -> Chosen:
    return Chosen(used, tuple(name for name in names if name != used.name))
