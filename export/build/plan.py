"""The work that a build has to do and the reason for each file; nothing is built here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.build.demo_weights import demo_checkpoint_fits, demo_checkpoint_name
from export.build.keys import (
    build_key,
    changed_since,
    engine_key,
    expert_fingerprint,
    origin_key,
)
from export.build.options import BuildOptions
from export.build.preflight import SIZE_SHARES
from export.build.publish import current_manifest
from export.build.tensorrt_target import EngineTarget
from export.checkpoints.loading import hash_checkpoint
from export.checkpoints.sources import find_checkpoint
from export.config.architecture import ExpertConfig
from export.experts.registry import ARCHITECTURES, count_parameters
from runtime.manifest import (
    ENGINE_BACKENDS,
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
    """One expert with its weights located, and which of its graphs have to be built."""

    config: ExpertConfig
    checkpoint: Path | None
    """None for random weights."""
    source: Source
    fingerprint: str
    """As in `runtime.manifest.Expert`."""
    keys: Mapping[str, Mapping[str, str]]
    """Build key of every variant the expert can have, by precision."""
    built: Expert | None
    """The expert as an earlier build left it."""
    kept: Mapping[str, Artifact]
    """Its graphs that are up to date, by precision."""
    reasons: Mapping[str, str]
    """Reasons for building requested graphs, by precision; empty when all are up to date."""

    def precisions(self, options: BuildOptions) -> list[str]:
        """Returns the variants to write: those requested, and existing ones to be kept."""
        wanted = (*options.precisions_of(self.config), *self.kept)
        return [precision for precision in self.keys if precision in wanted]


@dataclass(frozen=True, slots=True)
class EngineJob:
    """The TensorRT engine of an expert whose ONNX files are up to date."""

    source: Artifact
    """The ONNX file it is built from."""
    key: Mapping[str, str]
    kept: Artifact | None
    """The engine that is up to date."""
    reason: str
    """The reason for building it; empty when it is up to date."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One file of a build."""

    expert: str
    path: str
    """Within the engines folder."""
    reason: str
    """The reason for building it; empty when it is up to date."""
    size_bytes: int
    """Estimated for a file that is yet to be built."""


def plan(options: BuildOptions) -> list[Planned]:
    """Returns the files of a build; raises `CheckpointError` if a checkpoint cannot be found."""
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
    config: ExpertConfig, checkpoint: Path | None, options: BuildOptions, manifest: Manifest | None
) -> Job:
    """Compares the requested graphs of an expert with those of an earlier build's manifest.

    Without a checkpoint the weights are random.
    """
    architecture = ARCHITECTURES[config.architecture]
    sha256 = hash_checkpoint(checkpoint) if checkpoint else None
    kind = architecture.checkpoint_kind if options.weights == "checkpoint" else options.weights
    location = weights_location(config, options) or "seed 0"
    variants = architecture.variants
    keys = {precision: build_key(config, options, precision, sha256) for precision in variants}
    built = manifest.experts.get(config.name) if manifest else None
    graphs = [a for a in built.artifacts if a.backend not in ENGINE_BACKENDS] if built else []
    artifacts = {graph.precision: graph for graph in graphs}
    kept: dict[str, Artifact] = {}
    reasons: dict[str, str] = {}
    for precision, key in keys.items():
        reason = _reason(artifacts.get(precision), key, options)
        if not reason:
            kept[precision] = artifacts[precision]
        elif precision in options.precisions_of(config):
            reasons[precision] = reason
    source, identity = Source(kind, location, sha256), expert_fingerprint(config, sha256)
    return Job(config, checkpoint, source, identity, keys, built, kept, reasons)


def make_engine_job(expert: Expert, options: BuildOptions) -> EngineJob | None:
    """Compares the requested engine of an expert with that of an earlier build.

    The ONNX files are up to date. Returns None where no engines are built.
    """
    if options.engines is None:
        return None
    precision = options.engine_precision(expert.architecture)
    artifacts = {(a.backend, a.precision): a for a in expert.artifacts}
    source = artifacts["onnx", precision]
    built = artifacts.get((options.engines.target.backend, precision))
    key = engine_key(source, expert.profile, options.engines)
    reason = _reason(built, key, options)
    return EngineJob(source, key, None if reason else built, reason)


def living_engines(
    built: Expert | None, graphs: Sequence[Artifact], profile: BatchProfile
) -> list[Artifact]:
    """Returns an earlier build's engines that fit the present graphs and batch sizes."""
    keys = {graph.precision: origin_key(graph, profile) for graph in graphs}
    return [
        engine
        for engine in (built.artifacts if built else ())
        if engine.backend in ENGINE_BACKENDS
        and engine.precision in keys
        and not changed_since(engine.build_key, keys[engine.precision])
    ]


def weights_location(config: ExpertConfig, options: BuildOptions) -> str | None:
    """Returns the path or hub id of an expert's weights; None for random ones."""
    if options.weights == "demo":
        return str(options.output / _CHECKPOINTS / demo_checkpoint_name(config))
    return config.checkpoint


def file_name(expert: str, precision: str) -> str:
    """Returns the name of the file with an expert's graph."""
    return f"{expert}.{precision}.{'xml' if precision == 'bf16' else 'onnx'}"


def engine_name(expert: str, precision: str, target: EngineTarget) -> str:
    """Returns the name of an expert's engine."""
    return f"{expert}.{precision}.{target.tag}.engine"


def _planned_engine(job: Job, options: BuildOptions, target: EngineTarget) -> Planned:
    name = job.config.name
    precision = options.engine_precision(job.config.architecture)
    path = f"{name}/{engine_name(name, precision, target)}"
    source = job.kept.get(precision)
    engine = make_engine_job(job.built, options) if job.built and source else None
    measured = (engine and engine.kept) or source
    size = sum(f.size_bytes for f in measured.files) if measured else _estimate(job, precision)
    return Planned(name, path, engine.reason if engine else job.reasons[precision], size)


def _reason(artifact: Artifact | None, key: Mapping[str, str], options: BuildOptions) -> str:
    """Returns the reason for building an artifact; empty when it is up to date."""
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
    """Estimates the size in bytes of a file that is yet to be built, from its weights."""
    if job.checkpoint is not None and job.checkpoint.is_file():
        weights = job.checkpoint.stat().st_size
    else:
        weights = 4 * count_parameters(job.config, job.checkpoint)
    return int(weights * SIZE_SHARES[precision])
