"""Options of a build: the command line and experts.toml, combined and validated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from export.build.experts_file import (
    DEFAULT_EXPERTS,
    DEMO_EXPERTS,
    PUBLIC,
    Configuration,
    read_configuration,
    read_experts,
)
from export.build.tensorrt_target import EngineOptions, engine_options
from export.build.variant_support import variant_problems
from export.checkpoints.sources import location_problem
from export.config.architecture import ExpertConfig
from export.config.detector import DETECTOR, DetectorConfig
from export.errors import OptionsError
from export.experts.registry import ARCHITECTURES
from runtime.json_reader import shown
from runtime.manifest import SOURCE_KINDS
from runtime.names import suggestion

WEIGHTS = tuple(kind for kind in SOURCE_KINDS if kind != "onnx")


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Options of one run of `agemoe build`."""

    experts: tuple[ExpertConfig, ...]
    weights: str
    """`checkpoint`, `demo` or `random`."""
    output: Path
    fp16: bool = False
    bf16: bool = False
    """For CPUs, where an architecture has this variant."""
    int8: bool = False
    """For CPUs."""
    max_batch: int = 32
    force: bool = False
    partial: bool = False
    """Other experts in the output folder are kept."""
    engines: EngineOptions | None = None
    """Options of the TensorRT engines; None builds ONNX files only."""
    no_engines: str = ""
    """The reason for building no engines."""
    detector: DetectorConfig | None = None
    """The detector to build; None keeps or removes that of an earlier build, as with experts."""
    fusion: Path | None = None
    """Fusion tables that come with the experts; None: there are none."""
    diagnose: bool = False
    """Variants and engines that fail the parity check are compared with FP32 layer by layer."""

    def engine_precision(self, architecture: str) -> str:
        """Returns the precision of the ONNX file that an engine is built from."""
        return "fp16" if self.fp16 and "fp16" in ARCHITECTURES[architecture].variants else "fp32"

    def precisions_of(self, config: ExpertConfig) -> tuple[str, ...]:
        """Returns the precision variants to build of an expert."""
        requested = {"fp32": True, "fp16": self.fp16, "bf16": self.bf16, "int8": self.int8}
        variants = ARCHITECTURES[config.architecture].variants
        return tuple(precision for precision in variants if requested[precision])


def resolve_options(
    *,
    output: Path,
    experts_file: Path | None = None,
    weights: str | None = None,
    checkpoints: Sequence[str] = (),
    only: Sequence[str] = (),
    fp16: bool = False,
    bf16: bool = False,
    int8: bool = False,
    max_batch: int = 32,
    force: bool = False,
    target: str = "onnx",
    workspace_gib: float | None = None,
    optimization_level: int = 3,
    diagnose: bool = False,
) -> BuildOptions:
    """Combines the command line with experts.toml.

    Without `experts_file`, `weights` and `checkpoints` the preset `public` is built. Checkpoints
    alone, or placeholder weights, are for the built-in experts (`demo`: the demo experts).

    The parameters are the command's options: `weights` is one of `WEIGHTS`, `target` one of
    `TARGETS`, and `checkpoints`, like `vgg16=PATH`, override the file's.

    Raises:
        OptionsError: with every problem found.
    """
    problems: list[str] = []
    given = _given_checkpoints(checkpoints, problems)
    source = experts_file or _default_file(weights, given)
    weights = weights or "checkpoint"
    found = read_configuration(source, problems)
    if source == DEFAULT_EXPERTS and weights == "checkpoint":
        only = only or tuple(given)
    experts = _chosen(found, given, only, weights, problems)
    problems += _contradictions(weights, experts, given, experts_file)
    problems += variant_problems(experts, bf16=bf16, int8=int8)
    detector = _chosen_detector(found, given, weights, problems)
    if max_batch < 1:
        problems.append(f"--max-batch: must be at least 1, got {max_batch}")
    engines, no_engines = engine_options(target, workspace_gib, optimization_level, problems)
    if problems:
        raise OptionsError(problems)
    fusion = found.fusion if weights == "checkpoint" else None
    return BuildOptions(
        *(experts, weights, output, fp16, bf16, int8, max_batch, force, bool(only)),
        *(engines, no_engines, detector, fusion, diagnose),
    )


def _default_file(weights: str | None, given: Mapping[str, str]) -> Path:
    """Returns the experts.toml that is used where none is given."""
    if weights == "demo":
        return DEMO_EXPERTS
    if weights == "random":
        return DEFAULT_EXPERTS
    public = {*read_experts(PUBLIC, []), DETECTOR}
    return PUBLIC if public.issuperset(given) else DEFAULT_EXPERTS


def _chosen(
    found: Configuration,
    given: Mapping[str, str],
    only: Sequence[str],
    weights: str,
    problems: list[str],
) -> tuple[ExpertConfig, ...]:
    """Returns the experts to build, with the given checkpoints."""
    if found.experts:
        known = [*found.experts, *([DETECTOR] if found.detector else [])]
        problems += _unknown_names("--checkpoint", given, known)
        problems += _unknown_names("--only", only, list(found.experts))
    chosen = []
    for name, expert in found.experts.items():
        if not only or name in only:
            checkpoint = given.get(name, expert.checkpoint)
            if weights == "checkpoint":
                chosen.append(replace(expert, checkpoint=checkpoint))
            else:
                chosen.append(replace(expert, checkpoint=None, sha256=None, license=None))
    return tuple(chosen)


def _chosen_detector(
    found: Configuration, given: Mapping[str, str], weights: str, problems: list[str]
) -> DetectorConfig | None:
    """Returns the detector to build, with the given file; placeholder weights come with none."""
    detector = found.detector
    if detector is None or weights != "checkpoint":
        return None
    detector = replace(detector, checkpoint=given.get(DETECTOR, detector.checkpoint))
    if problem := location_problem(detector.checkpoint):
        problems.append(f"{DETECTOR}.checkpoint: {problem}")
    return detector


def _given_checkpoints(pairs: Sequence[str], problems: list[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for pair in pairs:
        name, equals, location = pair.partition("=")
        if not (name and equals and location):
            problems.append(f"--checkpoint: must be like vgg16=PATH, got {shown(pair)}")
        elif name in given:
            problems.append(f"--checkpoint {name}: given twice")
        else:
            given[name] = location
    return given


def _unknown_names(flag: str, names: Iterable[str], known: Sequence[str]) -> list[str]:
    return [
        f"{flag} {name}: no such expert; there are {', '.join(known)}.{suggestion(name, known)}"
        for name in names
        if name not in known
    ]


def _contradictions(
    weights: str,
    experts: Sequence[ExpertConfig],
    given: Mapping[str, str],
    experts_file: Path | None,
) -> list[str]:
    if weights == "checkpoint":
        return _checkpoint_problems(experts)
    problems = [f"--weights {weights}: contradicts --checkpoint"] if given else []
    if weights == "demo" and experts_file:
        problems.append("--weights demo: contradicts --experts")
    problems += [
        f"experts.{expert.name}: a given ONNX file has no {weights} weights; leave it out"
        for expert in experts
        if not ARCHITECTURES[expert.architecture].has_placeholders
    ]
    return problems


def _checkpoint_problems(experts: Sequence[ExpertConfig]) -> list[str]:
    problems = []
    for expert in experts:
        location = expert.checkpoint
        if location is None:
            problems.append(
                f"experts.{expert.name}.checkpoint: missing; give --checkpoint "
                f"{expert.name}=PATH, or leave the expert out with --only"
            )
        elif problem := location_problem(location):
            problems.append(f"experts.{expert.name}.checkpoint: {problem}")
    return problems
