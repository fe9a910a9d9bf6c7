"""The order of a build: find the weights, reuse or build, verify, publish."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from export.build import layerwise, parity, publish, tensorrt
from export.build.detector import BuiltDetector
from export.build.differences import whole_years_of
from export.build.folder import publish_expert, remove_others, update_detector
from export.build.fusion import update_fusion
from export.build.options import BuildOptions
from export.build.plan import (
    EngineJob,
    Job,
    engine_name,
    file_name,
    living_engines,
    make_engine_job,
    make_job,
)
from export.build.preflight import available_memory, check_resources
from export.build.reference import (
    LARGE_PARAMETERS,
    ReferenceModel,
    write_large_reference,
    write_reference,
)
from export.build.sensible import WARNINGS, age_warnings, tensorrt_warnings
from export.build.tensorrt_target import EngineOptions
from export.build.weights import known_weights, ready_weights
from export.config.architecture import ExpertConfig
from export.config.detector import DETECTOR
from export.errors import ExportError, GraphError, ParityError
from export.experts.registry import ARCHITECTURES, count_parameters
from export.graph import checks
from export.variants import registry
from runtime.backends import ExpertVariant
from runtime.errors import AgeMoEError
from runtime.manifest import Artifact, BatchProfile, EngineBinding, Expert, Parity

_BEST_BATCH = 8
_DURATIONS = {"onnx": "", "openvino": ", found by measuring: minutes"}
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
    """Reasons why variants were left out: they differ too much from the reference model, or cannot
    be written."""


@dataclass(frozen=True, slots=True)
class BuildReport:
    """The result of a build."""

    rows: tuple[BuiltRow, ...]
    """One per expert that is in the engines folder now."""
    detector: BuiltDetector | None
    """None where none is configured, or it failed."""
    fusion: str
    """Message on the preset's fusion tables: copied, removed or refused; empty if none."""


class BuildError(ExportError):
    """Experts, or the detector, could not be built; everything else was, and is published."""

    def __init__(self, failures: Mapping[str, Exception], report: BuildReport) -> None:
        """Composes the message from the failures, which are kept by name, as is the report."""
        self.failures = failures
        self.report = report
        named = [f"{name}: {error}" for name, error in failures.items()]
        many = [f"{len(named)} could not be built:"] if len(named) > 1 else []
        super().__init__(*many, *"\n".join(named).split("\n"))


def build(options: BuildOptions, progress: Progress) -> BuildReport:
    """Builds, verifies and publishes every expert, and the detector, that is not up to date.

    An expert's ONNX files are published as soon as they are complete, and then its engine, so that
    an interrupted build loses only the files in progress. Experts of an earlier build that are not
    among those to build stay with `--only`, and are removed without; so does the detector where
    none is configured.

    A variant that differs too much from the reference model is left out; the expert's other
    variants and other experts are built all the same. An expert that fails does not stop the
    others; nothing of an earlier build is removed then.

    Raises:
        BuildError: experts or the detector failed; raised when all others are published.
        ExportError: another build is running in the folder.
    """
    failures: dict[str, Exception] = {}
    rows = []
    with publish.exclusively(options.output):
        publish.recover(options.output)
        for config in options.experts:
            try:
                rows.append(ExpertBuild(config, options, progress).run())
            except (ExportError, AgeMoEError) as error:
                failures[config.name] = error
        detector, fusion = None, ""
        if publish.current_manifest(options.output) is not None:
            try:
                say = partial(progress.stage, DETECTOR)
                detector = update_detector(options, say, keep=bool(failures))
            except (ExportError, AgeMoEError) as error:
                failures[DETECTOR] = error
            if not (options.partial or failures):
                remove_others(options)
            fusion = update_fusion(options.output, options.fusion)
    report = BuildReport(tuple(rows), detector, fusion)
    if failures:
        raise BuildError(failures, report)
    return report


class ExpertBuild:
    """The build of one expert."""

    def __init__(self, config: ExpertConfig, options: BuildOptions, progress: Progress) -> None:
        """Keeps what the steps share."""
        self._config = config
        self._options = options
        self._progress = progress
        self._name = config.name
        self._folder = options.output
        self._architecture = ARCHITECTURES[config.architecture]
        self._variants = self._architecture.variants
        self._wants_tensorrt = options.engines is not None
        self._refused: list[str] = []

    def run(self) -> BuiltRow:
        """Builds and publishes the graphs, then the engine, unless they are up to date."""
        started = time.monotonic()
        self._stage("checking the weights")
        manifest = publish.current_manifest(self._folder)
        config, options = self._config, self._options
        job = make_job(config, known_weights(config, options), options, manifest)
        if job.reasons:
            weights = ready_weights(config, options, job.weights, self._stage)
            job = make_job(config, weights, options, manifest)
        expert = job.built
        if expert is None or job.reasons:
            expert = self._published(self._with_graphs(job))
        elif (expert.source.license, expert.fingerprint) != (config.license, job.fingerprint):
            source = replace(expert.source, license=config.license)
            expert = self._published(replace(expert, source=source, fingerprint=job.fingerprint))
        engine = make_engine_job(expert, self._options)
        if self._options.engines is not None and engine is not None and engine.reason:
            expert = self._published(self._with_engine(expert, engine, self._options.engines))
        seconds = time.monotonic() - started
        reused = not job.reasons and (engine is None or not engine.reason)
        return BuiltRow(self._name, expert, seconds, reused, tuple(self._refused))

    def _stage(self, what: str) -> None:
        self._progress.stage(self._name, what)

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
            fingerprint=job.fingerprint,
        )
        artifacts = []
        for precision in job.precisions(self._options):
            try:
                artifact = self._written(precision, job, fp32, model)
                artifacts.append(self._verified(expert, artifact, model))
            except (GraphError, ParityError) as error:
                if precision == "fp32":
                    raise
                self._refused.append(f"{self._name}: {error}")
        engines = living_engines(job.built, artifacts, expert.profile)
        return replace(expert, artifacts=(*artifacts, *engines))

    def _reference_model(self, job: Job, fp32: Path) -> ReferenceModel:
        """Writes the FP32 graph; returns the reference model's outputs."""
        config, checkpoint = self._config, job.weights.path
        parameters = count_parameters(config, checkpoint)
        precisions = self._options.precisions_of(config)
        check_resources(config.name, parameters, precisions, self._folder)
        if parameters >= LARGE_PARAMETERS:
            unknown = "" if available_memory() else "; the free memory is unknown, so not checked"
            self._stage(f"loading, running the reference, writing ONNX: minutes{unknown}")
            return write_large_reference(config, checkpoint, fp32)
        return write_reference(config, checkpoint, fp32, self._stage)

    def _written(self, precision: str, job: Job, fp32: Path, model: ReferenceModel) -> Artifact:
        path = fp32.with_name(file_name(self._name, precision))
        backend = self._variants[precision]
        share = 0.0
        if precision != "fp32":
            self._stage(f"converting to {precision}{_DURATIONS[backend]}")
            share = registry.write_variant(
                *(precision, backend, fp32, path, model.signature),
                tensorrt=self._wants_tensorrt,
                keep_fp32=self._config.keep_fp32,
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
        try:
            return replace(artifact, parity=self._parity(expert, artifact, model))
        except ParityError as error:
            if artifact.precision == "fp32":
                raise
            self._stage(f"comparing the layers of {artifact.precision} with those of FP32")
            variant = ExpertVariant(self._name, expert, artifact, self._folder)
            fp32 = variant.path.with_name(file_name(self._name, "fp32"))
            full = self._options.diagnose
            raise layerwise.explained(error, variant, fp32, model.images, full=full) from error

    def _parity(self, expert: Expert, artifact: Artifact, model: ReferenceModel) -> Parity:
        images, reference = model.images, model.reference
        origin = self._architecture.reference
        if artifact.backend == "openvino":
            variant = ExpertVariant(self._name, expert, artifact, self._folder)
            return parity.check_openvino(variant, images, reference, origin)
        path = self._folder / artifact.files[0].path
        half = artifact.precision == "fp16"
        tolerance = "fp16" if model.signature.half_precision else artifact.precision
        exact = path.with_name(file_name(self._name, "fp32")) if half else None
        grid = whole_years_of(expert)
        return parity.check_parity(path, tolerance, images, reference, exact, grid, origin)

    def _with_engine(self, expert: Expert, job: EngineJob, options: EngineOptions) -> Expert:
        """Builds the engine into the staging folder and verifies it where it can run."""
        target, precision = options.target, job.source.precision
        staging = publish.staging_folder(self._folder, self._name)
        path = staging / engine_name(self._name, precision, target)
        self._stage(f"building the {precision} engine with {target}")
        share = tensorrt.build_engine(
            self._folder / job.source.files[0].path,
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
                target.version, target.compute_capability, job.source.sha256, options.flags
            ),
        )
        if target.can_run:
            self._stage("comparing the engine with the reference")
            variant = ExpertVariant(self._name, expert, engine, self._folder)
            try:
                engine = replace(engine, parity=parity.check_engine(variant))
            except ParityError as error:
                if not self._options.diagnose:
                    raise
                self._stage("comparing the layers of TensorRT with those of FP32")
                onnx = replace(variant, artifact=job.source)
                raise layerwise.engine_explained(error, onnx, options) from error
        replaced = (target.backend, precision)
        others = [a for a in expert.artifacts if (a.backend, a.precision) != replaced]
        return replace(expert, artifacts=(*others, engine))

    def _published(self, expert: Expert) -> Expert:
        """Publishes an expert's staged files and returns its new entry."""
        self._stage("publishing")
        return publish_expert(self._folder, self._name, expert)
