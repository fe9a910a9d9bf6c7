"""The content of an engines folder: experts, artifacts and their files.

`manifest_file` reads and writes it as JSON; the annotations are the limits on each value. Paths are
relative to the folder and use forward slashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, TypeVar

from runtime.errors import EngineFileError
from runtime.files import sha256_of
from runtime.geometry import ALIGN, MAX_SIDE, Geometry
from runtime.json_reader import SHA256, at_least, not_empty, one_of, within
from runtime.program import build_command

ENGINE_BACKENDS = ("tensorrt", "tensorrt_rtx")
"""Backends whose files are bound to a version of TensorRT and a kind of GPU."""
BACKENDS = ("onnx", "openvino", *ENGINE_BACKENDS)
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
INPUT_NAMES = ("face", "person")
OUTPUT_RANKS = {"age_years": 1, "age_probs": 2, "gender_probs": 2, "answer_mass": 1}
"""Names of the outputs a graph may have and the rank of each; all are float32."""
PLACEHOLDER_KINDS = ("demo", "random")
"""Kinds of weights whose ages of real photographs are meaningless."""
SOURCE_KINDS = ("checkpoint", *PLACEHOLDER_KINDS, "onnx")

Rows = TypeVar("Rows", int, str)


def _inside_folder(path: str) -> str | None:
    """Accepts what lies within the folder, for Windows too, where a backslash separates."""
    for pure in (PurePosixPath(path), PureWindowsPath(path)):
        if pure.anchor or ".." in pure.parts:
            return "must lie within the folder"
    return None


@dataclass(frozen=True, slots=True)
class Source:
    """Origin of an expert's weights."""

    kind: Annotated[str, one_of(SOURCE_KINDS)]
    """`checkpoint`, `demo` (drawn faces only), `random` (speed only) or `onnx` (a given file)."""
    location: str
    """Path or address, as the user gave it."""
    sha256: SHA256 | None
    """Of the weights; None for random ones."""
    license: str | None = None
    """Of the weights, as the configuration states it; None if it states none."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of an expert's graph: uint8 (N, height, width, 3), RGB."""

    name: Annotated[str, one_of(INPUT_NAMES)]
    """`face` or `person`."""
    height: Annotated[int, within(1, MAX_SIDE)]
    """In pixels."""
    width: Annotated[int, within(1, MAX_SIDE)]
    """In pixels."""
    geometry: Geometry
    """From a crop to this input."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the path and text of each inconsistency."""
        if self.name != "face" and self.geometry.fit == ALIGN:
            yield "geometry.fit", f"{ALIGN!r} is for faces, this input is the {self.name}"


@dataclass(frozen=True, slots=True)
class BatchProfile:
    """Batch sizes an expert's engines are built for."""

    smallest: Annotated[int, at_least(1)] = 1
    best: int = 8
    largest: int = 32

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the path and text of each inconsistency."""
        if not self.smallest <= self.best <= self.largest:
            yield "", f"must not decrease: {self.smallest}, {self.best}, {self.largest}"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file and its fingerprint."""

    path: Annotated[str, _inside_folder]
    sha256: SHA256
    size_bytes: Annotated[int, at_least(0)]


@dataclass(frozen=True, slots=True)
class Parity:
    """Difference between an artifact's ages and the reference model's on the verification faces."""

    mean_years: float
    """Where ages are whole numbers: of the expectation of `age_probs`."""
    max_years: float
    faces: Annotated[int, at_least(1)]
    differing_share: float | None = None
    """Share of faces with another whole number; None where ages are not whole numbers."""


@dataclass(frozen=True, slots=True)
class EngineBinding:
    """The only environment in which a TensorRT engine can run."""

    tensorrt: str
    """Version of TensorRT, or of TensorRT for RTX, that built it: `11.4.0.106`."""
    compute_capability: str | None
    """Of the GPU it was built on, `9.0`; None for TensorRT for RTX, which is not bound to one."""
    onnx_sha256: SHA256
    """`Artifact.sha256` of the ONNX graph it was made from."""
    flags: Mapping[str, str]
    """Further options of the builder, by name."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One executable variant of an expert."""

    backend: Annotated[str, one_of(BACKENDS)]
    """`onnx`, `openvino`, `tensorrt` or `tensorrt_rtx`."""
    precision: Annotated[str, one_of(PRECISIONS)]
    """`fp32`, `fp16`, `bf16` or `int8`."""
    files: Annotated[tuple[FileRecord, ...], not_empty]
    """The graph first, then its external data."""
    build_key: Mapping[str, str]
    """Fingerprints of everything it was made from; if all are equal, no rebuild is needed."""
    reduced_share: float
    """Share of floating-point weights and activations that are half precision; for OpenVINO, share
    of products that are computed in fewer bits than FP32."""
    parity: Parity | None
    """None if there is nothing to compare with, or the build machine cannot run it."""
    binding: EngineBinding | None = None
    """Of a TensorRT engine; None otherwise."""

    @property
    def sha256(self) -> str:
        """Fingerprint of its files together: the file's own if there is only one."""
        digests = [file.sha256 for file in self.files]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the path and text of each inconsistency."""
        if (self.binding is not None) != (self.backend in ENGINE_BACKENDS):
            yield "binding", "must be given exactly for TensorRT engines"


@dataclass(frozen=True, slots=True)
class Expert:
    """One expert: its inputs, outputs and artifacts."""

    architecture: str
    source: Source
    inputs: Annotated[tuple[InputSpec, ...], not_empty]
    outputs: tuple[Annotated[str, one_of(OUTPUT_RANKS)], ...]
    """`age_years` float32 (N,); optionally `age_probs` (N, A), `gender_probs` (N, 2) and
    `answer_mass` (N,)."""
    age_grid: tuple[float, ...] | None
    """Ages in years of the A columns of `age_probs`; None without that output."""
    profile: BatchProfile
    artifacts: Annotated[tuple[Artifact, ...], not_empty]
    whole_years: bool = False
    """Whether `age_years` are whole numbers."""
    no_answer: str | None = None
    """What a NaN in `age_years` beside finite other outputs means: the network has no age for this
    face. None if every NaN is a failure."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Notes of the exporter on this architecture; the runtime does not read them."""
    fingerprint: SHA256 | None = None
    """SHA-256 of what its raw predictions depend on besides rounding: weights, architecture,
    settings and geometry, but no tool versions. `fusion.json` is bound to it. None in folders that
    were built before it was recorded."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the path and text of each inconsistency."""
        if "age_years" not in self.outputs:
            yield "outputs", "must hold age_years"
        if ("age_probs" in self.outputs) != (self.age_grid is not None):
            yield "age_grid", "must be given exactly when age_probs is an output"


@dataclass(frozen=True, slots=True)
class DetectorRecord:
    """The face detector of an engines folder."""

    name: str
    """Its kind, as in `runtime.detectors`: `centerface`."""
    source: Source
    files: Annotated[tuple[FileRecord, ...], not_empty]
    """The network."""
    build_key: Mapping[str, str] = field(default_factory=dict)
    """Fingerprints of everything it was made from, as an artifact's."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of an engines folder."""

    created: str
    """UTC, ISO 8601."""
    tools: Mapping[str, str]
    """Versions of the tools it was built with."""
    experts: Annotated[Mapping[str, Expert], not_empty]
    """By name."""
    detector: DetectorRecord | None = None
    """Finds the faces in photographs; None: the runtime's own cascade does."""


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
    """Verifies that an artifact's files are the ones that were built.

    Args:
        folder: the engines folder.
        expert: its name, for the message.
        artifact: whose files are verified.
        hashes: compare SHA-256 too, not only sizes.

    Raises:
        EngineFileError: a file is missing, of another size or of other content.
    """
    rebuild = build_command(folder, only=expert, precision=artifact.precision)
    _verify(folder, artifact.files, f"expert {expert!r}", rebuild, hashes=hashes)


def verify_detector(folder: Path, detector: DetectorRecord) -> None:
    """Verifies that the detector's files are the ones that were built, by size and SHA-256.

    Raises:
        EngineFileError: a file is missing, of another size or of other content.
    """
    _verify(folder, detector.files, "the face detector", build_command(folder), hashes=True)


def file_intact(folder: Path, record: FileRecord) -> bool:
    """Returns whether a file is the one that was recorded."""
    return _file_problem(folder / record.path, record, hashes=True) is None


def _verify(
    folder: Path, records: Sequence[FileRecord], owner: str, rebuild: str, *, hashes: bool
) -> None:
    for record in records:
        path = folder / record.path
        if problem := _file_problem(path, record, hashes=hashes):
            raise EngineFileError(f"{path} of {owner} {problem}. Rebuild: {rebuild}")


def _file_problem(path: Path, record: FileRecord, *, hashes: bool) -> str | None:
    try:
        if not path.is_file():
            return "is missing"
        size = path.stat().st_size
        if size != record.size_bytes:
            return f"has {size:,} bytes, the manifest lists {record.size_bytes:,}"
        if hashes and sha256_of(path) != record.sha256:
            return "is not the file that was built (its SHA-256 differs from the manifest's)"
    except OSError as error:
        return f"cannot be read ({error})"
    return None
