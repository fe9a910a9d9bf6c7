"""An expert that cannot be built stops neither the others nor its own FP32 file."""

from __future__ import annotations

from pathlib import Path

import pytest

from export import build_engines
from export.build import parity
from export.build.differences import Tolerance
from export.build.options import BuildOptions, resolve_options
from export.build.pipeline import BuildError, build
from export.checkpoints import hub
from export.checkpoints.loading import hash_checkpoint
from export.errors import CheckpointError, GraphError
from runtime import AgeMoE
from runtime.manifest_file import read_manifest
from tests.export.archives import Registries, registries
from tests.export.onnx_files import write_classifier
from tests.export.small import experts_toml, small_module, write_checkpoint
from tests.export.test_pipeline import Quiet

__all__ = ["registries"]
SIDE = 32
TABLE = "architecture = 'onnx'\ninput_size = 32\nhead = 'regression'\nyears_offset = 40\n"
TEXT = f"""
[experts.broken]
{TABLE}checkpoint = "broken.onnx"
[experts.absent]
{TABLE}checkpoint = "pypi://x==1/x.onnx"
[experts.good]
{TABLE}checkpoint = "good.onnx"
license = "CC0-1.0"
"""


@pytest.fixture
def options(tmp_path: Path, registries: Registries) -> BuildOptions:
    registries.failure = "ERROR: no network"
    write_classifier(tmp_path / "good.onnx", {"age": 1}, side=SIDE)
    write_classifier(tmp_path / "broken.onnx", {"age": 1}, side=SIDE * 2)
    (tmp_path / "experts.toml").write_text(TEXT)
    return resolve_options(
        output=tmp_path / "engines", experts_file=tmp_path / "experts.toml", fp16=True
    )


def test_the_others_are_built_and_all_failures_are_listed(
    options: BuildOptions, tmp_path: Path
) -> None:
    with pytest.raises(BuildError) as caught:
        build(options, Quiet())
    failures = caught.value.failures
    assert {name: type(error) for name, error in failures.items()} == {
        "broken": GraphError,
        "absent": CheckpointError,
    }
    assert str(caught.value).startswith("2 could not be built:\nbroken: /")
    assert "broken.onnx: input 'pixels' has the shape" in str(caught.value)
    assert "absent: pypi://x==1/x.onnx cannot be fetched: pip failed: ERROR" in str(caught.value)
    (row,) = caught.value.report.rows
    assert row.name == "good"
    assert read_manifest(tmp_path / "engines").experts["good"].source.license == "CC0-1.0"
    with AgeMoE(tmp_path / "engines") as moe:
        assert set(moe.experts) == {"good"}


def test_nothing_of_an_earlier_build_is_removed_when_one_fails(
    options: BuildOptions, tmp_path: Path
) -> None:
    write_classifier(tmp_path / "old.onnx", {"age": 1}, side=SIDE)
    (tmp_path / "old.toml").write_text(f"[experts.old]\n{TABLE}checkpoint = 'old.onnx'")
    build(resolve_options(output=tmp_path / "engines", experts_file=tmp_path / "old.toml"), Quiet())
    with pytest.raises(BuildError):
        build(options, Quiet())
    assert set(read_manifest(tmp_path / "engines").experts) == {"old", "good"}


def test_the_command_lists_what_failed_after_the_table(
    options: BuildOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--experts", str(tmp_path / "experts.toml"), "--output", str(options.output)]
    assert build_engines.main(arguments) == 1
    captured = capsys.readouterr()
    assert "good.fp32.onnx" in captured.out
    assert "CC0-1.0" in captured.out
    assert "up to date: nothing was built" not in captured.out
    assert captured.err.splitlines()[0].startswith("error: broken: ")
    assert captured.err.splitlines()[-1].startswith("error: absent: ")


def test_where_everything_fails_there_is_no_manifest(
    options: BuildOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good.onnx").write_bytes(b"")
    with pytest.raises(BuildError, match="3 could not be built"):
        build(options, Quiet())
    assert not (options.output / "manifest.json").exists()
    arguments = ["--experts", str(tmp_path / "experts.toml"), "--output", str(options.output)]
    assert build_engines.main(arguments) == 1
    assert "Engines" not in capsys.readouterr().out


def test_fp32_is_published_where_fp16_differs_too_much(
    options: BuildOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = Tolerance(0.0, 0.0, 0.0)
    monkeypatch.setitem(parity.TOLERANCES, "fp16", strict)
    with pytest.raises(BuildError) as caught:
        build(options, Quiet())
    (row,) = caught.value.report.rows
    (reason,) = row.refused
    assert reason.startswith("good: good.fp16.onnx differs from the given ONNX file by ")
    (artifact,) = read_manifest(tmp_path / "engines").experts["good"].artifacts
    assert artifact.precision == "fp32"
    assert not (tmp_path / "engines" / "good" / "good.fp16.onnx").exists()


def test_an_fp32_file_that_differs_names_expert_and_given_file(
    options: BuildOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(parity.TOLERANCES, "fp32", Tolerance(-1.0, -1.0, -1.0))
    with pytest.raises(BuildError) as caught:
        build(options, Quiet())
    message = str(caught.value.failures["good"])
    assert message.startswith("good.fp32.onnx differs from the given ONNX file by ")
    assert "PyTorch" not in str(caught.value)


def test_a_changed_license_is_recorded_without_building(
    options: BuildOptions, tmp_path: Path
) -> None:
    with pytest.raises(BuildError):
        build(options, Quiet())
    text = TEXT.replace("CC0-1.0", "MIT")
    (tmp_path / "experts.toml").write_text(text)
    changed = resolve_options(
        output=options.output, experts_file=tmp_path / "experts.toml", fp16=True, only=["good"]
    )
    before = read_manifest(options.output).experts["good"].artifacts
    progress = Quiet()
    build(changed, progress)
    expert = read_manifest(options.output).experts["good"]
    assert expert.source.license == "MIT"
    assert expert.artifacts == before
    assert "writing ONNX" not in [what for _, what in progress.stages]


@pytest.mark.conversion
def test_a_repository_that_the_hub_cached_in_part_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "README.md").write_text("a part")
    fetched: list[hub.HubFile] = []

    def fetch(self: hub.HubFile, _: object) -> Path:
        fetched.append(self)
        write_checkpoint(snapshot / "model.safetensors", small_module("vgg16"))
        return snapshot

    monkeypatch.setattr(hub.HubFile, "present", lambda _: snapshot)
    monkeypatch.setattr(hub.HubFile, "fetch", fetch)
    path = experts_toml(tmp_path, vgg16="hf://owner/repo")
    options = resolve_options(output=tmp_path / "engines", experts_file=path)
    (row,) = build(options, Quiet()).rows
    assert row.expert.source.sha256 == hash_checkpoint(snapshot)
    (row,) = build(options, Quiet()).rows
    assert row.reused
    assert len(fetched) == 1  # what is complete and built is not asked for again
