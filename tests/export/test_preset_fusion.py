"""Fusion tables that come with a preset: copied where they fit, never over a user's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from export.build import experts_file
from export.build.fusion import NOTE, update_fusion
from export.build.options import resolve_options
from export.build.pipeline import build
from runtime import AgeMoE
from runtime.fusion_file import FILE_NAME, write_fusion
from tests.export.onnx_files import write_classifier
from tests.export.test_pipeline import Quiet
from tests.runtime.fusion_tables import Row, pivot_tables
from tests.runtime.tiny_engines import SHA, Tiny, write_engines


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    folder = tmp_path / "engines"
    folder.mkdir()
    return write_engines(folder, {"a": Tiny(), "b": Tiny()}) or folder


def tables(path: Path, *names: str, bias: float = -5.0, sha256: str = SHA) -> Path:
    write_fusion(path, pivot_tables({name: Row(bias, source_sha256=sha256) for name in names}))
    return path


def test_tables_are_copied_where_there_are_none(engines: Path, tmp_path: Path) -> None:
    shipped = tables(tmp_path / "public.fusion.json", "a", "b")
    assert update_fusion(engines, shipped).endswith(f"was copied from {shipped}.")
    assert (engines / FILE_NAME).read_bytes() == shipped.read_bytes()
    assert update_fusion(engines, shipped) == ""
    with AgeMoE(engines) as moe:
        assert moe.calibrated


def test_a_newer_version_replaces_an_unchanged_copy(engines: Path, tmp_path: Path) -> None:
    update_fusion(engines, tables(tmp_path / "public.fusion.json", "a", "b"))
    newer = tables(tmp_path / "public.fusion.json", "a", "b", bias=-6.0)
    assert "was copied" in update_fusion(engines, newer)
    assert (engines / FILE_NAME).read_bytes() == newer.read_bytes()


@pytest.mark.parametrize("copied_first", [False, True])
def test_tables_of_the_user_are_never_replaced(
    engines: Path, tmp_path: Path, copied_first: bool
) -> None:
    shipped = tables(tmp_path / "public.fusion.json", "a", "b")
    if copied_first:
        update_fusion(engines, shipped)
    own = tables(engines / FILE_NAME, "a", "b", bias=1.0).read_bytes()
    assert "is your own and stays" in update_fusion(engines, shipped)
    assert update_fusion(engines, None) == ""
    assert (engines / FILE_NAME).read_bytes() == own


@pytest.mark.parametrize("preset", [False, True])
def test_tables_of_the_user_that_do_not_fit_any_more_are_named(
    engines: Path, tmp_path: Path, preset: bool
) -> None:
    own = tables(engines / FILE_NAME, "a", "b", sha256="0" * 64).read_bytes()
    shipped = tables(tmp_path / "public.fusion.json", "a", "b") if preset else None
    said = update_fusion(engines, shipped)
    assert "Your own tables stay, but AgeMoE refuses them" in said
    assert "was calibrated for another checkpoint" in said
    assert "runtime calibrate" in said
    assert (engines / FILE_NAME).read_bytes() == own


@pytest.mark.parametrize("harm", ["missing expert", "other weights", "damaged"])
def test_tables_that_do_not_fit_are_not_copied(engines: Path, tmp_path: Path, harm: str) -> None:
    shipped = tmp_path / "public.fusion.json"
    names = ("a",) if harm == "missing expert" else ("a", "b")
    tables(shipped, *names, sha256="0" * 64 if harm == "other weights" else SHA)
    if harm == "damaged":
        shipped.write_text("{")
    assert update_fusion(engines, shipped).startswith("The preset's tables are not used: ")
    assert not (engines / FILE_NAME).exists()


def test_a_copy_that_does_not_fit_any_more_is_removed(engines: Path, tmp_path: Path) -> None:
    update_fusion(engines, tables(tmp_path / "public.fusion.json", "a", "b"))
    assert update_fusion(engines, None) == ""  # it still fits
    write_engines(engines, {"c": Tiny()})
    assert update_fusion(engines, None).endswith("does not fit these experts, and was removed.")
    assert not (engines / FILE_NAME).exists()
    assert not (engines / NOTE).exists()


def test_a_build_of_a_preset_copies_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.files import sha256_of

    presets = tmp_path / "presets"
    write_classifier(presets / "a.onnx", {"age": 1}, side=32)
    (presets / "mine.toml").write_text(
        "[experts.a]\narchitecture = 'onnx'\ncheckpoint = 'a.onnx'\ninput_size = 32\n"
        "head = 'regression'\nyears_offset = 40\n"
    )
    tables(presets / "mine.fusion.json", "a", sha256=sha256_of(presets / "a.onnx"))
    own = shutil.copytree(presets, tmp_path / "own")
    monkeypatch.setattr(experts_file, "PRESETS", presets)
    folder = tmp_path / "engines"
    report = build(resolve_options(output=folder, experts_file=Path("mine")), Quiet())
    assert "mine.fusion.json" in report.fusion
    assert (folder / FILE_NAME).exists()
    elsewhere = resolve_options(output=folder, experts_file=own / "mine.toml")
    assert elsewhere.fusion is None  # only presets ship tables
