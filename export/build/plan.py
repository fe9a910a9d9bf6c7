"""The work that a build has to do and the reason for each file; nothing is built here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from export.build.keys import (
    build_key,
    changed_since,
    detector_key,
    engine_key,
    expert_fingerprint,
    origin_key,
)
from export.build.options import BuildOptions
from export.build.preflight import SIZE_SHARES
from export.build.publish import current_manifest
from export.build.tensorrt_target import EngineTarget
from export.build.weights import Weights, known_weights
from export.checkpoints.sources import is_remote
from export.config.architecture import ExpertConfig
from export.config.detector import DETECTOR, DetectorConfig
from export.experts.registry import ARCHITECTURES, count_parameters
from runtime.manifest import (
    ENGINE_BACKENDS,
    Artifact,
    BatchProfile,
    DetectorRecord,
    Expert,
    FileRecord,
    Manifest,
    Source,
    file_intact,
)


@dataclass(frozen=True, slots=True)
class Job:
    """One expert with its weights located, and which of its graphs have to be built."""

    config: ExpertConfig
    weights: Weights
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
    size_bytes: int | None
    """Estimated for a file that is yet to be built; None before its weights are fetched."""
    license: str = ""
    """Of the weights; empty if none is stated."""
    to_fetch: str = ""
    """The location of weights that a build would fetch first; empty if it fetches none."""


def plan(options: BuildOptions) -> list[Planned]:
    """Returns the files of a build; nothing is fetched or built.

    Raises:
        CheckpointError: a given path holds another checkpoint than the configured one.
    """
    manifest = current_manifest(options.output)
    planned = []
    for config in options.experts:
        job = make_job(config, known_weights(config, options), options, manifest)
        stated = config.license or ""
        for precision in options.precisions_of(config):
            kept = job.kept.get(precision)
            size = sum(f.size_bytes for f in kept.files) if kept else _estimate(job, precision)
            path = f"{config.name}/{file_name(config.name, precision)}"
            reason = job.reasons.get(precision, "")
            fetch = _to_fetch(reason, job.weights)
            planned.append(Planned(config.name, path, reason, size, stated, fetch))
        if options.engines is not None:
            planned.append(_planned_engine(job, options, options.engines.target))
    if options.detector is not None:
        planned.append(_planned_detector(options.detector, options, manifest))
    return planned


def make_job(
    config: ExpertConfig, weights: Weights, options: BuildOptions, manifest: Manifest | None
) -> Job:
    """Compares the requested graphs of an expert with those of an earlier build's manifest."""
    architecture = ARCHITECTURES[config.architecture]
    kind = architecture.checkpoint_kind if options.weights == "checkpoint" else options.weights
    source = Source(kind, weights.location or "seed 0", weights.sha256, config.license)
    variants = architecture.variants
    sha256 = weights.sha256
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
    identity = expert_fingerprint(config, sha256)
    return Job(config, weights, source, identity, keys, built, kept, reasons)


def make_engine_job(expert: Expert, options: BuildOptions) -> EngineJob | None:
    """Compares the requested engine of an expert with that of an earlier build.

    The ONNX files are up to date. Returns None where no engines are built, or the ONNX file that
    it is built from was refused.
    """
    if options.engines is None:
        return None
    precision = options.engine_precision(expert.architecture)
    artifacts = {(a.backend, a.precision): a for a in expert.artifacts}
    source = artifacts.get(("onnx", precision))
    if source is None:
        return None
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
    reason = engine.reason if engine else job.reasons[precision]
    return Planned(name, path, reason, size, job.config.license or "")


def _planned_detector(
    config: DetectorConfig, options: BuildOptions, manifest: Manifest | None
) -> Planned:
    weights = known_weights(config, options)
    built = manifest.detector if manifest else None
    reason = detector_reason(built, config, weights, options)
    size = weights.path.stat().st_size if weights.path else None
    if built is not None and not reason:
        size = sum(file.size_bytes for file in built.files)
    path = f"{DETECTOR}/{detector_file_name(config)}"
    fetch = _to_fetch(reason, weights)
    return Planned(DETECTOR, path, reason, size, config.license or "", fetch)


def detector_reason(
    built: DetectorRecord | None, config: DetectorConfig, weights: Weights, options: BuildOptions
) -> str:
    """Returns the reason for building the detector; empty when it is up to date."""
    if built is None:
        return "not built yet"
    return _outdated(built.build_key, detector_key(config, weights.sha256), built.files, options)


def detector_file_name(config: DetectorConfig) -> str:
    """Returns the name of the detector's file."""
    return f"{config.kind}.onnx"


def _to_fetch(reason: str, weights: Weights) -> str:
    return weights.to_fetch if reason and is_remote(weights.to_fetch) else ""


def _reason(artifact: Artifact | None, key: Mapping[str, str], options: BuildOptions) -> str:
    """Returns the reason for building an artifact; empty when it is up to date."""
    if artifact is None:
        return "not built yet"
    return _outdated(artifact.build_key, key, artifact.files, options)


def _outdated(
    built: Mapping[str, str],
    wanted: Mapping[str, str],
    files: Sequence[FileRecord],
    options: BuildOptions,
) -> str:
    """Returns why built files are not up to date; empty when they are."""
    if options.force:
        return "--force"
    changed = changed_since(built, wanted)
    if changed:
        return f"changed: {', '.join(changed)}"
    broken = [f.path for f in files if not file_intact(options.output, f)]
    return f"missing or damaged: {', '.join(broken)}" if broken else ""


def _estimate(job: Job, precision: str) -> int | None:
    """Estimates the size in bytes of a file that is yet to be built, from its weights."""
    path = job.weights.path
    if is_remote(job.weights.to_fetch):
        return None
    weights = path.stat().st_size if path and path.is_file() else 0
    return int((weights or 4 * count_parameters(job.config, path)) * SIZE_SHARES[precision])
