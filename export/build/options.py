"""Options of a build: the command line and experts.toml, validated in one place."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from export.build.tensorrt_target import OPTIMIZATION_LEVELS, TARGETS, EngineOptions, find_target
from export.checkpoints.sources import HUB_PREFIX
from export.config.architecture import ExpertConfig
from export.config.settings import read_geometry
from export.errors import OptionsError
from export.experts.registry import ARCHITECTURES
from runtime.backends.openvino_graph import has_bfloat16, has_exact_int8, import_openvino
from runtime.errors import BackendError
from runtime.files import read_text
from runtime.json_reader import JsonReader, shown
from runtime.manifest import SOURCE_KINDS

_EXPORT = Path(__file__).resolve().parent.parent
_CONFIG = _EXPORT / "config"
PRESETS = _EXPORT / "presets"
"""Folder of the experts.toml files that `--experts NAME` finds by name."""
DEFAULT_EXPERTS = _CONFIG / "experts.example.toml"
"""The full-size experts with their usual settings, and the commented example."""
DEMO_EXPERTS = _CONFIG / "experts.demo.toml"
WEIGHTS = tuple(kind for kind in SOURCE_KINDS if kind != "onnx")
_MOST_TOML_BYTES = 1 << 20
_NAME = "must be lower-case letters, digits, '-' or '_'"


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Options of one run of build_engines.py."""

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
) -> BuildOptions:
    """Combines the command line with experts.toml.

    Without `weights`: checkpoints if any was given, demo experts otherwise. Without a file and
    without `only`, the built-in experts that checkpoints were given for are built.

    The parameters are the command's options: `weights` is one of `WEIGHTS`, `target` one of
    `TARGETS`, and `checkpoints`, like `vgg16=PATH`, override the file's.

    Raises:
        OptionsError: with every problem found.
    """
    problems: list[str] = []
    experts, kind, partial = _choose(experts_file, weights, checkpoints, only, problems)
    problems += _variant_problems(experts, bf16=bf16, int8=int8)
    if max_batch < 1:
        problems.append(f"--max-batch: must be at least 1, got {max_batch}")
    engines, no_engines = _engines(target, workspace_gib, optimization_level, problems)
    if problems:
        raise OptionsError(problems)
    return BuildOptions(
        experts, kind, output, fp16, bf16, int8, max_batch, force, partial, engines, no_engines
    )


def read_experts(path: Path, problems: list[str]) -> dict[str, ExpertConfig]:
    """Reads the experts of experts.toml that can be read, by name.

    The path may be the name of a preset. Relative checkpoints in a file are taken from its folder.
    Every problem is appended to `problems`, with file and key.
    """
    path = _preset(path)
    try:
        document = tomllib.loads(read_text(path, _MOST_TOML_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        known = ", ".join(sorted(preset.stem for preset in PRESETS.glob("*.toml")))
        problems.append(f"{path}: cannot be read: {error}; presets: {known}")
        return {}
    found: list[str] = []
    root = JsonReader(document, "", found)
    root.only(("experts",))
    experts = {
        name: _expert(name, entry, path.parent) for name, entry in root.child("experts").items()
    }
    problems += [f"{path}: {problem}" for problem in found]
    return experts


def _preset(path: Path) -> Path:
    """Returns the file of a preset, if this is the name of one and no file."""
    preset = PRESETS / f"{path.name}.toml"
    named = path.name == str(path) and not path.exists() and preset.exists()
    return preset if named else path


def _expert(name: str, entry: JsonReader, folder: Path) -> ExpertConfig:
    if not name or set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789-_"):
        entry.problem(_NAME)
    chosen = entry.child("architecture").choice(tuple(ARCHITECTURES))
    architecture = ARCHITECTURES[chosen]
    checkpoint = entry.child("checkpoint").string() if entry.has("checkpoint") else None
    if checkpoint and not checkpoint.startswith(HUB_PREFIX):
        checkpoint = str(folder / checkpoint)
    geometry = architecture.geometry
    if entry.has("geometry"):
        geometry = read_geometry(entry.child("geometry"), geometry)
    known = entry.has("architecture") and entry.child("architecture").value == chosen
    # With an unknown architecture every key would be reported as unknown too.
    settings = architecture.read_settings(entry if known else JsonReader({}, "", []))
    return ExpertConfig(name, chosen, checkpoint, geometry, settings)


def _choose(
    experts_file: Path | None,
    weights: str | None,
    checkpoints: Sequence[str],
    only: Sequence[str],
    problems: list[str],
) -> tuple[tuple[ExpertConfig, ...], str, bool]:
    """Returns the experts to build, the kind of their weights, and whether others are kept."""
    given = _given_checkpoints(checkpoints, problems)
    weights = weights or ("checkpoint" if given or experts_file else "demo")
    default = DEMO_EXPERTS if weights == "demo" else DEFAULT_EXPERTS
    experts = read_experts(experts_file or default, problems)
    if experts_file is None and weights == "checkpoint":
        only = only or tuple(given)
    problems += _unknown_names(experts, given, only) if experts else []
    chosen = []
    for name, expert in experts.items():
        if not only or name in only:
            checkpoint = given.get(name, expert.checkpoint) if weights != "random" else None
            chosen.append(replace(expert, checkpoint=checkpoint))
    problems += _contradictions(weights, chosen, given, experts_file)
    return tuple(chosen), weights, bool(only)


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


def _engines(
    wanted: str, workspace_gib: float | None, level: int, problems: list[str]
) -> tuple[EngineOptions | None, str]:
    """Returns the options of the engine build, or None and the reason for it."""
    if workspace_gib is not None and not workspace_gib > 0:
        problems.append(f"--workspace-gib: must be more than 0, got {workspace_gib:g}")
    if level not in OPTIMIZATION_LEVELS:
        problems.append(f"--optimization-level: must lie within 0..5, got {level}")
    if wanted not in TARGETS:
        problems.append(f"--target: must be one of {', '.join(TARGETS)}, got {shown(wanted)}")
        return None, ""
    target, reason = find_target(wanted)
    if target is not None:
        return EngineOptions(target, workspace_gib, level), ""
    if wanted in ("tensorrt", "rtx"):
        problems.append(f"--target {wanted}: {reason}, or leave --target out")
    return None, reason


def _variant_problems(chosen: Sequence[ExpertConfig], *, bf16: bool, int8: bool) -> list[str]:
    """Returns why variants for CPUs cannot be built here; each has to be run to verify it."""
    backends = [ARCHITECTURES[config.architecture].variants for config in chosen]
    for precision, requested in (("bf16", bf16), ("int8", int8)):
        if requested and chosen and not any(precision in variants for variants in backends):
            names = ", ".join(dict.fromkeys(config.architecture for config in chosen))
            return [f"--{precision}: {names} has no such variant, and no other expert is built"]
    static = int8 and any(variants.get("int8") == "openvino" for variants in backends)
    try:
        if bf16 and not has_bfloat16():
            return ["--bf16: this CPU has no bfloat16 products, so it cannot be verified"]
        if static:
            import_openvino()
            if not has_exact_int8():
                return [
                    "--int8: INT8 products overflow on this CPU (no VNNI): it cannot be verified"
                ]
    except BackendError as error:
        return [f"{'--bf16' if bf16 else '--int8'}: {error}"]
    return []


def _unknown_names(
    experts: Mapping[str, ExpertConfig], given: Mapping[str, str], only: Sequence[str]
) -> list[str]:
    return [
        f"{flag} {name}: no such expert; there are {', '.join(experts)}"
        for flag, names in (("--checkpoint", given), ("--only", only))
        for name in names
        if name not in experts
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
        elif not location.startswith(HUB_PREFIX) and not Path(location).exists():
            problems.append(f"experts.{expert.name}.checkpoint: there is nothing at {location}")
    return problems
