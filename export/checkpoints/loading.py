"""Checkpoints: hashed, and loaded without executing pickles."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from export.checkpoints.companions import companion_paths
from export.checkpoints.description import config_file
from export.checkpoints.onnx_files import external_data_files
from export.checkpoints.pickles import read_torch
from export.checkpoints.recognition import check_file
from export.checkpoints.shards import INDEX_SUFFIX, folder_index, shard_files
from export.checkpoints.state import is_counter
from export.checkpoints.tensors import SafetensorsState, TorchState, is_safetensors
from export.checkpoints.weight_sets import WeightSet, choose, prefix_sets, sets_in
from export.errors import CheckpointError
from runtime.files import check_regular, sha256_of
from runtime.printing import printable

if TYPE_CHECKING:
    import torch

_SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of a checkpoint."""

    state: Mapping[str, torch.Tensor]
    """Weights by their key in the file; checked on access, and safetensors are read then."""
    metadata: Mapping[str, object]
    """Other entries of the file: plain values only; a tensor of one element is its number."""
    path: Path
    """The file or the folder it came from."""
    used: str = ""
    """Name of the set of weights in use; empty where the file is the set itself."""
    unused: tuple[str, ...] = ()
    """Names of other sets of weights in the file."""

    @property
    def facts(self) -> dict[str, object]:
        """Which of several sets of weights is used, for the manifest; empty if there is one."""
        return (
            {"weights": {"used": self.used, "not_used": list(self.unused)}} if self.unused else {}
        )


def hash_checkpoint(path: Path) -> str:
    """Returns the SHA-256 of a checkpoint file, or of the names and hashes of several files.

    Several files are those of a folder with its shards, wherever in it they are; an index and its
    shards; an ONNX file and its external data; or a file and the config.json beside it that
    describes it and its companions.

    Raises:
        CheckpointError: a file is missing, outside the folder, or no file.
    """
    files = checkpoint_files(path)
    if list(files.values()) == [path]:
        return sha256_of(path)
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        digest.update(f"{name} {sha256_of(file)}\n".encode())
    return digest.hexdigest()


def checkpoint_files(path: Path) -> dict[str, Path]:
    """Returns the files that a checkpoint's answers depend on, by their name within its folder.

    Raises:
        CheckpointError: as for `hash_checkpoint`.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        found = {child.name: child for child in path.iterdir() if child.is_file()}
    else:
        found = {file.name: file for file in (path, config_file(path)) if file}
    index = folder_index(path) if path.is_dir() else path
    is_index = index is not None and index.name.endswith(INDEX_SUFFIX)
    outside = [
        *(shard_files(index) if index and is_index else []),
        *external_data_files(path),
        *companion_paths(path),
    ]
    found |= {file.relative_to(folder).as_posix(): file for file in outside}
    for file in found.values():
        try:
            check_regular(file)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}.") from error
    return found


def load_checkpoint(path: Path, weights_key: str | None = None) -> Checkpoint:
    """Reads a checkpoint: safetensors, or PyTorch's own format with tensors and plain values only.

    A folder holds `model.safetensors` or `pytorch_model.bin`, or shards of either with an index.

    Args:
        path: the file or folder; an index of shards counts as its folder.
        weights_key: name of the set of weights, where the file holds several; see
            `export.checkpoints.weight_sets`.

    Raises:
        CheckpointError: it is no checkpoint, damaged, or cannot be read without executing code;
            or it holds several sets of weights and which to use is ambiguous.
    """
    if path.is_dir() or path.name.endswith(INDEX_SUFFIX):
        sets = _sets_of_folder(path)
    else:
        sets = _sets_of_file(path)
    chosen = choose(path, sets, weights_key)
    used = chosen.used
    state = used.state if isinstance(used.state, SafetensorsState) else TorchState(used.state, path)
    return Checkpoint(state, used.metadata, path, used.name, chosen.others)


def describe_mismatch(
    name: str, state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> list[str]:
    """Returns the lines that describe why a state dict does not fit; none if it does.

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
    return [f"The checkpoint does not fit {name}:", *problems] if problems else []


def _listed(what: str, keys: set[str], most: int = 8) -> str:
    if not keys:
        return ""
    shown = ", ".join(map(printable, sorted(keys)[:most])) + (", …" if len(keys) > most else "")
    return f"- {len(keys)} {what}: {shown}"


def _sets_of_file(path: Path) -> list[WeightSet]:
    check_file(path)
    if is_safetensors(path):
        return prefix_sets(WeightSet("", SafetensorsState([path]), {}))
    loaded = read_torch(path)
    if not isinstance(loaded, dict | list | tuple):
        raise CheckpointError(
            f"{path} holds {type(loaded).__name__}, expected a state dict. Save model.state_dict()."
        )
    sets = sets_in(loaded)
    if not any(weights.state for weights in sets):
        keys = ", ".join(str(key)[:40] for key in list(loaded)[:20])
        raise CheckpointError(
            f"{path} holds no weights; its keys are {keys}. Save model.state_dict(), as it is or "
            f"under a key such as state_dict or model."
        )
    return sets


def _sets_of_folder(path: Path) -> list[WeightSet]:
    folder = path if path.is_dir() else path.parent
    index = folder_index(folder) if path.is_dir() else path
    if index is None:
        for name in _SINGLE_FILES:
            if (folder / name).exists():
                return _sets_of_file(folder / name)
        raise CheckpointError(
            f"{folder} holds no model.safetensors, model.safetensors.index.json or "
            f"pytorch_model.bin."
        )
    files = shard_files(index)
    for file in files:
        check_file(file)
    if all(is_safetensors(file) for file in files):
        return prefix_sets(WeightSet("", SafetensorsState(files), {}))
    state: dict[str, torch.Tensor] = {}
    for file in files:
        for part in _sets_of_file(file):
            if twice := sorted(state.keys() & part.state.keys()):
                raise CheckpointError(
                    f"{twice[0]!r} is in {file.name} and in another shard of {folder}. Download "
                    f"the whole folder again."
                )
            state.update(part.state)
    return [WeightSet("", state, {})]


def first_line(error: Exception) -> str:
    """Returns the first line of a message, without its full stop."""
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
