"""Reads files of torch.save without executing pickle.

PyTorch's own restricted reader builds tensors and plain values. A few other types that training
scripts save beside the weights are inert: a stand-in defined here takes the place of each, so that
no code of another package runs. Everything else is refused by name.
"""

from __future__ import annotations

import argparse
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
    allowed: list[Any] = [(stand_in, name) for name, stand_in in _INERT.items()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle protocols, which load or raise
            with torch.serialization.safe_globals(allowed):
                loaded = torch.load(path, map_location="cpu", weights_only=True)
        return _plain(loaded, {})
    except Exception as error:  # readers of damaged data raise nearly every kind of error
        found = _GLOBAL.search(str(error))
        if found or isinstance(error, pickle.UnpicklingError):
            held = f"it holds {found['name'].rstrip('.')}" if found else "no pickle of torch.save"
            raise CheckpointError(
                f"{path} cannot be loaded without executing code from it, which is not allowed: "
                f"{held}. {_SAFE}"
            ) from error
        raise CheckpointError(
            f"{path} is not a readable checkpoint: damaged, incomplete, or neither safetensors nor "
            f"a file of torch.save ({type(error).__name__}). Download or save it again."
        ) from error


def _check_archive(path: Path) -> None:
    """Names zip archives that torch.save did not write; others are left to PyTorch."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            names = [name.rpartition("/")[2] for name in archive.namelist()]
    except Exception:  # noqa: BLE001 - of damaged archives; PyTorch's reader decides
        return
    if "constants.pkl" in names:
        raise CheckpointError(
            f"{path} is a TorchScript program, which holds code. {_SAFE} Or export it to ONNX, "
            f"with architecture = 'onnx'."
        )
    if "data.pkl" not in names:
        raise CheckpointError(
            f"{path} is a zip archive of {len(names)} files, not written by torch.save. Unpack it."
        )


def _plain(value: object, seen: dict[int, object]) -> object:
    """Returns a value with tensors in place of arrays; containers may hold themselves."""
    if isinstance(value, _Array):
        return value if value.values is None else _tensor(value.values)
    if not isinstance(value, dict | list | tuple):
        return value
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, dict):
        copy: dict[object, object] = {}
        seen[id(value)] = copy
        for key, element in value.items():
            copy[key] = _plain(element, seen)
        return copy
    seen[id(value)] = value
    return type(value)(_plain(element, seen) for element in value) if _simple(value) else value


def _simple(value: list[object] | tuple[object, ...]) -> bool:
    return type(value) in (list, tuple)


def _tensor(values: np.ndarray[Any, Any]) -> Tensor:
    import torch

    return torch.from_numpy(np.array(values, values.dtype.newbyteorder("="), order="C"))
