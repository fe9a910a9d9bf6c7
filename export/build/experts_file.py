"""Reads experts.toml, and finds those that come with this package."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.checkpoints.pins import Pin, read_pin
from export.checkpoints.sources import is_remote
from export.config.architecture import ExpertConfig
from export.config.detector import DETECTOR, DETECTOR_KEYS, DETECTOR_KINDS, DetectorConfig
from export.config.settings import optional, read_geometry, read_layers, read_views
from export.experts.registry import ARCHITECTURES
from runtime.files import read_text
from runtime.json_reader import JsonReader
from runtime.names import suggestion

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
_MOST_TOML_BYTES = 256 << 10
_MOST_DOTS = 2_500
"""In a line; Python's parser takes time and memory quadratic in the parts of a dotted key."""
_NUMBERED = (f"{port}{number}" for port in ("com", "lpt") for number in range(10))
_RESERVED = frozenset(("aux", "con", "nul", "prn", *_NUMBERED))
"""Windows opens devices by these names, so that no file or folder can have them."""
_NAME = "must be lower-case letters, digits, '-' or '_'"


@dataclass(frozen=True, slots=True)
class Configuration:
    """The content of experts.toml."""

    experts: Mapping[str, ExpertConfig]
    """By name."""
    detector: DetectorConfig | None = None
    fusion: Path | None = None
    """The fusion tables beside a preset."""


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
        known = sorted(preset.stem for preset in PRESETS.glob("*.toml"))
        hint = suggestion(path, known)
        problems.append(f"{path}: cannot be read: {error}; presets: {', '.join(known)}.{hint}")
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
    if name in _RESERVED:
        entry.problem("Windows reserves this name for a device; choose another")
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
    kept: tuple[str, ...] = optional(entry, "keep_fp32", read_layers, ())
    return ExpertConfig(name, chosen, checkpoint, geometry, settings, views, pin, stated, kept)


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
