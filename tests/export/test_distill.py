"""Distillation of the light head: resumable, seeded, with an ordinary checkpoint as its result."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export import distill
from export.build.demo_weights import write_demo_checkpoint
from export.build.experts_file import DEMO_EXPERTS, read_experts
from export.build.options import resolve_options
from export.build.pipeline import build
from export.distillation import training
from export.experts.registry import build_expert, count_parameters
from export.faces.drawn import drawn_faces
from runtime.manifest_file import read_manifest
from tests.export.test_pipeline import Quiet

TEACHER = """
[experts.janus]
architecture = "janus"
checkpoint = "teacher"
system_prompt = false
"""
LIGHT = """
[experts.janus]
architecture = "janus"
checkpoint = "light"
head = "light"
"""
FACES = 300


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fitted demo teacher and pictures of faces, one of them broken."""
    folder = tmp_path_factory.mktemp("distillation")
    drawn = list(drawn_faces(FACES, seed=1, size=96))
    fitting = np.stack([f.image for f in drawn]), np.array([f.age_years for f in drawn])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("export.build.demo_weights.fitting_faces", lambda: fitting)
        write_demo_checkpoint(read_experts(DEMO_EXPERTS, [])["janus"], folder / "teacher")
    (folder / "faces" / "more").mkdir(parents=True)
    for index, face in enumerate(drawn):
        place = folder / "faces" / ("more" if index % 2 else "")
        Image.fromarray(face.image).save(place / f"{index:03}.png")
    (folder / "faces" / "broken.png").write_bytes(b"not a picture")
    (folder / "experts.toml").write_text(TEACHER)
    return folder


def run(work: Path, output: str, *more: str) -> int:
    given = ("--faces", work / "faces", "--experts", work / "experts.toml")
    return distill.main([*map(str, given), "--output", str(work / output), *more])


@pytest.fixture(scope="module")
def light(work: Path) -> Path:
    assert run(work, "light", "--epochs", "40") == 0
    return work / "light"


def test_the_light_head_approximates_its_teacher(light: Path) -> None:
    report = json.loads((light / "distillation.json").read_text())
    assert report["faces"] == FACES
    assert report["unreadable"] == 1
    assert report["held_back"] == FACES // 10
    teacher = np.load(light / "teacher" / "age_probs.npy")
    years = (teacher * np.arange(101)).sum(1)[teacher.any(axis=1)]
    assert report["mean_years"] < 0.7 * np.abs(years - years.mean()).mean()
    assert 0.0 < report["kl_nats"] < 1.0


@pytest.mark.conversion
def test_the_result_is_an_ordinary_checkpoint(light: Path, work: Path, tmp_path: Path) -> None:
    (work / "light.toml").write_text(LIGHT)
    build(resolve_options(output=tmp_path, experts_file=work / "light.toml"), Quiet())
    expert = read_manifest(tmp_path).experts["janus"]
    assert expert.details["head"] == "light"
    assert expert.outputs == ("age_years", "age_probs")
    onnx_size = expert.artifacts[0].files[0].size_bytes
    assert (light / "model.safetensors").stat().st_size < onnx_size * 1.2
    teacher = read_experts(work / "experts.toml", [])["janus"]
    student = read_experts(work / "light.toml", [])["janus"]
    assert count_parameters(student, light) < count_parameters(teacher, work / "teacher")


def test_the_same_seed_gives_the_same_head(work: Path) -> None:
    for output in ("once", "again"):
        assert run(work, output, "--epochs", "2") == 0
    once, again = ((work / f / "model.safetensors").read_bytes() for f in ("once", "again"))
    assert once == again


def test_the_teacher_resumes_where_it_stopped(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    viewed: list[Path] = []
    view = training._view

    def counted(picture: Path, spec: object) -> object:
        if len(viewed) == 50:
            raise KeyboardInterrupt
        viewed.append(picture)
        return view(picture, spec)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "_view", counted)
    assert run(work, "stopped", "--epochs", "1") == 130
    assert "a rerun resumes" in capsys.readouterr().err
    monkeypatch.setattr(training, "_view", view)
    assert run(work, "stopped", "--epochs", "1") == 0
    assert f"teacher: 48 of {FACES + 1} faces are done" in capsys.readouterr().out
    whole = np.load(work / "stopped" / "teacher" / "age_probs.npy")
    assert whole.any(axis=1).sum() == FACES


@pytest.mark.usefixtures("light")
def test_answers_of_another_teacher_are_rejected(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = work / "other.toml"
    other.write_text(TEACHER + 'ages = "10..80"\n')
    arguments = ["--faces", str(work / "faces"), "--experts", str(other)]
    assert distill.main([*arguments, "--output", str(work / "light")]) == 1
    assert "was started with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--name", "unknown"), "--name unknown: no such expert; found janus"),
        (("--held-back", "1.5"), "--held-back: must be within (0, 1)"),
    ],
)
def test_invalid_options_are_reported(
    work: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run(work, "never", *arguments) == 1
    assert message in capsys.readouterr().err


def test_a_checkpoint_without_light_head_is_rejected(work: Path) -> None:
    (work / "light.toml").write_text(LIGHT)
    config = read_experts(work / "light.toml", [])["janus"]
    with pytest.raises(ValueError, match="needs a distilled checkpoint"):
        build_expert(config, work / "teacher")
