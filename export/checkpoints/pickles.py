"""Reads files of torch.save without executing pickle.

PyTorch's own restricted reader builds tensors and plain values. A few other types that training
scripts save beside the weights are inert: a stand-in defined here takes the place of each, so that
no code of another package runs. Everything else is refused by name.

What is read takes no more memory than a small multiple of the file: compressed archives, buffers of
a given size, and tensors that repeat their values beyond the size of the file are refused.
"""

from __future__ import annotations

import argparse
import mmap
import pickle
import re
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from export.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_GLOBAL = re.compile(r"GLOBAL (?P<name>[^\s,]{1,200})")
_BUFFER = b"\nbytearray\n"
"""In a pickle: a type that PyTorch's reader would make of any size that the file asks for."""
_NUMBERS = "biufc"
"""Kinds of NumPy's types that hold numbers."""
_FOREIGN_ORDER = ">" if sys.byteorder == "little" else "<"
_SAFE = (
    "Save the weights alone in the program that made it: torch.save(model.state_dict(), path), or "
    "safetensors."
)


class _Text:
    """Stands for types that are made of one text, or of the parts of a path."""

    def __new__(cls, *parts: object) -> str:  # type: ignore[misc]
        return str(PurePosixPath(*map(str, parts)))


class _List:
    def __new__(cls, items: Any = (), *_: object) -> list[object]:  # type: ignore[misc]  # noqa: ANN401
        return list(items) if isinstance(items, list | tuple) else []


class _Dict:
    """Stands for subclasses of dict, whatever they are made with."""

    def __new__(cls, *_: object) -> OrderedDict[object, object]:  # type: ignore[misc]
        return OrderedDict()


class _Object:
    """Stands for objects whose content does not matter."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


class _DType:
    """Stands for `numpy.dtype`."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code = code if isinstance(code, str) else ""
        self.swapped = False

    def __setstate__(self, state: object) -> None:
        self.swapped = isinstance(state, tuple) and len(state) > 1 and state[1] == _FOREIGN_ORDER

    def numbers(self) -> np.dtype[Any]:
        """Returns the type of numbers that is meant; raises ValueError if it is another."""
        found = np.dtype(self.code)
        found = found.newbyteorder("S") if self.swapped else found
        if found.kind not in _NUMBERS:
            raise ValueError(f"an array of {self.code!r}")
        return found


class _Array:
    """Stands for `numpy.ndarray`; becomes a tensor in `_plain`."""

    def __init__(self, *_: object) -> None:
        self.values: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: Any) -> None:  # noqa: ANN401
        _, shape, kind, fortran, data = state
        if isinstance(kind, _DType) and isinstance(data, bytes):
            flat = np.frombuffer(data, kind.numbers())
            self.values = flat.reshape(shape, order="F" if fortran else "C")


def _numpy_scalar(kind: object, data: object) -> object:
    if not isinstance(kind, _DType) or not isinstance(data, bytes):
        raise ValueError("a NumPy scalar that is no number")  # noqa: TRY004 - reported as damage
    return np.frombuffer(data, kind.numbers(), 1)[0].item()


def _names(packages: str, names: str) -> list[str]:
    return [f"{package}.{name}" for package in packages.split() for name in names.split()]


_INERT: dict[str, Callable[..., object]] = {
    "argparse.Namespace": argparse.Namespace,
    "types.SimpleNamespace": argparse.Namespace,
    "numpy.dtype": _DType,
    "numpy.ndarray": _Array,
    **dict.fromkeys(
        _names("numpy.core.multiarray numpy._core.multiarray", "scalar"), _numpy_scalar
    ),
    **dict.fromkeys(_names("numpy.core.multiarray numpy._core.multiarray", "_reconstruct"), _Array),
    **dict.fromkeys(
        _names(
            "pathlib pathlib._local",
            "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",
        ),
        _Text,
    ),
    "torch.torch_version.TorchVersion": _Text,
    "torchvision.transforms.functional.InterpolationMode": _Text,
    "decimal.Decimal": _Text,
    "uuid.UUID": _Object,
    **dict.fromkeys(_names("datetime", "date datetime time timedelta timezone"), _Object),
    "builtins.frozenset": _List,
    "builtins.range": _Object,
    "builtins.slice": _Object,
    **dict.fromkeys(_names("builtins", "int float str bool list dict tuple object"), _Object),
    "collections.deque": _List,
    "collections.defaultdict": _Dict,
    **dict.fromkeys(
        (
            "easydict.EasyDict",
            "addict.addict.Dict",
            "munch.Munch",
            "yacs.config.CfgNode",
            "ml_collections.config_dict.config_dict.ConfigDict",
            "mmengine.config.config.ConfigDict",
            "mmcv.utils.config.ConfigDict",
            "pytorch_lightning.utilities.parsing.AttributeDict",
            "lightning_fabric.utilities.data.AttributeDict",
            "lightning.fabric.utilities.data.AttributeDict",
        ),
        _Dict,
    ),
    "mmengine.logging.history_buffer.HistoryBuffer": _Object,
    **dict.fromkeys(
        _names(
            "pytorch_lightning lightning.pytorch",
            "callbacks.model_checkpoint.ModelCheckpoint callbacks.early_stopping.EarlyStopping",
        ),
        _Object,
    ),
}
"""What stands for each type, by its name in files; no function of another package is among them."""


def read_torch(path: Path) -> object:
    """Reads a file of torch.save: tensors, plain values, and stand-ins for inert types.

    NumPy's arrays become tensors, its numbers become Python's.

    Raises:
        CheckpointError: it is damaged, another kind of file, or needs code to be executed.
    """
    import torch

    _check_archive(path)
    _check_buffers(path)
    allowed: list[Any] = [(stand_in, name) for name, stand_in in _INERT.items()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle protocols, which load or raise
            with torch.serialization.safe_globals(allowed):
                loaded = torch.load(path, map_location="cpu", weights_only=True)
        return _plain(loaded, {}, path.stat().st_size)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}. {_SAFE}") from error
    except Exception as error:  # readers of damaged data raise nearly every kind of error
        found = _GLOBAL.search(str(error))
        if found or isinstance(error, pickle.UnpicklingError):
            held = f"it holds {found['name'].rstrip('.')}" if found else "no pickle of torch.save"
            raise CheckpointError(
                f"{path} cannot be loaded without executing code from it, which is not allowed: "
                f"{held}. {_SAFE}"
            ) from error
        raise _damaged(path, error) from error


def _check_archive(path: Path) -> None:
    """Raises `CheckpointError` for zip archives that torch.save did not write."""
    with path.open("rb") as file:
        local = file.read(4) == b"PK\x03\x04"
    try:
        if not local and not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:  # of damaged archives
        raise _damaged(path, error) from error
    names = [member.filename.rpartition("/")[2] for member in members]
    if "constants.pkl" in names:
        raise CheckpointError(
            f"{path} is a TorchScript program, which holds code. {_SAFE} Or export it to ONNX, "
            f"with architecture = 'onnx'."
        )
    if "data.pkl" not in names:
        raise CheckpointError(
            f"{path} is a zip archive of {len(names)} files, not written by torch.save. Unpack it."
        )
    unpacked = sum(member.file_size for member in members)
    if any(member.compress_type for member in members) or unpacked > path.stat().st_size:
        raise CheckpointError(
            f"{path} is a compressed archive, which torch.save does not write: its files have "
            f"{unpacked:,} bytes unpacked. {_SAFE}"
        )


def _check_buffers(path: Path) -> None:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data.find(_BUFFER) >= 0:
            raise CheckpointError(
                f"{path} cannot be loaded without executing code from it, which is not allowed: it "
                f"holds builtins.bytearray. {_SAFE}"
            )


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a readable checkpoint: damaged, incomplete, or neither safetensors nor "
        f"a file of torch.save ({type(error).__name__}). Download or save it again."
    )


def _plain(value: object, seen: dict[int, object], most_bytes: int) -> object:
    """Returns a value with tensors in place of arrays; containers may hold themselves."""
    import torch

    if isinstance(value, _Array):
        return value if value.values is None else _tensor(value.values)
    if isinstance(value, torch.Tensor) and value.numel() * value.element_size() > most_bytes:
        raise CheckpointError(
            f"holds a tensor of shape {tuple(value.shape)}, which has more values than the file"
        )
    if not isinstance(value, dict | list | tuple):
        return value
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, dict):
        copy: dict[object, object] = {}
        seen[id(value)] = copy
        for key, element in value.items():
            copy[key] = _plain(element, seen, most_bytes)
        return copy
    seen[id(value)] = value
    if not _simple(value):
        return value
    return type(value)(_plain(element, seen, most_bytes) for element in value)


def _simple(value: list[object] | tuple[object, ...]) -> bool:
    return type(value) in (list, tuple)


def _tensor(values: np.ndarray[Any, Any]) -> Tensor:
    import torch

    return torch.from_numpy(np.array(values, values.dtype.newbyteorder("="), order="C"))
