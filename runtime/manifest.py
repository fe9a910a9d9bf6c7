"""What is in an engines folder, and whether it is still what was built.

Everything the runtime knows of an expert stands here. Paths are relative to the folder and use
forward slashes. `manifest_file` reads and writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from runtime.errors import EngineFileError
from runtime.files import sha256_of
from runtime.geometry import Geometry

ENGINE_BACKENDS = ("tensorrt", "tensorrt_rtx")
"""Those whose files are bound to a version and a kind of GPU."""
BACKENDS = ("onnx", "openvino", *ENGINE_BACKENDS)
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
INPUT_NAMES = ("face", "person")
OUTPUT_RANKS = {"age_years": 1, "age_probs": 2, "gender_probs": 2, "answer_mass": 1}
"""Names of the outputs a graph may have and the rank of each; all are float32."""
PLACEHOLDER_KINDS = ("demo", "random")
"""Kinds of weights whose ages of real photographs are meaningless."""
SOURCE_KINDS = ("checkpoint", *PLACEHOLDER_KINDS, "onnx")
REBUILD = "Rebuild: python export/build_engines.py"

Rows = TypeVar("Rows", int, str)


@dataclass(frozen=True, slots=True)
class Source:
    """Where an expert's weights come from."""

    kind: str
    """`checkpoint`, `demo` (drawn faces only), `random` (speed only) or `onnx` (a given file)."""
    location: str
    """Path or hub id, as the user gave it."""
    sha256: str | None
    """Of the weights; None for random ones."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of an expert's graph: uint8 (N, height, width, 3), RGB."""

    name: str
    """`face` or `person`."""
    height: int
    """In pixels."""
    width: int
    """In pixels."""
    geometry: Geometry
    """How a crop becomes this input."""


@dataclass(frozen=True, slots=True)
class BatchProfile:
    """Batch sizes an expert's engines are built for."""

    smallest: int = 1
    best: int = 8
    largest: int = 32


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file and its fingerprint."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Parity:
    """How far an artifact's ages lie from PyTorch's, over the verification faces."""

    mean_years: float
    max_years: float
    faces: int


@dataclass(frozen=True, slots=True)
class EngineBinding:
    """What a TensorRT engine can run with: nothing but this."""

    tensorrt: str
    """Version of TensorRT, or of TensorRT for RTX, that built it: `11.4.0.106`."""
    compute_capability: str | None
    """Of the GPU it was built on, `9.0`; None for TensorRT for RTX, which is not bound to one."""
    onnx_sha256: str
    """Of the ONNX graph it was made from."""
    flags: Mapping[str, str]
    """What else the builder was told, by name."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One executable form of an expert."""

    backend: str
    """`onnx`, `openvino`, `tensorrt` or `tensorrt_rtx`."""
    precision: str
    """`fp32`, `fp16`, `bf16` or `int8`."""
    files: tuple[FileRecord, ...]
    """The graph first, then its external data."""
    build_key: Mapping[str, str]
    """Fingerprints of everything it was made from; where all are equal, no rebuild is needed."""
    reduced_share: float
    """Of floating-point weights and activations, those that are half precision; on OpenVINO: of
    products, those computed in fewer bits than FP32."""
    parity: Parity | None
    """None where nothing to compare with exists, or the build machine cannot run it."""
    binding: EngineBinding | None = None
    """Of a TensorRT engine; None otherwise."""


@dataclass(frozen=True, slots=True)
class Expert:
    """One expert: what it wants, what it says, and in which forms it is here."""

    architecture: str
    source: Source
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    """`age_years` float32 (N,); optionally `age_probs` (N, A), `gender_probs` (N, 2) and
    `answer_mass` (N,)."""
    age_grid: tuple[float, ...] | None
    """Ages in years of the A columns of `age_probs`; None without that output."""
    profile: BatchProfile
    artifacts: tuple[Artifact, ...]
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the exporter wants remembered of this architecture; the runtime does not read it."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is in an engines folder."""

    created: str
    """UTC, ISO 8601."""
    tools: Mapping[str, str]
    """Versions of what it was built with."""
    experts: Mapping[str, Expert]
    """By name."""


def output_shape(name: str, rows: Rows, age_grid: Sequence[float] | None) -> tuple[Rows | int, ...]:
    """Returns the shape of an output of an expert's graph.

    Args:
        name: of the output, one of `OUTPUT_RANKS`.
        rows: the number of faces N, or the symbol that stands for it.
        age_grid: ages of the A columns of `age_probs`; None without that output.

    Returns:
        (N,) for `age_years` and `answer_mass`, (N, A) for `age_probs`, (N, 2) for `gender_probs`.
    """
    if OUTPUT_RANKS[name] == 1:
        return (rows,)
    return (rows, 2 if name == "gender_probs" else len(age_grid or ()))


def verify_files(folder: Path, expert: str, artifact: Artifact, *, hashes: bool = True) -> None:
    """Checks that an artifact's files are the ones that were built.

    Args:
        folder: the engines folder.
        expert: its name, for the message.
        artifact: whose files are checked.
        hashes: compare SHA-256 too, not only sizes.

    Raises:
        EngineFileError: a file is missing, of another size or of other content.
    """
    for record in artifact.files:
        problem = _file_problem(folder / record.path, record, hashes=hashes)
        if problem:
            raise EngineFileError(
                f"{folder / record.path} of expert {expert!r} {problem}. "
                f"{REBUILD} --only {expert} --output {folder}"
            )


def file_intact(folder: Path, record: FileRecord) -> bool:
    """Whether a file is there and is the one that was recorded."""
    return _file_problem(folder / record.path, record, hashes=True) is None


def _file_problem(path: Path, record: FileRecord, *, hashes: bool) -> str | None:
    try:
        if not path.is_file():
            return "is missing"
        size = path.stat().st_size
        if size != record.size_bytes:
            return f"has {size:,} bytes, the manifest says {record.size_bytes:,}"
        if hashes and sha256_of(path) != record.sha256:
            return "is not the file that was built (its SHA-256 differs from the manifest's)"
    except OSError as error:
        return f"cannot be read ({error})"
    return None
