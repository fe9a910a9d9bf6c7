"""Weights by their key in the file, checked for NaN and infinity on access."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.checkpoints.state import finite
from export.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_OF_TORCH = (b"PK", b"\x80")
"""Beginnings of torch.save's files: zip, pickle."""


class TorchState(Mapping[str, "Tensor"]):
    """Weights of a file written by torch.save."""

    def __init__(self, state: Mapping[str, Tensor], path: Path) -> None:
        """Keeps the weights and the path of their file."""
        self._state = state
        self._path = path

    def __getitem__(self, key: str) -> Tensor:
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


class SafetensorsState(Mapping[str, "Tensor"]):
    """Weights of one or several safetensors files, each read on access."""

    def __init__(self, paths: list[Path]) -> None:
        """Reads the names of all weights.

        Raises:
            CheckpointError: a file is missing or damaged, or two files have the same key.
        """
        self._paths: dict[str, Path] = {}
        for path in paths:
            keys = list(_read(path, lambda file: file.keys()))
            if twice := [key for key in keys if key in self._paths]:
                raise CheckpointError(
                    f"{twice[0]!r} is both in {self._paths[twice[0]]} and in {path.name}. Download "
                    f"the whole folder again."
                )
            self._paths.update(dict.fromkeys(keys, path))

    def __getitem__(self, key: str) -> Tensor:
        """Reads the weights of a key.

        Raises:
            CheckpointError: they are damaged or not finite.
        """
        path = self._paths[key]
        return finite(_read(path, lambda file: file.get_tensor(key)), key, path)

    def __iter__(self) -> Iterator[str]:
        """Iterates over the keys."""
        return iter(self._paths)

    def __len__(self) -> int:
        """Returns the number of keys."""
        return len(self._paths)


def is_safetensors(path: Path) -> bool:
    """Recognizes safetensors: eight bytes with the length of a JSON header, then the header."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" or (path.suffix == ".safetensors" and not head.startswith(_OF_TORCH))


def _read(path: Path, read: Any) -> Any:  # noqa: ANN401 - safetensors' handle has no public type
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return read(file)
    except Exception as error:  # the library raises several kinds without a common base
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({reason}): damaged, incomplete, or "
            f"another format. Download or save it again."
        ) from error
