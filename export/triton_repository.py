"""The command line that turns an engines folder into a model repository for Triton."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):  # run as a file: python export/triton_repository.py
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import runtime
from export.errors import ExportError
from export.triton.config import (
    ENSEMBLE,
    FUSION,
    Config,
    Running,
    ensemble_config,
    expert_config,
    fusion_config,
    pbtxt,
)
from runtime import fusion_file
from runtime.backends.variants import choose_artifact
from runtime.errors import AgeMoEError
from runtime.manifest import Artifact, Expert, verify_files
from runtime.manifest_file import read_manifest
from runtime.startup import read_calibration

DEVICES = ("auto", "tensorrt", "cuda", "cpu")
VERSION = "1"
"""Folder of each model's only version."""
_FUSION_MODULES = ("errors", "files", "fusion", "fusion_file", "json_reader", "results")
"""What the fusion needs of `runtime`: the standard library and NumPy."""
_ENSEMBLE_NOTE = "An ensemble has no file of its own, but Triton wants this folder.\n"
"""Written into it, because many tools that copy folders leave empty ones out."""
_GRAPH_NAMES = {"onnx": "model.onnx", "tensorrt": "model.plan"}
_BACKENDS = {"onnx": "onnxruntime", "tensorrt": "tensorrt"}


@dataclass(frozen=True, slots=True)
class Model:
    """One expert as Triton will run it."""

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
    running: Running | None = None,
) -> dict[str, Model]:
    """Writes a model repository: one model per expert, the fusion, and the ensemble of all.

    It appears whole, or not at all.

    Args:
        engines: folder written by `python export/build_engines.py`.
        output: folder that is not there yet.
        device: `tensorrt`, `cuda` or `cpu`; `auto` takes TensorRT where it was built, else CUDA.
        precision: `auto`, `fp32`, `fp16` or `int8`, as for `AgeMoE`; of INT8, Janus's.
        running: instances and queue.

    Returns:
        What was written, by expert.

    Raises:
        ExportError: the output exists, or an expert has a name that Triton needs.
        AgeMoEError: the engines are not in order, or hold nothing of what was asked for.
    """
    if output.exists():
        raise ExportError(f"{output} exists already. Remove it, or give another --output.")
    experts = read_manifest(engines).experts
    if taken := {ENSEMBLE, FUSION} & set(experts):
        raise ExportError(f"An expert is called {taken.pop()!r}, as the ensemble is. Rename it.")
    sources = {name: expert.source.sha256 for name, expert in experts.items()}
    read_calibration(engines, fusion_file.FILE_NAME, sources)
    models = {name: _model(name, expert, device, precision) for name, expert in experts.items()}
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as scratch:
        repository = Path(scratch) / output.name
        for name, model in models.items():
            _write_expert(repository, engines, name, model, running or Running())
        _write_fusion(repository, engines, experts)
        ensemble = _model_folder(repository, ensemble_config(experts))
        (ensemble / "README.txt").write_text(_ENSEMBLE_NOTE)
        repository.rename(output)
    return models


def _model(name: str, expert: Expert, device: str, precision: str) -> Model:
    rung = device
    if device == "auto":
        built = any(artifact.backend == "tensorrt" for artifact in expert.artifacts)
        rung = "tensorrt" if built else "cuda"
    artifact = choose_artifact(name, expert, rung, precision)
    if artifact.backend not in _BACKENDS:
        raise ExportError(
            f"Expert {name!r} would run in {artifact.precision} on {artifact.backend}, for which "
            f"this repository has no model. Give --precision fp32 or fp16, or another --device."
        )
    return Model(expert, artifact, "KIND_CPU" if rung == "cpu" else "KIND_GPU")


def _write_expert(
    repository: Path, engines: Path, name: str, model: Model, running: Running
) -> None:
    artifact = model.artifact
    verify_files(engines, name, artifact)
    backend = _BACKENDS[artifact.backend]
    config = expert_config(name, model.expert, backend, model.kind, running)
    folder = _model_folder(repository, config)
    graph, *data = artifact.files
    shutil.copyfile(engines / graph.path, folder / _GRAPH_NAMES[artifact.backend])
    for record in data:  # the graph names its data by their path from its own folder
        relative = (engines / record.path).relative_to((engines / graph.path).parent)
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(engines / record.path, folder / relative)


def _write_fusion(repository: Path, engines: Path, experts: Mapping[str, Expert]) -> None:
    folder = _model_folder(repository, fusion_config(experts))
    shutil.copyfile(Path(__file__).with_name("triton") / "model.py", folder / "model.py")
    if (engines / fusion_file.FILE_NAME).exists():
        shutil.copyfile(engines / fusion_file.FILE_NAME, folder / fusion_file.FILE_NAME)
    package = folder / "runtime"
    package.mkdir()
    (package / "__init__.py").write_text('"""The fusion\'s part of AgeMoE\'s runtime."""\n')
    for module in _FUSION_MODULES:
        source = Path(runtime.__file__).with_name(f"{module}.py")
        shutil.copyfile(source, package / source.name)


def _model_folder(repository: Path, config: Config) -> Path:
    """Writes a model's configuration; returns the folder for its files."""
    folder: Path = repository / config["name"] / VERSION
    folder.mkdir(parents=True)
    (folder.parent / "config.pbtxt").write_text(pbtxt(config), encoding="utf-8")
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes a repository and says what is in it; returns the exit status: 0, or 1 on an error."""
    parsed = _parser().parse_args(arguments)
    try:
        models = write_repository(
            parsed.engines,
            parsed.output,
            device=parsed.device,
            precision=parsed.precision,
            running=Running(parsed.instances, parsed.queue_delay_us),
        )
    except (ExportError, AgeMoEError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, model in models.items():
        print(f"{name}: {_told(model.artifact)}, {model.kind}")
    print(f"Next: tritonserver --model-repository={parsed.output.resolve()}")
    return 0


def _told(artifact: Artifact) -> str:
    if artifact.binding is None:
        return f"{artifact.backend} {artifact.precision}"
    capability = artifact.binding.compute_capability
    return (
        f"{artifact.backend} {artifact.precision}, which runs only in a Triton with TensorRT "
        f"{artifact.binding.tensorrt} on a GPU of compute capability {capability}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python export/triton_repository.py", description=__doc__)
    parser.add_argument("--engines", type=Path, default=Path("engines"), help="the engines folder")
    parser.add_argument(
        "--output", type=Path, default=Path("triton_models"), help="folder that is not there yet"
    )
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help="what runs the experts; auto: TensorRT where it was built, else CUDA",
    )
    parser.add_argument("--precision", default="auto", help="auto, fp32, fp16 or int8")
    parser.add_argument(
        "--instances", type=int, default=1, metavar="N", help="of each expert on each device"
    )
    parser.add_argument(
        "--queue-delay-us",
        type=int,
        default=2000,
        metavar="US",
        help="how long a request may wait for others to share its batch (default 2000)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
