"""Both layouts of a Janus checkpoint, its processor files, and rejected folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from export.errors import CheckpointError
from export.experts.janus.files import JanusTokenizer, read_folder
from export.experts.janus.prompt import AgePrompt
from export.experts.janus.weights import SHAPES, RandomJanus, load_expert
from tests.export.janus_fixtures import (
    faces,
    official_layout,
    settings,
    tiny_expert,
    tiny_prompt,
    transformers_config,
    write_tokenizer,
)

IMAGES = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.3], "min_size": 14}
OFFICIAL = {
    "model_type": "multi_modality",
    "vision_config": {"params": {"image_size": 384, "model_name": "siglip_large_patch16_384"}},
    "aligner_config": {"params": {"depth": 2, "n_embed": 4096, "projector_type": "mlp_gelu"}},
    "language_config": {"model_type": "llama", "num_hidden_layers": 30, "vocab_size": 102400},
}


@pytest.fixture
def prompt(tmp_path: Path) -> AgePrompt:
    return tiny_prompt(write_tokenizer(tmp_path, merged=False))


def _folder(folder: Path, config: dict[str, Any], **files: dict[str, Any]) -> Path:
    for name, content in {"config": config, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_both_layouts_give_the_same_expert(prompt: AgePrompt) -> None:
    checkpoint = RandomJanus("tiny")
    official = official_layout(checkpoint, checkpoint.vision.layers)
    found = load_expert(settings(checkpoint, "official"), official, prompt).state_dict()
    expected = tiny_expert(prompt).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_half_precision_weights_become_float32(prompt: AgePrompt) -> None:
    tensors = {key: tensor.bfloat16() for key, tensor in RandomJanus("tiny").items()}
    expert = load_expert(settings(RandomJanus("tiny")), tensors, prompt)
    assert {p.dtype for p in expert.parameters()} == {torch.float32}


def test_pixels_are_normalized_as_by_the_processor(prompt: AgePrompt) -> None:
    face = faces(2)
    wide = face.double().permute(0, 3, 1, 2) / 255.0
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.5, 0.25, 0.3])
    expected = (wide - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1)
    torch.testing.assert_close(
        tiny_expert(prompt).pixels(face).double(), expected, rtol=0, atol=1e-6
    )


def test_settings_of_transformers_layout(tmp_path: Path) -> None:
    checkpoint = RandomJanus("tiny")
    images = IMAGES | {"size": {"height": 48, "width": 48}}
    config = transformers_config(checkpoint)
    _folder(tmp_path, config, processor_config={"image_processor": images, "num_image_tokens": 9})
    found = read_folder(tmp_path)
    assert found.recipe.rounding == "round"
    assert (found.vision, found.language) == (checkpoint.vision, checkpoint.language)
    assert found == settings(checkpoint)


def test_settings_of_the_official_layout(tmp_path: Path) -> None:
    images = IMAGES | {"image_size": 384, "background_color": [9, 9, 9]}
    _folder(tmp_path, OFFICIAL, preprocessor_config=images, processor_config={})
    found = read_folder(tmp_path)
    assert found.layout == "official"
    assert (found.vision, found.language) == SHAPES["7B"]
    assert found.image.count == 576
    assert found.recipe.pad_color == (127, 102, 76)
    assert found.recipe.rounding == "truncate"


@pytest.mark.parametrize(
    ("processor", "rounding"),
    [("VLMImageProcessor", "truncate"), ("JanusImageProcessor", "round")],
)
def test_the_processor_decides_how_sides_are_rounded(
    tmp_path: Path, processor: str, rounding: str
) -> None:
    images = IMAGES | {"image_size": 384, "image_processor_type": processor}
    _folder(tmp_path, OFFICIAL, preprocessor_config=images)
    assert read_folder(tmp_path).recipe.geometry.rounding == rounding


def test_all_unsupported_settings_are_listed(tmp_path: Path) -> None:
    config = transformers_config(RandomJanus("tiny"))
    config["text_config"] |= {"hidden_act": "gelu", "rope_scaling": {"type": "yarn"}}
    images = {"image_mean": [0.5] * 3, "size": {"height": 64, "width": 64}}
    images["image_processor_type"] = "SiglipImageProcessor"
    _folder(
        tmp_path, config, preprocessor_config=images, processor_config={"num_image_tokens": 576}
    )
    with pytest.raises(CheckpointError) as caught:
        read_folder(tmp_path)
    for message in (
        "image tokens of the processor: found 576, expected 9",
        "image size of the processor: found 64, expected 48",
        "rope type: found 'yarn'",
        "language hidden_act: found 'gelu'",
        "image_std is missing",
        "image_processor_type: found 'SiglipImageProcessor'",
    ):
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no config.json"),
        ({"config": {"model_type": "llava"}}, "has model_type 'llava'"),
        ({"config": {"model_type": "janus"}}, "neither preprocessor_config.json nor"),
    ],
)
def test_other_folders_are_rejected(
    tmp_path: Path, files: dict[str, dict[str, Any]], message: str
) -> None:
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        read_folder(tmp_path)
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        JanusTokenizer(tmp_path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("vision_config",), None),
        (("vision_config", "patch_size"), "x"),
        (("text_config",), [1]),
        (("text_config", "num_attention_heads"), 0),
        (("text_config", "rope_scaling"), 5),
        (("model_type",), ["janus"]),
    ],
)
def test_values_of_another_kind_are_an_error(
    tmp_path: Path, place: tuple[str, ...], value: Any
) -> None:
    config = transformers_config(RandomJanus("tiny"))
    inner = config
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    if place[-1] == "num_attention_heads":
        inner.pop("head_dim", None)
    _folder(tmp_path, config, preprocessor_config=IMAGES)
    with pytest.raises(CheckpointError):
        read_folder(tmp_path)


def test_a_damaged_tokenizer_and_byte_order_marks(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a tokenizer"):
        JanusTokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llava"}', encoding="utf-8-sig")
    with pytest.raises(CheckpointError, match="has model_type 'llava'"):
        read_folder(tmp_path)


def test_missing_keys_are_listed(prompt: AgePrompt) -> None:
    tensors = dict(RandomJanus("tiny"))
    del tensors["lm_head.weight"], tensors["model.aligner.fc1.bias"]
    with pytest.raises(CheckpointError, match=r"lacks lm_head.weight, model.aligner.fc1.bias"):
        load_expert(settings(RandomJanus("tiny")), tensors, prompt)


def test_tied_weights_are_rejected(prompt: AgePrompt) -> None:
    tensors = dict(RandomJanus("tiny"))
    tensors["lm_head.weight"] = tensors["model.language_model.embed_tokens.weight"]
    with pytest.raises(CheckpointError, match="equals the token embeddings"):
        load_expert(settings(RandomJanus("tiny")), tensors, prompt)


def test_weights_of_another_size_are_rejected(prompt: AgePrompt) -> None:
    tensors = dict(RandomJanus("tiny"))
    tensors["model.language_model.norm.weight"] = torch.zeros(7)
    with pytest.raises(CheckpointError, match=r"norm.weight has shape \(7,\).*\(64,\)"):
        load_expert(settings(RandomJanus("tiny")), tensors, prompt)


def test_image_tokens_must_match_the_vision_tower(prompt: AgePrompt) -> None:
    checkpoint = RandomJanus("1B")
    with pytest.raises(CheckpointError, match=r"reserves 9 image tokens.*gives 576"):
        load_expert(settings(checkpoint), checkpoint, prompt)
