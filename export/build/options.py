"""Everything a build is told: the command line and experts.toml, checked in one place."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from export.build.tensorrt_target import OPTIMIZATION_LEVELS, TARGETS, EngineOptions, find_target
from export.config.settings import ARCHITECTURES, Settings, default_geometry, read_geometry
from export.errors import OptionsError
from runtime.backends.openvino_graph import has_bfloat16, has_exact_int8, import_openvino
from runtime.errors import BackendError
from runtime.geometry import Geometry
from runtime.json_reader import JsonReader, shown

HERE = Path(__file__).resolve().parent.parent / "config"
DEFAULT_EXPERTS = HERE / "experts.example.toml"
"""The full-size experts with their usual settings, and the commented example."""
DEMO_EXPERTS = HERE / "experts.demo.toml"
WEIGHTS = ("checkpoint", "demo", "random")
HUB_PREFIX = "hf://"
_NAME = "must be lower-case letters, digits, '-' or '_'"


@dataclass(frozen=True, slots=True)
class ExpertConfig:
    """One expert to build."""

    name: str
    architecture: str
    """A key of `ARCHITECTURES`."""
    checkpoint: str | None
    """A path, absolute or from the current folder, or hf://owner/repo[/file]@revision."""
    geometry: Geometry
    settings: Settings


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """One run of build_engines.py."""

    experts: tuple[ExpertConfig, ...]
    weights: str
    """`checkpoint`, `demo` or `random`."""
    output: Path
    fp16: bool = False
    bf16: bool = False
    """Of all but Janus, for CPUs."""
    int8: bool = False
    """For CPUs."""
    max_batch: int = 32
    force: bool = False
    partial: bool = False
    """Only some experts were asked for: the others in the output folder stay as they are."""
    engines: EngineOptions | None = None
    """How TensorRT engines are built; None leaves it at ONNX files."""
    no_engines: str = ""
    """Why there will be none."""

    @property
    def engine_precision(self) -> str:
        """Of which ONNX file an expert's engine is built: FP16 where it was asked for."""
        return "fp16" if self.fp16 else "fp32"

    def precisions_of(self, config: ExpertConfig) -> tuple[str, ...]:
        """What is built of one expert."""
        bf16 = self.bf16 and has_bf16_variant(config)
        forms = {"fp32": True, "fp16": self.fp16, "bf16": bf16, "int8": self.int8}
        return tuple(precision for precision, wanted in forms.items() if wanted)


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
    """Brings command line and experts.toml together.

    Without `weights`: checkpoints if any was given, demo experts otherwise. Without a file and
    without `only`, the built-in experts that checkpoints were given for are built.

    Args:
        output: the engines folder.
        experts_file: experts.toml; None takes the built-in experts.
        weights: `checkpoint`, `demo` or `random`.
        checkpoints: like `vgg16=PATH`, going before the file's.
        only: names of experts to build.
        fp16: build half precision too.
        bf16: build all but Janus in bfloat16 too, for CPUs that multiply it.
        int8: build INT8 too, for CPUs.
        max_batch: largest batch of the engines.
        force: rebuild what is up to date.
        target: what to build beyond ONNX files, one of `TARGETS`.
        workspace_gib: limit on TensorRT's workspace.
        optimization_level: of TensorRT's builder.

    Raises:
        OptionsError: listing everything that is wrong.
    """
    problems: list[str] = []
    given = _given_checkpoints(checkpoints, problems)
    weights = weights or ("checkpoint" if given or experts_file else "demo")
    default = DEMO_EXPERTS if weights == "demo" else DEFAULT_EXPERTS
    experts = read_experts(experts_file or default, problems)
    if experts_file is None and weights == "checkpoint":
        only = only or tuple(given)  # of the built-in experts, those there are weights for
    problems += _unknown_names(experts, given, only) if experts else []
    chosen = _chosen(experts, given, only, weights)
    problems += _contradictions(weights, chosen, given, experts_file)
    problems += _form_problems(chosen, bf16=bf16, int8=int8)
    if max_batch < 1:
        problems.append(f"--max-batch: must be at least 1, got {max_batch}")
    engines, no_engines = _engines(target, workspace_gib, optimization_level, problems)
    if problems:
        raise OptionsError(problems)
    return BuildOptions(
        chosen,
        weights,
        output,
        fp16,
        bf16,
        int8,
        max_batch,
        force,
        partial=bool(only),
        engines=engines,
        no_engines=no_engines,
    )


def backend_of(config: ExpertConfig, precision: str) -> str:
    """What a form of an expert is built for, before any engine: `onnx` or `openvino`.

    OpenVINO computes products in INT8 whose operands were rounded beforehand, and in bfloat16;
    ONNX Runtime gains next to nothing by the former and lacks the latter. Janus's products round
    what comes in by themselves, as ONNX Runtime wants it.
    """
    static = precision == "int8" and config.architecture != "janus"
    return "openvino" if static or precision == "bf16" else "onnx"


def has_bf16_variant(config: ExpertConfig) -> bool:
    """Whether an expert can be built in bfloat16: Janus is too large for what it takes."""
    return config.architecture != "janus"


def read_experts(path: Path, problems: list[str]) -> dict[str, ExpertConfig]:
    """Reads experts.toml.

    Args:
        path: the file. Relative checkpoints in it are taken from its folder.
        problems: everything wrong is added here, with file and key.

    Returns:
        By name, what could be read.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{path}: cannot be read: {error}")
        return {}
    found: list[str] = []
    root = JsonReader(document, "", found)
    root.only(("experts",))
    experts = {
        name: _expert(name, entry, path.parent) for name, entry in root.child("experts").items()
    }
    problems += [f"{path}: {problem}" for problem in found]
    return experts


def _expert(name: str, entry: JsonReader, folder: Path) -> ExpertConfig:
    if not name or set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789-_"):
        entry.problem(_NAME)
    architecture = entry.child("architecture").choice(tuple(ARCHITECTURES))
    checkpoint = entry.child("checkpoint").string() if entry.has("checkpoint") else None
    if checkpoint and not checkpoint.startswith(HUB_PREFIX):
        checkpoint = str(folder / checkpoint)
    return ExpertConfig(
        name=name,
        architecture=architecture,
        checkpoint=checkpoint,
        geometry=(
            read_geometry(entry.child("geometry"), architecture)
            if entry.has("geometry")
            else default_geometry(architecture)
        ),
        settings=_settings(entry, architecture),
    )


def _settings(entry: JsonReader, architecture: str) -> Settings:
    known = entry.has("architecture") and entry.child("architecture").value == architecture
    # Of an unknown architecture every key would be unknown too, which helps nobody.
    return ARCHITECTURES[architecture](entry if known else JsonReader({}, "", []))


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


def _chosen(
    experts: Mapping[str, ExpertConfig], given: Mapping[str, str], only: Sequence[str], weights: str
) -> tuple[ExpertConfig, ...]:
    chosen = [expert for name, expert in experts.items() if not only or name in only]
    if weights == "random":
        return tuple(replace(expert, checkpoint=None) for expert in chosen)
    return tuple(
        replace(expert, checkpoint=given.get(expert.name, expert.checkpoint)) for expert in chosen
    )


def _engines(
    wanted: str, workspace_gib: float | None, level: int, problems: list[str]
) -> tuple[EngineOptions | None, str]:
    """How to build engines, or None and why not."""
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


def _form_problems(chosen: Sequence[ExpertConfig], *, bf16: bool, int8: bool) -> list[str]:
    """What stands against building the forms for CPUs, which are run to be proven."""
    if bf16 and chosen and not any(map(has_bf16_variant, chosen)):
        return ["--bf16: Janus has no such form, and no other expert was asked for"]
    static = int8 and any(backend_of(config, "int8") == "openvino" for config in chosen)
    try:
        if bf16 and not has_bfloat16():
            return ["--bf16: this CPU has no bfloat16 products, so that nothing could be proven"]
        if static:
            import_openvino()
            if not has_exact_int8():
                return ["--int8: on this CPU INT8 products overflow (no VNNI): nothing is proven"]
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
    """What of the options cannot go together with the kind of weights."""
    if weights == "checkpoint":
        return _checkpoint_problems(experts)
    problems = [f"--weights {weights}: contradicts --checkpoint"] if given else []
    if weights == "demo" and experts_file:
        problems.append("--weights demo: contradicts --experts")
    problems += [
        f"experts.{expert.name}: a given ONNX file has no {weights} weights; leave it out"
        for expert in experts
        if expert.architecture == "onnx"
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
