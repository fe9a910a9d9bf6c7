"""Turns an engines folder into a model repository for Triton."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import runtime
from export.errors import ExportError
from export.triton.config import (
    ENSEMBLE,
    FUSION,
    Config,
    Scheduling,
    ensemble_config,
    expert_config,
    fusion_config,
    pbtxt,
)
from runtime import fusion_file
from runtime.backends.variants import choose_variant
from runtime.manifest import Artifact, Expert, verify_files
from runtime.manifest_file import read_manifest
from runtime.startup import read_calibration

_VERSION = "1"
"""Folder of the only version of each model."""
_FUSION_MODULES = (
    "errors",
    "file_system",
    "files",
    "fusion",
    "fusion_file",
    "json_reader",
    "names",
    "pooling",
    "printing",
    "program",
    "quality",
    "results",
)
"""Modules of `runtime` that the fusion needs; they need only NumPy."""
_ENSEMBLE_NOTE = "An ensemble has no file of its own, but Triton requires this folder.\n"
"""Content of the folder's only file, as many tools that copy folders skip empty ones."""
_GRAPH_NAMES = {"onnx": "model.onnx", "tensorrt": "model.plan"}
_BACKENDS = {"onnx": "onnxruntime", "tensorrt": "tensorrt"}


@dataclass(frozen=True, slots=True)
class Model:
    """An expert as Triton runs it."""

    expert: Expert
    artifact: Artifact
    kind: str
    """`KIND_GPU` or `KIND_CPU`."""


def write_repository(
    engines: Path,
    output: Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    scheduling: Scheduling | None = None,
) -> dict[str, Model]:
    """Writes a model repository: one model per expert, the fusion, and the ensemble of all.

    The folder appears complete or not at all.

    Args:
        engines: folder written by `agemoe build`.
        output: the new folder; must not exist.
        device: `tensorrt`, `cuda` or `cpu`; `auto` is TensorRT where it was built, else CUDA.
        precision: `auto`, `fp32`, `fp16` or `int8`, as for `AgeMoE`; INT8 applies to Janus only.
        scheduling: instances and queue.

    Returns:
        The models, by expert.

    Raises:
        ExportError: the output exists, or an expert has a reserved name.
        AgeMoEError: the engines are invalid or lack the requested device or precision.
    """
    if output.exists():
        raise ExportError(f"{output} already exists. Remove it or choose another --output.")
    experts = read_manifest(engines).experts
    if taken := {ENSEMBLE, FUSION} & set(experts):
        raise ExportError(f"The expert name {taken.pop()!r} is reserved. Rename the expert.")
    read_calibration(engines, fusion_file.FILE_NAME, experts)
    models = {
        name: _model(engines, name, expert, device, precision) for name, expert in experts.items()
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as scratch:
        repository = Path(scratch) / output.name
        for name, model in models.items():
            _write_expert(repository, engines, name, model, scheduling or Scheduling())
        _write_fusion(repository, engines, experts)
        ensemble = _model_folder(repository, ensemble_config(experts))
        (ensemble / "README.txt").write_text(_ENSEMBLE_NOTE, encoding="utf-8", newline="\n")
        repository.rename(output)
    return models


def _model(engines: Path, name: str, expert: Expert, device: str, precision: str) -> Model:
    hardware = device
    if device == "auto":
        built = any(artifact.backend == "tensorrt" for artifact in expert.artifacts)
        hardware = "tensorrt" if built else "cuda"
    artifact = choose_variant(engines, name, expert, hardware, precision).artifact
    if artifact.backend not in _BACKENDS:
        raise ExportError(
            f"Expert {name!r} would run in {artifact.precision} on {artifact.backend}, which this "
            f"repository does not support. Use --precision fp32 or fp16, or another --device."
        )
    return Model(expert, artifact, "KIND_CPU" if hardware == "cpu" else "KIND_GPU")


def _write_expert(
    repository: Path, engines: Path, name: str, model: Model, scheduling: Scheduling
) -> None:
    artifact = model.artifact
    verify_files(engines, name, artifact)
    backend = _BACKENDS[artifact.backend]
    config = expert_config(name, model.expert, backend, model.kind, scheduling)
    folder = _model_folder(repository, config)
    graph, *data = artifact.files
    shutil.copyfile(engines / graph.path, folder / _GRAPH_NAMES[artifact.backend])
    for record in data:  # the graph refers to its data relative to its own folder
        relative = (engines / record.path).relative_to((engines / graph.path).parent)
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(engines / record.path, folder / relative)


def _write_fusion(repository: Path, engines: Path, experts: Mapping[str, Expert]) -> None:
    folder = _model_folder(repository, fusion_config(experts))
    shutil.copyfile(Path(__file__).with_name("model.py"), folder / "model.py")
    if (engines / fusion_file.FILE_NAME).exists():
        shutil.copyfile(engines / fusion_file.FILE_NAME, folder / fusion_file.FILE_NAME)
    package = folder / "runtime"
    package.mkdir()
    note = '"""Modules of the AgeMoE runtime for the fusion."""\n'
    (package / "__init__.py").write_text(note, encoding="utf-8", newline="\n")
    for module in _FUSION_MODULES:
        source = Path(runtime.__file__).with_name(f"{module}.py")
        shutil.copyfile(source, package / source.name)


def _model_folder(repository: Path, config: Config) -> Path:
    """Writes a model's configuration and returns the folder for its files."""
    folder: Path = repository / config["name"] / _VERSION
    folder.mkdir(parents=True)
    (folder.parent / "config.pbtxt").write_text(pbtxt(config), encoding="utf-8", newline="\n")
    return folder
