"""What a build has to do, and why: nothing here builds anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.build.demo_weights import demo_checkpoint_fits, demo_checkpoint_name
from export.build.fingerprints import build_key, changed_since, engine_key, origin_key
from export.build.options import BuildOptions, ExpertConfig
from export.build.publish import current_manifest
from export.build.tensorrt_target import EngineTarget
from export.checkpoints.loading import find_checkpoint, hash_checkpoint
from runtime.manifest import (
    ENGINE_BACKENDS,
    PRECISIONS,
    Artifact,
    BatchProfile,
    Expert,
    Manifest,
    Source,
    file_intact,
)

_CHECKPOINTS = "checkpoints"
"""Folder within the engines folder that holds the demo experts' checkpoints."""


@dataclass(frozen=True, slots=True)
class Job:
    """One expert with its weights found, and what is to be done about its graphs."""

    config: ExpertConfig
    checkpoint: Path | None
    """None for random weights."""
    source: Source
    keys: Mapping[str, Mapping[str, str]]
    """Build key, by precision."""
    built: Expert | None
    """What an earlier build left."""
    kept: Mapping[str, Artifact]
    """What of it is up to date, by precision."""
    reasons: Mapping[str, str]
    """Why something has to be built, by precision; empty when all is up to date."""


@dataclass(frozen=True, slots=True)
class EngineJob:
    """What is to be done about the TensorRT engine of an expert whose ONNX files are there."""

    source: Artifact
    """The ONNX file it is built from."""
    key: Mapping[str, str]
    kept: Artifact | None
    """What is up to date."""
    reason: str
    """Why it has to be built; empty when it is up to date."""


@dataclass(frozen=True, slots=True)
class Planned:
    """What a build would do about one file, and why."""

    expert: str
    path: str
    """Within the engines folder."""
    reason: str
    """Empty when the file is up to date."""
    size_bytes: int
    """Estimated when the file is yet to be built."""


def plan(options: BuildOptions) -> list[Planned]:
    """What a build would do; nothing is written.

    Raises:
        CheckpointError: a checkpoint cannot be found.
    """
    manifest = current_manifest(options.output)
    planned = []
    for config in options.experts:
        location = weights_location(config, options)
        absent = location is None or (
            options.weights == "demo" and not demo_checkpoint_fits(config, Path(location))
        )
        checkpoint = None if absent or location is None else find_checkpoint(location)
        job = make_job(config, checkpoint, options, manifest)
        for precision in options.precisions_of(config):
            kept = job.kept.get(precision)
            size = sum(f.size_bytes for f in kept.files) if kept else _estimate(job, precision)
            path = f"{config.name}/{file_name(config.name, precision)}"
            planned.append(Planned(config.name, path, job.reasons.get(precision, ""), size))
        if options.engines is not None:
            planned.append(_planned_engine(job, options, options.engines.target))
    return planned


def make_job(
    config: ExpertConfig,
    checkpoint: Path | None,
    options: BuildOptions,
    manifest: Manifest | None,
) -> Job:
    """Compares what is wanted of an expert with what is there.

    Args:
        config: the expert.
        checkpoint: its weights; None for random ones.
        options: of the build.
        manifest: of the engines folder; None when there is none.
    """
    sha256 = hash_checkpoint(checkpoint) if checkpoint else None
    kind = "onnx" if config.architecture == "onnx" else options.weights
    location = weights_location(config, options) or "seed 0"
    keys = {precision: build_key(config, options, precision, sha256) for precision in PRECISIONS}
    built = manifest.experts.get(config.name) if manifest else None
    graphs = [a for a in built.artifacts if a.backend not in ENGINE_BACKENDS] if built else []
    artifacts = {graph.precision: graph for graph in graphs}
    kept: dict[str, Artifact] = {}
    reasons: dict[str, str] = {}
    for precision in PRECISIONS:
        reason = _reason(artifacts.get(precision), keys[precision], options)
        if not reason:
            kept[precision] = artifacts[precision]
        elif precision in options.precisions_of(config):
            reasons[precision] = reason
    return Job(config, checkpoint, Source(kind, location, sha256), keys, built, kept, reasons)


def make_engine_job(expert: Expert, options: BuildOptions) -> EngineJob | None:
    """Compares the engine that is wanted of an expert with what is there.

    Args:
        expert: with its ONNX files up to date.
        options: of the build.

    Returns:
        None where no engines are built.
    """
    if options.engines is None:
        return None
    precision = options.engine_precision
    by_form = {(a.backend, a.precision): a for a in expert.artifacts}
    source = by_form["onnx", precision]
    built = by_form.get((options.engines.target.backend, precision))
    key = engine_key(source, expert.profile, options.engines)
    reason = _reason(built, key, options)
    return EngineJob(source, key, None if reason else built, reason)


def living_engines(
    built: Expert | None, graphs: Sequence[Artifact], profile: BatchProfile
) -> list[Artifact]:
    """An earlier build's engines that were built from these very graphs.

    Args:
        built: what the earlier build left.
        graphs: as they are now.
        profile: batch sizes as they are now.
    """
    keys = {graph.precision: origin_key(graph, profile) for graph in graphs}
    return [
        engine
        for engine in (built.artifacts if built else ())
        if engine.backend in ENGINE_BACKENDS
        and engine.precision in keys
        and not changed_since(engine.build_key, keys[engine.precision])
    ]


def weights_location(config: ExpertConfig, options: BuildOptions) -> str | None:
    """Path or hub id of an expert's weights; None for random ones."""
    if options.weights == "demo":
        return str(options.output / _CHECKPOINTS / demo_checkpoint_name(config))
    return config.checkpoint


def file_name(expert: str, precision: str) -> str:
    """Name of the file that holds an expert's graph."""
    return f"{expert}.{precision}.{'xml' if precision == 'bf16' else 'onnx'}"


def engine_name(expert: str, precision: str, target: EngineTarget) -> str:
    """Name of an expert's engine."""
    return f"{expert}.{precision}.{target.tag}.engine"


def _planned_engine(job: Job, options: BuildOptions, target: EngineTarget) -> Planned:
    name, precision = job.config.name, options.engine_precision
    path = f"{name}/{engine_name(name, precision, target)}"
    source = job.kept.get(precision)
    engine = make_engine_job(job.built, options) if job.built and source else None
    measured = (engine and engine.kept) or source
    size = sum(f.size_bytes for f in measured.files) if measured else _estimate(job, precision)
    return Planned(name, path, engine.reason if engine else job.reasons[precision], size)


def _reason(artifact: Artifact | None, key: Mapping[str, str], options: BuildOptions) -> str:
    """Why an artifact has to be built; empty when it is up to date."""
    if artifact is None:
        return "not built yet"
    if options.force:
        return "--force"
    changed = changed_since(artifact.build_key, key)
    if changed:
        return f"changed: {', '.join(changed)}"
    broken = [f.path for f in artifact.files if not file_intact(options.output, f)]
    return f"missing or damaged: {', '.join(broken)}" if broken else ""


def _estimate(job: Job, precision: str) -> int:
    """Bytes of a file yet to be built: its weights, of 4, 2 or 1 bytes each."""
    if job.checkpoint is not None and job.checkpoint.is_file():
        weights = job.checkpoint.stat().st_size
    else:
        from export.experts.registry import count_parameters

        weights = 4 * count_parameters(job.config, job.checkpoint)
    return weights // {"fp32": 1, "fp16": 2, "bf16": 1, "int8": 4}[precision]
