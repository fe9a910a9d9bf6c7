"""Weights in TensorFlow.js's format: a manifest in JSON, and binary files beside it.

The manifest is a list of groups. A group names its files, whose bytes are one after another, and
its weights in the order of those bytes; a weight has a name, a shape, a type and, where it is
quantized, scale and minimum: value = stored * scale + minimum (tensorflow/tfjs,
tfjs-core/src/io/types.ts and io_utils.ts). Everything is validated before anything is read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.errors import CheckpointError
from runtime.files import is_regular, read_json
from runtime.json_reader import JsonReader, shown
from runtime.printing import bullets

MANIFEST_SUFFIX = "-weights_manifest.json"
_LARGEST_MANIFEST_BYTES = 4 << 20
_LARGEST_WEIGHTS_BYTES = 1 << 30
_MOST_AXES = 8
_LONGEST_NAME = 200
_TYPES = {"float32": "<f4", "int32": "<i4", "uint8": "|u1"}
_QUANTIZED_TYPES = {"uint8": "|u1", "uint16": "<u2"}
_DAMAGED = "Download the manifest and the files beside it again."


@dataclass(frozen=True, slots=True)
class _Weight:
    name: str
    shape: tuple[int, ...]
    stored: np.dtype[np.generic]
    """Type of the bytes, little-endian."""
    scale: float | None
    """None where the weight is not quantized."""
    minimum: float

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.stored.itemsize

    def values(self, data: bytes) -> NDArray[np.generic]:
        stored = np.frombuffer(data, self.stored).reshape(self.shape)
        if self.scale is None:
            return stored.astype(self.stored.newbyteorder("="))
        # TensorFlow.js computes in JavaScript's float64 and stores float32.
        with np.errstate(over="ignore", invalid="ignore"):  # refused afterwards
            return (stored.astype(np.float64) * self.scale + self.minimum).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Group:
    paths: tuple[Path, ...]
    weights: tuple[_Weight, ...]


def is_manifest(path: Path) -> bool:
    """Returns whether a file is, by its name, a manifest of TensorFlow.js weights."""
    return path.name.endswith(MANIFEST_SUFFIX)


def read_tensorflow_js(path: Path) -> Mapping[str, NDArray[np.generic]]:
    """Reads all weights, float32 where they are quantized, by name and in the format's order.

    Args:
        path: the manifest.

    Raises:
        CheckpointError: the manifest or a file is damaged, too large or missing, or a value is not
            finite.
    """
    weights: dict[str, NDArray[np.generic]] = {}
    for group in _read_manifest(path):
        weights.update(_read_group(path, group))
    return weights


def _read_manifest(path: Path) -> list[_Group]:
    problems: list[str] = []
    groups = [_group(entry, path) for entry in _document(path, problems).elements()]
    names = [weight.name for group in groups for weight in group.weights]
    if not problems:
        problems += [] if names else ["there are no weights"]
        problems += [f"weight {shown(name)} comes twice" for name in _repeated(names)]
        problems += _size_problems(groups)
    if problems:
        raise CheckpointError(
            f"{path} is no readable manifest of TensorFlow.js weights:",
            *bullets(problems),
            _DAMAGED,
        )
    return groups


def _document(path: Path, problems: list[str]) -> JsonReader:
    try:
        document = read_json(path, _LARGEST_MANIFEST_BYTES)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}. {_DAMAGED}") from error
    return JsonReader(document, "", problems)


def _group(entry: JsonReader, manifest: Path) -> _Group:
    paths = [_file(name, manifest) for name in entry.child("paths").elements()]
    weights = [_weight(weight) for weight in entry.child("weights").elements()]
    if not paths:
        entry.problem_below("paths", "names no file")
    return _Group(tuple(paths), tuple(weights))


def _file(entry: JsonReader, manifest: Path) -> Path:
    """Returns the path of a file of weights; its name has to begin with the manifest's own.

    A pinned hash covers the files beside a manifest by that rule.
    """
    name, stem = entry.string(), manifest.name.removesuffix(MANIFEST_SUFFIX)
    begins = name.startswith((f"{stem}.", f"{stem}-")) and len(name) <= _LONGEST_NAME
    if not begins or set(name) & set("/\\:\0"):
        entry.problem(
            f"must be the name of a file beside the manifest that begins with {stem!r}, "
            f"got {shown(name)}"
        )
    return manifest.parent / name


def _weight(entry: JsonReader) -> _Weight:
    name = entry.child("name").string()
    shape = tuple(axis.integer(low=1) for axis in entry.child("shape").elements())
    if len(shape) > _MOST_AXES or max(shape, default=1) > _LARGEST_WEIGHTS_BYTES:
        limits = f"at most {_MOST_AXES} axes of at most {_LARGEST_WEIGHTS_BYTES}"
        entry.problem_below("shape", f"must have {limits}, got {shown(shape)}")
    kind = entry.child("dtype").choice(tuple(_TYPES))
    if not entry.has("quantization"):
        return _Weight(name, shape, np.dtype(_TYPES[kind]), None, 0.0)
    quantization = entry.child("quantization")
    if kind != "float32":
        quantization.problem(f"is supported for float32 only, {shown(name)} is {kind}")
    stored = quantization.child("dtype").choice(tuple(_QUANTIZED_TYPES))
    scale = quantization.child("scale").number()
    minimum = quantization.child("min").number()
    return _Weight(name, shape, np.dtype(_QUANTIZED_TYPES[stored]), scale, minimum)


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _size_problems(groups: Sequence[_Group]) -> Iterator[str]:
    """Yields missing files, and groups whose weights do not fill their files exactly."""
    total = 0
    for index, group in enumerate(groups):
        missing = [file.name for file in group.paths if not is_regular(file)]
        if missing:
            yield f"[{index}].paths: there is no {shown(missing[0])} beside the manifest"
            continue
        found = sum(file.stat().st_size for file in group.paths)
        wanted = sum(weight.size_bytes for weight in group.weights)
        total += found
        if found != wanted:
            yield f"[{index}]: the weights need {shown(wanted)} bytes, the files have {found}"
    if total > _LARGEST_WEIGHTS_BYTES:
        yield f"the files have {total} bytes, at most {_LARGEST_WEIGHTS_BYTES} are read"


def _read_group(manifest: Path, group: _Group) -> Iterator[tuple[str, NDArray[np.generic]]]:
    data = b"".join(path.read_bytes() for path in group.paths)
    start = 0
    for weight in group.weights:
        values = weight.values(data[start : start + weight.size_bytes])
        start += weight.size_bytes
        if not np.isfinite(values).all():
            raise CheckpointError(
                f"{manifest}: {weight.name!r} holds values that are NaN or infinite. {_DAMAGED}"
            )
        yield weight.name, values
