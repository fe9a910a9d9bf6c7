"""The order of a build: find, reuse or build, prove, publish. The only file that knows it."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from export.build import publish
from export.build.demo_weights import demo_checkpoint_fits
from export.build.fingerprints import tool_versions
from export.build.options import BuildOptions, ExpertConfig, backend_of
from export.build.plan import (
    EngineJob,
    Job,
    engine_name,
    file_name,
    living_engines,
    make_engine_job,
    make_job,
    weights_location,
)
from export.build.preflight import check_resources
from export.build.reference import (
    LARGE_PARAMETERS,
    ReferenceModel,
    write_large_reference,
    write_reference,
)
from export.build.tensorrt_target import EngineOptions
from export.checkpoints.loading import find_checkpoint
from export.errors import GraphError, ParityError
from runtime.manifest import (
    PRECISIONS,
    Artifact,
    BatchProfile,
    EngineBinding,
    Expert,
    Manifest,
    Parity,
)
from runtime.manifest_file import read_manifest

_BEST_BATCH = 8
_PATIENCE = {"onnx": "", "openvino": ", product by product: minutes"}
"""What a form takes, by what it is for."""


class Progress(Protocol):
    """Hears what a build is doing."""

    def stage(self, expert: str, what: str) -> None:
        """A stage of an expert begins."""
        ...

    def advance(self, share: float) -> None:
        """How much of the stage is done, from 0 to 1; called from any thread."""
        ...


@dataclass(frozen=True, slots=True)
class BuiltRow:
    """What a build did about one expert."""

    name: str
    expert: Expert
    seconds: float
    reused: bool
    refused: tuple[str, ...] = ()
    """Forms for CPUs that did not come near enough to the original, and are not here: why."""


def build(options: BuildOptions, progress: Progress) -> list[BuiltRow]:
    """Builds, proves and publishes every expert that is not up to date.

    An expert's ONNX files are published as soon as they are complete, and then its engine, so that
    a build that is stopped has lost only what it was at. Experts of an earlier build that were not
    asked for stay with `--only`, and are removed without.

    A form for CPUs that does not come near enough to the original stops neither its expert's other
    forms nor other experts.

    Returns:
        One row per expert asked for.

    Raises:
        ExportError: an expert cannot be built; what was published before stays.
    """
    with publish.exclusively(options.output):
        publish.recover(options.output)
        rows = [_build_one(config, options, progress) for config in options.experts]
        if not options.partial:
            _forget_others(options)
    return rows


def _build_one(config: ExpertConfig, options: BuildOptions, progress: Progress) -> BuiltRow:
    started = time.monotonic()
    manifest = publish.current_manifest(options.output)
    progress.stage(config.name, "looking at the weights")
    job = make_job(config, _checkpoint(config, options, progress), options, manifest)
    expert = job.built
    refused: tuple[str, ...] = ()
    if expert is None or job.reasons:
        built, refused = _built(job, options, progress)
        expert = _published(config.name, built, options, progress)
    engine = make_engine_job(expert, options)
    if options.engines is not None and engine is not None and engine.reason:
        built = _with_engine(config.name, expert, engine, options, options.engines, progress)
        expert = _published(config.name, built, options, progress)
    seconds = time.monotonic() - started
    return BuiltRow(config.name, expert, seconds, reused=expert is job.built, refused=refused)


def _published(name: str, expert: Expert, options: BuildOptions, progress: Progress) -> Expert:
    """An expert whose files are no longer staged."""
    progress.stage(name, "publishing")
    manifest = publish.current_manifest(options.output)
    former = dict(manifest.experts) if manifest else {}
    experts = {**former, name: expert}
    publish.publish(options.output, Manifest(_now(), tool_versions(), experts))
    published = read_manifest(options.output)
    publish.remove_strays(options.output, published, former)
    return published.experts[name]


def _checkpoint(config: ExpertConfig, options: BuildOptions, progress: Progress) -> Path | None:
    location = weights_location(config, options)
    if location is None:
        return None
    if options.weights == "demo" and not demo_checkpoint_fits(config, Path(location)):
        from export.experts.demo import write_demo_checkpoint

        progress.stage(config.name, "fitting a demo expert on drawn faces")
        write_demo_checkpoint(config, Path(location))
    return find_checkpoint(location)


def _built(job: Job, options: BuildOptions, progress: Progress) -> tuple[Expert, tuple[str, ...]]:
    """An expert whose files are staged, and why forms of it were refused."""
    name = job.config.name
    single = publish.staging_folder(options.output, name) / file_name(name, "fp32")
    original = _original(job, options, single, progress)
    signature = original.signature
    profile = BatchProfile(1, min(_BEST_BATCH, options.max_batch), options.max_batch)
    expert = Expert(
        architecture=job.config.architecture,
        source=job.source,
        inputs=signature.inputs,
        outputs=signature.outputs,
        age_grid=signature.age_grid,
        profile=profile,
        artifacts=(),
        details=signature.details,
    )
    artifacts, refused = _artifacts(job, options, expert, original, single, progress)
    artifacts += living_engines(job.built, artifacts, profile)
    return replace(expert, artifacts=tuple(artifacts)), tuple(refused)


def _original(job: Job, options: BuildOptions, single: Path, progress: Progress) -> ReferenceModel:
    from export.experts.registry import count_parameters

    config = job.config
    parameters = count_parameters(config, job.checkpoint)
    check_resources(config.name, parameters, options.precisions_of(config), options.output)
    if parameters >= LARGE_PARAMETERS:
        progress.stage(config.name, "loading, running the reference, writing ONNX: minutes")
        return write_large_reference(config, job.checkpoint, single)
    return write_reference(
        config, job.checkpoint, single, lambda what: progress.stage(config.name, what)
    )


def _artifacts(
    job: Job,
    options: BuildOptions,
    expert: Expert,
    original: ReferenceModel,
    single: Path,
    progress: Progress,
) -> tuple[list[Artifact], list[str]]:
    from export.graph import checks

    progress.stage(job.config.name, "checking ONNX")
    checks.check_graph(single, original.signature)
    artifacts, refused = [], []
    for kind in _wanted(job, options):
        try:
            artifacts.append(_artifact(kind, job, expert, original, single, options, progress))
        except (GraphError, ParityError) as error:
            if backend_of(job.config, kind) != "openvino":
                raise
            refused.append(str(error))
    return artifacts, refused


def _artifact(
    kind: str,
    job: Job,
    expert: Expert,
    original: ReferenceModel,
    single: Path,
    options: BuildOptions,
    progress: Progress,
) -> Artifact:
    from export.variants import registry

    name, output = job.config.name, options.output
    path = single.with_name(file_name(name, kind))
    backend = backend_of(job.config, kind)
    share = 0.0
    if kind != "fp32":
        progress.stage(name, f"making {kind} of it{_PATIENCE[backend]}")
        share = registry.write_variant(kind, backend, single, path, original.signature)
    artifact = Artifact(
        backend=backend,
        precision=kind,
        files=tuple(publish.file_record(output, file) for file in registry.variant_files(path)),
        build_key=job.keys[kind],
        reduced_share=share,
        parity=None,
    )
    progress.stage(name, f"comparing {kind} with the reference")
    return replace(artifact, parity=_parity(name, expert, artifact, original, output))


def _parity(
    name: str, expert: Expert, artifact: Artifact, original: ReferenceModel, output: Path
) -> Parity:
    from export.build import parity

    images, reference = original.images, original.reference
    if artifact.backend == "openvino":
        return parity.check_openvino(name, expert, artifact, output, images, reference)
    path = output / artifact.files[0].path
    exact = path.with_name(file_name(name, "fp32")) if artifact.precision == "fp16" else None
    return parity.check_parity(path, artifact.precision, images, reference, exact)


def _with_engine(
    name: str,
    expert: Expert,
    job: EngineJob,
    options: BuildOptions,
    engines: EngineOptions,
    progress: Progress,
) -> Expert:
    from export.build import parity, tensorrt

    target, precision = engines.target, job.source.precision
    path = publish.staging_folder(options.output, name) / engine_name(name, precision, target)
    progress.stage(name, f"building the {precision} engine with {target}")
    share = tensorrt.build_engine(
        options.output / job.source.files[0].path,
        path,
        precision,
        expert.profile,
        engines,
        options.output / tensorrt.TIMING_CACHE,
        progress.advance,
    )
    engine = Artifact(
        backend=target.backend,
        precision=precision,
        files=(publish.file_record(options.output, path),),
        build_key=job.key,
        reduced_share=share,
        parity=None,
        binding=EngineBinding(
            target.version, target.compute_capability, job.source.files[0].sha256, engines.flags
        ),
    )
    if target.can_run:
        progress.stage(name, "comparing the engine with the reference")
        found = parity.check_engine(name, expert, engine, options.output)
        engine = replace(engine, parity=found)
    form = (target.backend, precision)
    others = [a for a in expert.artifacts if (a.backend, a.precision) != form]
    return replace(expert, artifacts=(*others, engine))


def _wanted(job: Job, options: BuildOptions) -> Sequence[str]:
    """Precisions to write: those asked for, and those that are here and would be dropped."""
    wanted = (*options.precisions_of(job.config), *job.kept)
    return [kind for kind in PRECISIONS if kind in wanted]


def _forget_others(options: BuildOptions) -> None:
    manifest = read_manifest(options.output)
    wanted = {config.name for config in options.experts}
    former = {name: e for name, e in manifest.experts.items() if name not in wanted}
    if former:
        kept = {name: e for name, e in manifest.experts.items() if name in wanted}
        renewed = replace(manifest, created=_now(), experts=kept)
        publish.publish(options.output, renewed)
        publish.remove_strays(options.output, renewed, former)


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
