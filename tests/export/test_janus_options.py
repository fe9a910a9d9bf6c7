"""Janus in experts.toml, and the preflight checks of memory and disk."""

from __future__ import annotations

from pathlib import Path

import pytest

import export.build.preflight
from export.build.experts_file import DEFAULT_EXPERTS, read_experts
from export.build.preflight import check_resources
from export.config.architecture import ExpertConfig
from export.errors import ExportError
from export.experts.janus.prompt import PromptOptions
from export.experts.janus.settings import JanusSettings
from runtime.geometry import Resize

PARAMETERS_7B = 6_900_000_000


def _read(folder: Path, text: str) -> tuple[dict[str, ExpertConfig], list[str]]:
    path = folder / "experts.toml"
    path.write_text(f'[experts.janus]\narchitecture = "janus"\n{text}')
    problems: list[str] = []
    return read_experts(path, problems), problems


def test_the_example_has_the_defaults(tmp_path: Path) -> None:
    plain, problems = _read(tmp_path, "")
    assert not problems
    assert plain["janus"].settings == JanusSettings("prompt", PromptOptions(), "1B")
    assert read_experts(DEFAULT_EXPERTS, problems)["janus"].settings == plain["janus"].settings


def test_every_key_is_read(tmp_path: Path) -> None:
    experts, problems = _read(
        tmp_path,
        'prompt = "{image} Age?"\nanswer_prefix = ""\nsystem_prompt = false\nages = "18..80"\n'
        'termination = "all"\nreadout = "greedy"\nsize = "7B"\ngeometry.crop_margin = 0.4\n'
        'geometry.before = [{ resize = 256, interpolation = "pillow_lanczos" }]\n',
    )
    assert not problems
    expected = PromptOptions("{image} Age?", "", False, (18, 80), "all", "greedy")
    assert experts["janus"].settings == JanusSettings("prompt", expected, "7B")
    assert experts["janus"].geometry.crop_margin == 0.4
    assert experts["janus"].geometry.before == (Resize(256, 256, "pillow_lanczos"),)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("{ resize = 0, interpolation = 'pillow_lanczos' }", "resize: must be a whole number of"),
        ("{ resize = 9999, interpolation = 'opencv_area' }", "within 1..4096, got [9999, 9999]"),
        ("{ resize = [1, 2, 3], interpolation = 'opencv_area' }", "one number or [height, width]"),
        ("{ resize = 256 }", "before[0].interpolation: missing"),
        ("{ resize = 256, interpolation = 'sinc' }", "interpolation: must be one of"),
        ("{ interpolation = 'opencv_area' }", "before[0].resize: missing"),
        ("{ size = 2, resize = 3, interpolation = 'opencv_area' }", "unknown key size"),
        ("256", "before[0]: must be an object"),
    ],
)
def test_invalid_steps_are_reported(tmp_path: Path, step: str, message: str) -> None:
    _, problems = _read(tmp_path, f"geometry.before = [{step}]")
    assert any(message in problem for problem in problems), problems


def test_a_step_may_have_two_sides(tmp_path: Path) -> None:
    step = "{ resize = [200, 100], interpolation = 'opencv_area' }"
    experts, problems = _read(tmp_path, f"geometry.before = [{step}]")
    assert not problems
    assert experts["janus"].geometry.before == (Resize(200, 100, "opencv_area"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('readout = "best"', "janus.readout: must be one of expectation, greedy"),
        ('head = "light"\nreadout = "greedy"', "janus.readout: belongs to head = 'prompt'"),
        ('prompt = "Age?"', "janus.prompt: must hold {image} exactly once"),
        ("ages = [0, 2.5, 4]", "janus.ages: must be whole years"),
        ("ages = [0, 5, 10]", "janus.ages: must be whole years"),
        ('termination = "never"', "janus.termination: must be one of where_extended, all"),
        ('head = "light"\nprompt = "{image}"', "janus.prompt: belongs to head = 'prompt'"),
        ("input_size = 384", "unknown key input_size"),
        ('geometry.fit = "stretch"', "janus.geometry.fit: comes from the checkpoint's own"),
        ("geometry.pad_color = [0, 0, 0]", "janus.geometry.pad_color: comes from the"),
    ],
)
def test_invalid_keys_are_reported(tmp_path: Path, text: str, message: str) -> None:
    _, problems = _read(tmp_path, text)
    assert len(problems) == 1
    assert message in problems[0]


def test_too_little_memory_or_disk_fails_before_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.build.preflight, "available_memory", lambda: 20 << 30)
    check_resources("janus", 1_800_000_000, ["fp32"], tmp_path)
    with pytest.raises(ExportError, match=r"6.90 billion.*needs 33.1 GiB of memory, 20.0 are"):
        check_resources("janus", PARAMETERS_7B, ["fp32", "fp16"], tmp_path)
    monkeypatch.setattr(export.build.preflight, "available_memory", lambda: None)
    monkeypatch.setattr(export.build.preflight, "free_disk", lambda _: 30 << 30)
    with pytest.raises(ExportError, match=r"39.8 GiB of disk in .*, 30.0 are free"):
        check_resources("janus", PARAMETERS_7B, ["fp32", "fp16"], tmp_path)
