"""The order of a build: find the weights, reuse or build, verify, publish."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from export.build import parity, publish, tensorrt
from export.build.demo_weights import demo_checkpoint_fits, write_demo_checkpoint
from export.build.differences import whole_years_of
from export.build.options import BuildOptions
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
from export.build.sensible import WARNINGS, age_warnings, tensorrt_warnings
from export.build.tensorrt_target import EngineOptions
from export.checkpoints.sources import find_checkpoint
from export.config.architecture import ExpertConfig
from export.config.fingerprints import tool_versions
from export.errors import GraphError, ParityError
from export.experts.registry import ARCHITECTURES, count_parameters
from export.graph import checks
from export.variants import registry
from runtime.backends import ExpertVariant
from runtime.manifest import Artifact, BatchProfile, EngineBinding, Expert, Manifest, Parity
from runtime.manifest_file import read_manifest

_BEST_BATCH = 8
_DURATIONS = {"onnx": "", "openvino": ", product by product: minutes"}
"""Note on how long a variant takes, by its backend."""


class Progress(Protocol):
    """Receiver of a build's progress."""

    def stage(self, expert: str, what: str) -> None:
        """Called when a stage of an expert begins."""

    def advance(self, share: float) -> None:
        """Called with the completed share of the stage, from 0 to 1, from any thread."""


@dataclass(frozen=True, slots=True)
class BuiltRow:
    """The result of a build for one expert."""

    name: str
    expert: Expert
    seconds: float
    reused: bool
    refused: tuple[str, ...] = ()
    """Reasons why CPU variants were left out: they differ too much from the reference model."""


def build(options: BuildOptions, progress: Progress) -> list[BuiltRow]:
    """Builds, verifies and publishes every expert that is not up to date.

    An expert's ONNX files are published as soon as they are complete, and then its engine, so that
    an interrupted build loses only the files in progress. Experts of an earlier build that are not
    among those to build stay with `--only`, and are removed without.

    A CPU variant that differs too much from the reference model is left out; the expert's other
    variants and other experts are built all the same.

    Returns:
        One row per expert.

    Raises:
        ExportError: an expert cannot be built; what was published before stays.
    """
    with publish.exclusively(options.output):
        publish.recover(options.output)
        rows = [ExpertBuild(config, options, progress).run() for config in options.experts]
        if not options.partial:
            _remove_others(options)
    return rows


class ExpertBuild:
    """The build of one expert."""

    def __init__(self, config: ExpertConfig, options: BuildOptions, progress: Progress) -> None:
        """Keeps what the steps share."""
        self._config = config
        self._options = options
        self._progress = progress
        self._name = config.name
        self._folder = options.output
        self._variants = ARCHITECTURES[config.architecture].variants
        self._wants_tensorrt = options.engines is not None
        self._refused: list[str] = []

    def run(self) -> BuiltRow:
        """Builds and publishes the graphs, then the engine, unless they are up to date."""
        started = time.monotonic()
        self._stage("checking the weights")
        manifest = publish.current_manifest(self._folder)
        job = make_job(self._config, self._checkpoint(), self._options, manifest)
        expert = job.built
        if expert is None or job.reasons:
            expert = self._published(self._with_graphs(job))
        engine = make_engine_job(expert, self._options)
        if self._options.engines is not None and engine is not None and engine.reason:
            expert = self._published(self._with_engine(expert, engine, self._options.engines))
        seconds = time.monotonic() - started
        reused = expert is job.built
        return BuiltRow(self._name, expert, seconds, reused, tuple(self._refused))

    def _stage(self, what: str) -> None:
        self._progress.stage(self._name, what)

    def _checkpoint(self) -> Path | None:
        """Finds the weights; those of a demo expert are fitted where they are out of date."""
        location = weights_location(self._config, self._options)
        if location is None:
            return None
        demo = self._options.weights == "demo"
        if demo and not demo_checkpoint_fits(self._config, Path(location)):
            self._stage("fitting a demo expert on drawn faces")
            write_demo_checkpoint(self._config, Path(location))
        return find_checkpoint(location)

    def _with_graphs(self, job: Job) -> Expert:
        """Writes all graphs into the staging folder and verifies them."""
        fp32 = publish.staging_folder(self._folder, self._name) / file_name(self._name, "fp32")
        model = self._reference_model(job, fp32)
        self._stage("checking ONNX")
        unsupported = checks.check_graph(fp32, model.signature, tensorrt=self._wants_tensorrt)
        warnings = [*age_warnings(job.source.kind, model), *tensorrt_warnings(unsupported)]
        largest = self._options.max_batch
        expert = Expert(
            architecture=self._config.architecture,
            source=job.source,
            inputs=model.signature.inputs,
            outputs=model.signature.outputs,
            age_grid=model.signature.age_grid,
            profile=BatchProfile(1, min(_BEST_BATCH, largest), largest),
            artifacts=(),
            whole_years=model.signature.whole_years,
            no_answer=model.signature.no_answer,
            details={**model.signature.details, **({WARNINGS: warnings} if warnings else {})},
        )
        artifacts = []
        for precision in job.precisions(self._options):
            try:
                artifact = self._written(precision, job, fp32, model)
                artifacts.append(self._verified(expert, artifact, model))
            except (GraphError, ParityError) as error:
                if self._variants[precision] != "openvino":
                    raise
                self._refused.append(str(error))
        engines = living_engines(job.built, artifacts, expert.profile)
        return replace(expert, artifacts=(*artifacts, *engines))

    def _reference_model(self, job: Job, fp32: Path) -> ReferenceModel:
        """Writes the FP32 graph; returns the reference model's outputs."""
        config, checkpoint = self._config, job.checkpoint
        parameters = count_parameters(config, checkpoint)
        precisions = self._options.precisions_of(config)
        check_resources(config.name, parameters, precisions, self._folder)
        if parameters >= LARGE_PARAMETERS:
            self._stage("loading, running the reference, writing ONNX: minutes")
            return write_large_reference(config, checkpoint, fp32)
        return write_reference(config, checkpoint, fp32, self._stage)

    def _written(self, precision: str, job: Job, fp32: Path, model: ReferenceModel) -> Artifact:
        path = fp32.with_name(file_name(self._name, precision))
        backend = self._variants[precision]
        share = 0.0
        if precision != "fp32":
            self._stage(f"converting to {precision}{_DURATIONS[backend]}")
            share = registry.write_variant(
                precision, backend, fp32, path, model.signature, tensorrt=self._wants_tensorrt
            )
        return Artifact(
            backend=backend,
            precision=precision,
            files=tuple(
                publish.file_record(self._folder, file) for file in registry.variant_files(path)
            ),
            build_key=job.keys[precision],
            reduced_share=share,
            parity=None,
        )

    def _verified(self, expert: Expert, artifact: Artifact, model: ReferenceModel) -> Artifact:
        """Compares a variant with the reference model on the verification faces."""
        self._stage(f"comparing {artifact.precision} with the reference")
        return replace(artifact, parity=self._parity(expert, artifact, model))

    def _parity(self, expert: Expert, artifact: Artifact, model: ReferenceModel) -> Parity:
        images, reference = model.images, model.reference
        if artifact.backend == "openvino":
            variant = ExpertVariant(self._name, expert, artifact, self._folder)
            return parity.check_openvino(variant, images, reference)
        path = self._folder / artifact.files[0].path
        half = artifact.precision == "fp16"
        tolerance = "fp16" if model.signature.half_precision else artifact.precision
        exact = path.with_name(file_name(self._name, "fp32")) if half else None
        grid = whole_years_of(expert)
        return parity.check_parity(path, tolerance, images, reference, exact, grid)

    def _with_engine(self, expert: Expert, job: EngineJob, options: EngineOptions) -> Expert:
        """Builds the engine into the staging folder and verifies it where it can run."""
        target, precision, source = options.target, job.source.precision, job.source.files[0]
        staging = publish.staging_folder(self._folder, self._name)
        path = staging / engine_name(self._name, precision, target)
        self._stage(f"building the {precision} engine with {target}")
        share = tensorrt.build_engine(
            self._folder / source.path,
            path,
            precision,
            expert.profile,
            options,
            self._folder / tensorrt.TIMING_CACHE,
            self._progress.advance,
        )
        engine = Artifact(
            backend=target.backend,
            precision=precision,
            files=(publish.file_record(self._folder, path),),
            build_key=job.key,
            reduced_share=share,
            parity=None,
            binding=EngineBinding(
                target.version, target.compute_capability, source.sha256, options.flags
            ),
        )
        if target.can_run:
            self._stage("comparing the engine with the reference")
            variant = ExpertVariant(self._name, expert, engine, self._folder)
            engine = replace(engine, parity=parity.check_engine(variant))
        replaced = (target.backend, precision)
        others = [a for a in expert.artifacts if (a.backend, a.precision) != replaced]
        return replace(expert, artifacts=(*others, engine))

    def _published(self, expert: Expert) -> Expert:
        """Publishes an expert's staged files and returns its new entry."""
        self._stage("publishing")
        manifest = publish.current_manifest(self._folder)
        former = dict(manifest.experts) if manifest else {}
        experts = {**former, self._name: expert}
        publish.publish(self._folder, Manifest(_now(), tool_versions(), experts))
        published = read_manifest(self._folder)
        publish.remove_strays(self._folder, published, former)
        return published.experts[self._name]


def _remove_others(options: BuildOptions) -> None:
    """Removes the experts of earlier builds that are not among those to build."""
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
