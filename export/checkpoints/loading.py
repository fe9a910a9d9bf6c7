"""Checkpoints: hashed, and loaded without executing pickles."""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.checkpoints.description import config_file
from export.checkpoints.onnx_files import external_data_files
from export.checkpoints.state import finite, is_counter, scalar
from export.errors import CheckpointError
from runtime.files import sha256_of

if TYPE_CHECKING:
    import torch

_CONTAINERS = (
    "state_dict_ema",
    "model_ema",
    "ema",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
)
"""Keys under which training scripts store weights, averaged ones (EMA) first, as in timm."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of a checkpoint."""

    state: Mapping[str, torch.Tensor]
    """Weights by their key in the file; checked on access, and safetensors are read then."""
    metadata: Mapping[str, object]
    """Other entries of the file: plain values only; a tensor of one element is its number."""
    path: Path
    """The file or the folder it came from."""


def hash_checkpoint(path: Path) -> str:
    """Returns the SHA-256 of a checkpoint file, or of the names and hashes of several files.

    These are a folder's files, or a file, the config.json beside it that describes it, and the
    external data of an ONNX file.

    Raises:
        CheckpointError: config.json is not JSON.
    """
    config = config_file(path)
    outside = external_data_files(path)
    if path.is_file() and config is None and not outside:
        return sha256_of(path)
    beside = [path, *([config] if config else []), *outside]
    files = beside if path.is_file() else path.iterdir()
    digest = hashlib.sha256()
    for file in sorted(child for child in files if child.is_file()):
        digest.update(f"{file.name} {sha256_of(file)}\n".encode())
    return digest.hexdigest()


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint: safetensors, or PyTorch's own format with tensors and plain values only.

    A folder holds `model.safetensors` or `pytorch_model.bin`, or shards of either with an index.

    Raises:
        CheckpointError: it is no checkpoint, damaged, or cannot be read without executing code.
    """
    if path.is_dir():
        return _from_folder(path)
    if _is_safetensors(path):
        return Checkpoint(SafetensorsState([path]), {}, path)
    loaded = _load_torch(path)
    if not isinstance(loaded, dict):
        raise CheckpointError(
            f"{path} holds {type(loaded).__name__}, expected a state dict. Save model.state_dict()."
        )
    state, metadata = _split(loaded)
    if not state:
        raise CheckpointError(
            f"{path} holds no weights; its keys are {', '.join(map(str, loaded))}. Save "
            f"model.state_dict(), as it is or under one of {', '.join(_CONTAINERS)}."
        )
    return Checkpoint(TorchState(state, path), metadata, path)


class TorchState(Mapping[str, "torch.Tensor"]):
    """Weights of a file written by torch.save."""

    def __init__(self, state: Mapping[str, torch.Tensor], path: Path) -> None:
        """Keeps the weights and the path of their file."""
        self._state = state
        self._path = path

    def __getitem__(self, key: str) -> torch.Tensor:
        """Returns the weights of a key.

        Raises:
            CheckpointError: they are not finite.
        """
        return finite(self._state[key], key, self._path)

    def __iter__(self) -> Iterator[str]:
        """Iterates over the keys."""
        return iter(self._state)

    def __len__(self) -> int:
        """Returns the number of keys."""
        return len(self._state)


class SafetensorsState(Mapping[str, "torch.Tensor"]):
    """Weights of one or several safetensors files, each read on access."""

    def __init__(self, paths: list[Path]) -> None:
        """Reads the names of all weights.

        Raises:
            CheckpointError: a file is missing or damaged.
        """
        from safetensors import SafetensorError

        self._paths: dict[str, Path] = {}
        for path in paths:
            try:
                with _opened(path) as file:
                    self._paths.update(dict.fromkeys(file.keys(), path))
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path} cannot be read: {error}.") from error

    def __getitem__(self, key: str) -> torch.Tensor:
        """Reads the weights of a key.

        Raises:
            CheckpointError: they are not finite.
        """
        with _opened(self._paths[key]) as file:
            return finite(file.get_tensor(key), key, self._paths[key])

    def __iter__(self) -> Iterator[str]:
        """Iterates over the keys."""
        return iter(self._paths)

    def __len__(self) -> int:
        """Returns the number of keys."""
        return len(self._paths)


def describe_mismatch(
    name: str, state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> str | None:
    """Describes why a state dict does not fit, or returns None if it does.

    Counters of training steps may be missing.

    Args:
        name: of the architecture, for the message.
        state: the weights of the checkpoint.
        wanted: the weights of the architecture.
    """
    misshapen = {
        f"{key} is {tuple(state[key].shape)}, wanted {tuple(wanted[key].shape)}"
        for key in state.keys() & wanted.keys()
        if state[key].shape != wanted[key].shape
    }
    lines = [
        _listed("missing", {k for k in wanted.keys() - state.keys() if not is_counter(k)}),
        _listed("unexpected", state.keys() - wanted.keys()),
        _listed("of another shape", misshapen),
    ]
    problems = [line for line in lines if line]
    return f"The checkpoint does not fit {name}:" + "".join(problems) if problems else None


def _listed(what: str, keys: set[str], most: int = 8) -> str:
    if not keys:
        return ""
    shown = ", ".join(sorted(keys)[:most]) + (", …" if len(keys) > most else "")
    return f"\n- {len(keys)} {what}: {shown}"


def _opened(path: Path) -> Any:  # noqa: ANN401 - safetensors' handle has no public type
    from safetensors import safe_open

    return safe_open(path, framework="pt")


def _is_safetensors(path: Path) -> bool:
    """Recognizes safetensors: eight bytes with the length of a JSON header, then the header."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _from_folder(folder: Path) -> Checkpoint:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return Checkpoint(SafetensorsState(_shards(index)), {}, folder)
    index = folder / "pytorch_model.bin.index.json"
    if index.is_file():
        parts = [load_checkpoint(shard).state for shard in _shards(index)]
        return Checkpoint({key: part[key] for part in parts for key in part}, {}, folder)
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            found = load_checkpoint(folder / name)
            return Checkpoint(found.state, found.metadata, folder)
    raise CheckpointError(
        f"{folder} holds no model.safetensors, model.safetensors.index.json or pytorch_model.bin."
    )


def _shards(index: Path) -> list[Path]:
    """Returns the files that an index lists, all of which have to exist."""
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{index.parent} lacks {len(missing)} of {len(names)} shards: {', '.join(missing)}. "
            f"Download the whole folder again."
        )
    return [index.parent / name for name in names]


def _load_torch(path: Path) -> object:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle protocols, which load or raise
            with torch.serialization.safe_globals([argparse.Namespace]):  # timm's `args`
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} cannot be loaded without executing code from it, which is not allowed: "
            f"{first_line(error)}. Save the weights alone: safetensors, or model.state_dict()."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is not a readable checkpoint: {first_line(error)}. Expected "
            f"safetensors or a file written by torch.save."
        ) from error


def _split(loaded: Mapping[str, object]) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """Separates the weights from other entries, in whichever container they are."""
    for container in _CONTAINERS:
        inner = loaded.get(container)
        if isinstance(inner, dict):
            others = {k: scalar(v) for k, v in loaded.items() if k not in _CONTAINERS}
            return _tensors(inner), others
    state = _tensors(loaded)
    return state, {key: value for key, value in loaded.items() if key not in state}


def _tensors(values: Mapping[str, object]) -> dict[str, torch.Tensor]:
    import torch

    return {key: value for key, value in values.items() if isinstance(value, torch.Tensor)}


def first_line(error: Exception) -> str:
    """Returns the first line of a message, without its full stop."""
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
