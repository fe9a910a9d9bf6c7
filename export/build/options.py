"""Options of a build: the command line and experts.toml, validated in one place."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from export.build.tensorrt_target import EngineOptions, engine_options
from export.build.variant_support import variant_problems
from export.checkpoints.pins import Pin, read_pin
from export.checkpoints.sources import is_remote, location_problem
from export.config.architecture import ExpertConfig
from export.config.detector import DETECTOR, DETECTOR_KEYS, DETECTOR_KINDS, DetectorConfig
from export.config.settings import optional, read_geometry, read_views
from export.errors import OptionsError
from export.experts.registry import ARCHITECTURES
from runtime.files import read_text
from runtime.json_reader import JsonReader, shown
from runtime.manifest import SOURCE_KINDS

_EXPORT = Path(__file__).resolve().parent.parent
_CONFIG = _EXPORT / "config"
PRESETS = _EXPORT / "presets"
"""Folder of the experts.toml files that `--experts NAME` finds by name."""
PUBLIC = PRESETS / "public.toml"
"""Small networks with permissive licenses from package registries: built where nothing is given."""
DEFAULT_EXPERTS = _CONFIG / "experts.example.toml"
"""The full-size experts with their usual settings, for given checkpoints and random weights; also
the commented example."""
DEMO_EXPERTS = _CONFIG / "experts.demo.toml"
WEIGHTS = tuple(kind for kind in SOURCE_KINDS if kind != "onnx")
_MOST_TOML_BYTES = 256 << 10
_MOST_DOTS = 2_500
"""In a line; Python's parser takes time and memory quadratic in the parts of a dotted key."""
_NAME = "must be lower-case letters, digits, '-' or '_'"


@dataclass(frozen=True, slots=True)
class Configuration:
    """The content of experts.toml."""

    experts: Mapping[str, ExpertConfig]
    """By name."""
    detector: DetectorConfig | None = None
    fusion: Path | None = None
    """The fusion tables beside a preset."""


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
    detector: DetectorConfig | None = None
    """The detector to build; None keeps or removes that of an earlier build, as with experts."""
    fusion: Path | None = None
    """Fusion tables that come with the experts; None: there are none."""

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
        experts,
        weights,
        output,
        fp16,
        bf16,
        int8,
        max_batch,
        force,
        bool(only),
        engines,
        no_engines,
        detector,
        fusion,
    )


def read_experts(path: Path, problems: list[str]) -> dict[str, ExpertConfig]:
    """Reads the experts of experts.toml, as `read_configuration` does."""
    return dict(read_configuration(path, problems).experts)


def read_configuration(path: Path, problems: list[str]) -> Configuration:
    """Reads what can be read of experts.toml.

    The path may be the name of a preset. Relative checkpoints in a file are taken from its folder.
    Every problem is appended to `problems`, with file and key.
    """
    path = _preset(path)
    try:
        document = _toml(read_text(path, _MOST_TOML_BYTES))
    except (OSError, ValueError) as error:
        known = ", ".join(sorted(preset.stem for preset in PRESETS.glob("*.toml")))
        problems.append(f"{path}: cannot be read: {error}; presets: {known}")
        return Configuration({})
    found: list[str] = []
    root = JsonReader(document, "", found)
    root.only(("experts", DETECTOR))
    experts = {
        name: _expert(name, entry, path.parent) for name, entry in root.child("experts").items()
    }
    detector = _detector(root.child(DETECTOR), path.parent) if root.has(DETECTOR) else None
    problems += [f"{path}: {problem}" for problem in found]
    fusion = path.with_suffix(".fusion.json")
    shipped = path.parent == PRESETS and fusion.is_file()
    return Configuration(experts, detector, fusion if shipped else None)


def _toml(text: str) -> dict[str, Any]:
    """Parses TOML; raises `ValueError` for anything else."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.count(".") > _MOST_DOTS:
            raise ValueError(f"line {number} has more than {_MOST_DOTS:,} dots")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _preset(path: Path) -> Path:
    """Returns the file of a preset, if this is the name of one and no file."""
    preset = PRESETS / f"{path.name}.toml"
    named = path.name == str(path) and not path.exists() and preset.exists()
    return preset if named else path


def _expert(name: str, entry: JsonReader, folder: Path) -> ExpertConfig:
    if not name or set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789-_"):
        entry.problem(_NAME)
    if name == DETECTOR:
        entry.problem("this name stands for the face detector; choose another")
    chosen = entry.child("architecture").choice(tuple(ARCHITECTURES))
    architecture = ARCHITECTURES[chosen]
    checkpoint = _location(entry, folder) if entry.has("checkpoint") else None
    geometry = architecture.geometry
    if entry.has("geometry"):
        geometry = read_geometry(entry.child("geometry"), geometry)
    known = entry.has("architecture") and entry.child("architecture").value == chosen
    # With an unknown architecture every key would be reported as unknown too.
    settings = architecture.read_settings(entry if known else JsonReader({}, "", []))
    views: tuple[str, ...] = optional(entry, "views", read_views, ())
    pin, stated = _pin(entry), _license(entry)
    return ExpertConfig(name, chosen, checkpoint, geometry, settings, views, pin, stated)


def _detector(entry: JsonReader, folder: Path) -> DetectorConfig:
    entry.only(DETECTOR_KEYS)
    kind = entry.child("kind").choice(DETECTOR_KINDS)
    return DetectorConfig(kind, _location(entry, folder) or "", _pin(entry), _license(entry))


def _location(entry: JsonReader, folder: Path) -> str | None:
    location = entry.child("checkpoint").string()
    return location if not location or is_remote(location) else str(folder / location)


def _pin(entry: JsonReader) -> Pin | None:
    return read_pin(entry.child("sha256")) if entry.has("sha256") else None


def _license(entry: JsonReader) -> str | None:
    return entry.child("license").string() if entry.has("license") else None


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
        f"{flag} {name}: no such expert; there are {', '.join(known)}"
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
