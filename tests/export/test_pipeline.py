from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.data import astronaut

import export.build_engines
from export.build.options import BuildOptions, resolve_options
from export.build.pipeline import BuildError, BuildReport, build
from export.build.plan import plan
from export.errors import CheckpointError
from runtime import AgeMoE
from runtime.manifest_file import read_manifest
from tests.export.small import SIDE, experts_toml, small_module, write_checkpoint

pytestmark = pytest.mark.conversion

ROOT = Path(export.build_engines.__file__).resolve().parent.parent


class Quiet:
    def __init__(self) -> None:
        self.stages: list[tuple[str, str]] = []

    def stage(self, expert: str, what: str) -> None:
        self.stages.append((expert, what))

    def advance(self, share: float) -> None:
        assert 0.0 <= share <= 1.0


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for name in ("vgg16", "resnet50"):
        write_checkpoint(folder / f"{name}.safetensors", small_module(name))
    experts_toml(folder, vgg16="vgg16.safetensors", resnet50="resnet50.safetensors")
    return folder


def options(sources: Path, output: Path, **changes: object) -> BuildOptions:
    return resolve_options(
        output=output,
        experts_file=sources / "experts.toml",
        **changes,  # type: ignore[arg-type]
    )


def names_built(report: BuildReport) -> list[str]:
    return [row.name for row in report.rows if not row.reused]


@pytest.fixture
def engines(sources: Path, tmp_path: Path, built_once: Path) -> Path:
    """A private copy of engines that are built only once."""
    del sources
    import shutil

    return Path(shutil.copytree(built_once, tmp_path / "engines"))


@pytest.fixture(scope="module")
def built_once(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("built") / "engines"
    report = build(options(sources, output, fp16=True), Quiet())
    assert names_built(report) == ["vgg16", "resnet50"]
    return output


def test_from_checkpoints_to_an_age(engines: Path) -> None:
    manifest = read_manifest(engines)
    for name, expert in manifest.experts.items():
        assert [a.files[0].path for a in expert.artifacts] == [
            f"{name}/{name}.fp32.onnx",
            f"{name}/{name}.fp16.onnx",
        ]
        assert all(a.parity is not None and a.parity.faces == 20 for a in expert.artifacts)
        assert expert.artifacts[1].reduced_share > 0.5 > expert.artifacts[0].reduced_share
        assert expert.source.kind == "checkpoint"
    picture = np.asarray(astronaut(), np.uint8)  # type: ignore[no-untyped-call]
    face = np.ascontiguousarray(picture[20:200, 150:330])
    with AgeMoE(engines) as moe:
        estimate = moe.predict(face)
    resized = torch.from_numpy(np.array(_resized(face)))[None]
    for name in manifest.experts:
        with torch.inference_mode():
            wanted = float(small_module(name)(resized)[0])
        assert estimate.experts[name].age_years == pytest.approx(wanted, abs=1e-3)


def _resized(face: np.ndarray) -> object:
    from PIL import Image

    return Image.fromarray(face).resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def test_a_second_run_builds_nothing(sources: Path, engines: Path) -> None:
    before = (engines / "manifest.json").read_bytes()
    assert all(not planned.reason for planned in plan(options(sources, engines, fp16=True)))
    assert names_built(build(options(sources, engines, fp16=True), Quiet())) == []
    assert (engines / "manifest.json").read_bytes() == before


def test_without_fp16_an_up_to_date_fp16_file_is_kept(sources: Path, engines: Path) -> None:
    assert names_built(build(options(sources, engines), Quiet())) == []
    assert len(read_manifest(engines).experts["vgg16"].artifacts) == 2


def test_only_what_changed_is_built_again(sources: Path, engines: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other.safetensors", small_module("vgg16", seed=9))
    changed = options(sources, engines, fp16=True, checkpoints=[f"vgg16={other}"])
    assert {p.reason for p in plan(changed)} == {"changed: checkpoint", ""}
    kept = read_manifest(engines).experts["resnet50"]
    assert names_built(build(changed, Quiet())) == ["vgg16"]
    assert read_manifest(engines).experts["resnet50"] == kept
    larger = options(sources, engines, fp16=True, only=["resnet50"], max_batch=4)
    assert {p.reason for p in plan(larger)} == {"changed: options"}
    build(larger, Quiet())
    manifest = read_manifest(engines)
    assert set(manifest.experts) == {"vgg16", "resnet50"}  # --only keeps the others
    assert manifest.experts["resnet50"].profile.largest == 4


@pytest.mark.parametrize("harm", ["truncate", "remove", "alter"])
def test_damaged_files_are_detected(sources: Path, engines: Path, harm: str) -> None:
    path = engines / "resnet50" / "resnet50.fp16.onnx"
    data = path.read_bytes()
    path.unlink()
    if harm != "remove":
        path.write_bytes(data[:-1] if harm == "truncate" else data[:-1] + b"\xff")
    planned = plan(options(sources, engines, fp16=True))
    assert [p.reason for p in planned if p.reason] == [
        "missing or damaged: resnet50/resnet50.fp16.onnx"
    ]


def test_damaged_files_are_built_again(sources: Path, engines: Path) -> None:
    (engines / "resnet50" / "resnet50.fp16.onnx").unlink()
    assert names_built(build(options(sources, engines, fp16=True), Quiet())) == ["resnet50"]
    with AgeMoE(engines, precision="fp16") as moe:
        assert set(moe.experts) == {"vgg16", "resnet50"}


def test_force_builds_everything(sources: Path, engines: Path) -> None:
    forced = options(sources, engines, force=True, only=["vgg16"])
    assert [p.reason for p in plan(forced)] == ["--force"]
    assert names_built(build(forced, Quiet())) == ["vgg16"]


def test_experts_that_are_not_requested_are_removed(engines: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "v.safetensors", small_module("vgg16"))
    alone = resolve_options(
        output=engines, experts_file=experts_toml(tmp_path, vgg16="v.safetensors"), fp16=True
    )
    build(alone, Quiet())
    assert set(read_manifest(engines).experts) == {"vgg16"}
    assert not (engines / "resnet50").exists()


def test_a_failed_build_leaves_earlier_engines_untouched(engines: Path, tmp_path: Path) -> None:
    before = read_manifest(engines)
    write_checkpoint(tmp_path / "v.safetensors", small_module("resnet50"))  # not a VGG
    wrong = resolve_options(
        output=engines, experts_file=experts_toml(tmp_path, vgg16="v.safetensors"), fp16=True
    )
    with pytest.raises(BuildError, match="vgg16: The checkpoint does not fit vgg16") as caught:
        build(wrong, Quiet())
    assert isinstance(caught.value.failures["vgg16"], CheckpointError)
    assert read_manifest(engines) == before
    with AgeMoE(engines) as moe:
        assert set(moe.experts) == {"vgg16", "resnet50"}


def test_a_damaged_manifest_is_rebuilt(sources: Path, engines: Path) -> None:
    (engines / "manifest.json").write_text("{")
    assert len(names_built(build(options(sources, engines, only=["vgg16"]), Quiet()))) == 1
    assert set(read_manifest(engines).experts) == {"vgg16"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "export/build_engines.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_line_plans_without_building(sources: Path, tmp_path: Path) -> None:
    output = tmp_path / "engines"
    experts = str(sources / "experts.toml")
    done = run("--fp16", "--plan", "--experts", experts, "--output", str(output))
    assert done.returncode == 0, done.stderr
    assert "vgg16/vgg16.fp16.onnx" in done.stdout
    assert "build (not built yet)" in done.stdout
    assert not output.exists()


def test_the_command_line_reports_every_problem() -> None:
    done = run("--weights", "demo", "--only", "alexnet", "--checkpoint", "vgg16")
    assert done.returncode == 1
    assert "2 problems with the options" in done.stderr
    assert "--only alexnet: no such expert" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_rerun_completes_a_killed_build(sources: Path, tmp_path: Path) -> None:
    output = tmp_path / "engines"
    experts = str(sources / "experts.toml")
    command = [sys.executable, "export/build_engines.py", "--experts", experts, "--fp16"]
    for patience in (4.0, 8.0, 9.0, 10.0, 11.0, 12.0):
        process = subprocess.Popen([*command, "--output", str(output)], cwd=ROOT)
        time.sleep(patience)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if (output / "manifest.json").exists():
            with AgeMoE(output) as moe:
                assert moe.experts
    assert run(*command[2:], "--output", str(output)).returncode == 0
    with AgeMoE(output) as moe:
        assert set(moe.experts) == {"vgg16", "resnet50"}
