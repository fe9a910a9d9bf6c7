"""Prompts compared on labeled faces as in docs/janus.md, and the drawn attention mask."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file

from export import build_engines, calibrate
from export.demo.tree_mask import main, small_prompt
from export.experts.janus.placeholder import write_configuration, write_tokenizer
from export.experts.janus.prompt import PromptOptions
from export.experts.janus.weights import RandomJanus
from export.faces.drawn import drawn_faces
from runtime.manifest_file import read_manifest

TOML = """
[experts.janus-how-old]
architecture = "janus"
checkpoint = "checkpoint"

[experts.janus-guess]
architecture = "janus"
checkpoint = "checkpoint"
prompt = "{image} Guess:"
answer_prefix = " I am "
system_prompt = false
"""
FACES = 60


@pytest.mark.slow
def test_two_prompts_are_compared(tmp_path: Path) -> None:
    folder, drawn = tmp_path / "checkpoint", RandomJanus("demo")
    folder.mkdir()
    write_configuration(folder, drawn)
    write_tokenizer(folder, PromptOptions())
    save_file(dict(drawn), folder / "model.safetensors")
    (tmp_path / "prompts.toml").write_text(TOML)
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("image", "age"))
        for index, face in enumerate(drawn_faces(FACES, seed=3, size=96)):
            Image.fromarray(face.image).save(tmp_path / f"{index}.png")
            table.writerow((f"{index}.png", face.age_years))
    engines, compared = tmp_path / "engines", tmp_path / "compared"
    arguments = ["--experts", str(tmp_path / "prompts.toml"), "--output", str(engines)]
    assert build_engines.main(arguments) == 0
    experts = read_manifest(engines).experts
    prompts = [tuple(experts[name].details["prompt_token_ids"]) for name in experts]
    assert prompts[0] != prompts[1]
    arguments = ["--faces", str(tmp_path / "labels.csv"), "--engines", str(engines)]
    assert calibrate.main([*arguments, "--output", str(compared)]) == 0
    report = json.loads((compared / "report.json").read_text())
    assert {"janus-how-old", "janus-guess"} <= set(json.dumps(report).split('"'))
    assert "janus-guess" in (compared / "report.md").read_text()


def test_the_attention_mask_is_drawn(tmp_path: Path) -> None:
    assert main([str(tmp_path / "mask.png")]) == 0
    with Image.open(tmp_path / "mask.png") as image:
        assert image.width > 500
    prompt = small_prompt()
    visible = prompt.mask()[0, 0] == 0.0
    answers = visible[prompt.prompt_length :, prompt.prompt_length :]
    assert answers.sum(1).tolist() == [*[1] * 9, 2]  # itself, and "1" of "10"
    assert visible[prompt.prompt_length :, : prompt.prompt_length].all()
