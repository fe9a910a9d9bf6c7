"""The fingerprint that binds fusion tables to an expert."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path

import pytest

from export.build.keys import expert_fingerprint
from export.build.options import resolve_options
from export.build.pipeline import build
from export.config.architecture import ExpertConfig
from export.config.fingerprints import without_defaults
from runtime.geometry import Geometry
from runtime.manifest_file import read_manifest, write_manifest
from tests.export.small import experts_toml, small_module, write_checkpoint
from tests.export.test_pipeline import Quiet


@dataclass(frozen=True)
class Settings:
    color_order: str = "RGB"
    sizes: tuple[int, ...] = field(default_factory=lambda: (1, 2))


CONFIG = ExpertConfig("a", "cnn", "a.pth", Geometry(), Settings())
WEIGHTS = "ab" * 32


def test_it_changes_with_weights_settings_and_geometry_only() -> None:
    first = expert_fingerprint(CONFIG, WEIGHTS)
    assert len(first) == 64
    assert expert_fingerprint(replace(CONFIG, name="b", checkpoint="/else.pth"), WEIGHTS) == first
    changed = {
        expert_fingerprint(CONFIG, "cd" * 32),
        expert_fingerprint(CONFIG, None),
        expert_fingerprint(replace(CONFIG, architecture="mivolo"), WEIGHTS),
        expert_fingerprint(replace(CONFIG, settings=Settings("BGR")), WEIGHTS),
        expert_fingerprint(replace(CONFIG, geometry=Geometry(crop_margin=0.4)), WEIGHTS),
    }
    assert len(changed) == 5
    assert first not in changed


def test_a_new_option_with_a_default_changes_nothing() -> None:
    later = make_dataclass(
        "Later", [("color_order", str), ("views", tuple, field(default=()))], frozen=True
    )
    assert without_defaults(later("BGR")) == {"color_order": "BGR"}
    assert without_defaults(Settings("BGR")) == {"color_order": "BGR"}
    assert without_defaults(Settings(sizes=(1, 2))) == {}
    assert without_defaults(later("BGR", ("flip",))) == {"color_order": "BGR", "views": ["flip"]}


@pytest.mark.conversion
def test_the_manifest_states_it_and_an_older_one_is_completed_without_a_build(
    tmp_path: Path,
) -> None:
    write_checkpoint(tmp_path / "vgg16.safetensors", small_module("vgg16"))
    experts_toml(tmp_path, vgg16="vgg16.safetensors")
    options = resolve_options(output=tmp_path / "engines", experts_file=tmp_path / "experts.toml")
    build(options, Quiet())
    manifest = read_manifest(options.output)
    expert = manifest.experts["vgg16"]
    assert expert.fingerprint == expert_fingerprint(options.experts[0], expert.source.sha256)
    older = {"vgg16": replace(expert, fingerprint=None)}
    write_manifest(options.output, replace(manifest, experts=older))
    (row,) = build(options, Quiet()).rows
    assert row.reused
    assert read_manifest(options.output).experts == manifest.experts
