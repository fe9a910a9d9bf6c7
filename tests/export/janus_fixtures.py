"""A tiny Janus, two tokenizers, and transformers' Janus as the reference model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from export.config.contract import Signature
from export.config.settings import Normalization
from export.experts.janus.files import ImageRecipe, JanusFolder, JanusTokenizer, Layout
from export.experts.janus.placeholder import configuration
from export.experts.janus.prompt import ImageTokens, PromptOptions, build_prompt
from export.experts.janus.weights import RandomJanus, load_expert
from export.graph.conversion import onnx_from_module
from runtime.geometry import Geometry
from runtime.manifest import InputSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from export.experts.janus.prompt import AgePrompt
    from export.experts.janus.prompt_head import JanusAgeExpert

BOS = "<bos>"
SPECIALS = [BOS, "<image_placeholder>", "<begin_of_image>", "<end_of_image>"]
OPTIONS = PromptOptions(prompt="User: {image}\nAge?\n\nBot:", system_prompt=False)
Model = Any
"""transformers' Janus."""
NORMALIZATION = Normalization(mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.3))


def write_tokenizer(folder: Path, *, merged: bool) -> JanusTokenizer:
    """Writes byte-level BPE: single digits as DeepSeek's, or pairs merged with a space."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(str(tens), str(ones)) for tens in range(1, 10) for ones in range(10)]
    spaced = [("Ġ", a + b) for a, b in pairs] + [("Ġ", str(digit)) for digit in range(10)]
    merges = [*pairs, *spaced] if merged else []
    spellings = [*alphabet, *(a + b for a, b in merges)]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(spellings)}, merges))
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=merged)
    digits = pre_tokenizers.Split(Regex(r"\d"), "isolated")
    tokenizer.pre_tokenizer = bytes_ if merged else pre_tokenizers.Sequence([digits, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIALS)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": BOS}))
    return JanusTokenizer(folder)


def settings(checkpoint: RandomJanus, layout: Layout = "transformers") -> JanusFolder:
    """Returns the settings of a random checkpoint."""
    vision = checkpoint.vision
    return JanusFolder(
        layout=layout,
        vision=vision,
        language=checkpoint.language,
        normalization=NORMALIZATION,
        recipe=ImageRecipe(vision.image_size, (127, 102, 76)),
        image=ImageTokens(vision.tokens),
    )


def tiny_prompt(tokenizer: JanusTokenizer, options: PromptOptions = OPTIONS) -> AgePrompt:
    """Returns a short prompt for the tiny Janus."""
    return build_prompt(tokenizer, options, ImageTokens(RandomJanus("tiny").vision.tokens))


def tiny_expert(prompt: AgePrompt, seed: int = 0) -> JanusAgeExpert:
    """Returns the tiny random Janus with the prompt head."""
    checkpoint = RandomJanus("tiny", seed)
    return load_expert(settings(checkpoint), checkpoint, prompt)


def faces(count: int, size: int = 48, seed: int = 1) -> torch.Tensor:
    """Returns noise, uint8 (N, H, W, 3)."""
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.integers(0, 256, (count, size, size, 3), np.uint8))


def transformers_config(checkpoint: RandomJanus) -> dict[str, Any]:
    """Returns config.json with the one entry more that transformers requires."""
    return {**configuration(checkpoint), "image_token_id": 257}


def official_layout(tensors: Mapping[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """Renames weights as in the official repository, with fused q, k, v."""
    tower = "vision_model.vision_tower."
    prefixes = {
        "model.vision_model.embeddings.patch_embedding.": f"{tower}patch_embed.proj.",
        "model.vision_model.post_layernorm.": f"{tower}norm.",
        "model.aligner.fc1.": "aligner.layers.0.",
        "model.aligner.hidden_layers.0.": "aligner.layers.2.",
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
    }
    official = {
        new + key.removeprefix(old): tensor
        for key, tensor in tensors.items()
        for old, new in prefixes.items()
        if key.startswith(old)
    }
    positions = tensors["model.vision_model.embeddings.position_embedding.weight"]
    official[f"{tower}pos_embed"] = positions[None]
    inside = {"layer_norm1": "norm1", "layer_norm2": "norm2", "mlp.fc1": "mlp.fc1"}
    inside |= {"mlp.fc2": "mlp.fc2", "self_attn.projection_layer": "attn.proj"}
    for layer in range(layers):
        old = f"model.vision_model.encoder.layers.{layer}."
        new = f"{tower}blocks.{layer}."
        for kind in ("weight", "bias"):
            for ours, theirs in inside.items():
                official[f"{new}{theirs}.{kind}"] = tensors[f"{old}{ours}.{kind}"]
            parts = [tensors[f"{old}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            official[f"{new}attn.qkv.{kind}"] = torch.cat(parts)
    return official


def reference_model(checkpoint: RandomJanus) -> Model:
    """Returns transformers' Janus with the same weights; untied, which is not its default."""
    from transformers import JanusConfig, JanusForConditionalGeneration

    small = {"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1}
    small |= {"latent_channels": 32, "num_embeddings": 8}
    config = JanusConfig(**transformers_config(checkpoint), vq_config=small)
    make: Any = JanusForConditionalGeneration._from_config
    model: Model = make(config, attn_implementation="sdpa")
    report = model.load_state_dict(dict(checkpoint), strict=False)
    assert not report.unexpected_keys
    generating = ("vqmodel", "generation_")
    assert all(key.split(".")[1].startswith(generating) for key in report.missing_keys)
    assert not torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)
    return model.eval()


def brute_force(
    model: Model, prompt: AgePrompt, pixels: torch.Tensor, *, strict: bool
) -> NDArray[np.float64]:
    """Returns P(age), (N, A), from a separate sequence per answer.

    Answers of the same length form a batch.
    """
    model.model.config.image_token_id = prompt.image_id
    answers = prompt.age_token_ids
    probabilities = np.empty((len(pixels), len(answers)))
    digits = list(prompt.digit_ids)
    for length in {len(answer) for answer in answers}:
        group = [answer for answer in answers if len(answer) == length]
        logits = _answer_logits(model, prompt, pixels, group)
        after = torch.softmax(logits.double(), -1).numpy()  # (N, answers, 1 + length, V)
        for row, answer in enumerate(group):
            probability = np.prod([after[:, row, i, token] for i, token in enumerate(answer)], 0)
            longer = any(o[:length] == answer and o != answer for o in answers)
            if strict or longer:
                probability = probability * np.delete(after[:, row, -1], digits, 1).sum(1)
            probabilities[:, answers.index(answer)] = probability
    return probabilities


def _answer_logits(
    model: Model,
    prompt: AgePrompt,
    pixels: torch.Tensor,
    answers: list[tuple[int, ...]],
) -> torch.Tensor:
    """Returns the logits from the last prompt token on, (N, answers, 1 + length, V)."""
    image = (prompt.image_id,) * prompt.image_tokens
    prompt_ids = (*prompt.before_ids, *image, *prompt.after_ids)
    ids = torch.tensor([prompt_ids + answer for answer in answers]).repeat(len(pixels), 1)
    keep = 1 + len(answers[0])
    with torch.no_grad():
        images = pixels.repeat_interleave(len(answers), 0)
        logits: torch.Tensor = model(ids, images, logits_to_keep=keep).logits
    return logits.reshape(len(pixels), len(answers), keep, -1)


def export_onnx(module: torch.nn.Module, outputs: Sequence[str], path: Path) -> Path:
    """Writes a module as ONNX with a dynamic batch."""
    onnx_from_module(module, signature(outputs), path)
    return path


def signature(outputs: Sequence[str], size: int = 48) -> Signature:
    """Returns the inputs and outputs of the tiny Janus."""
    face = InputSpec("face", size, size, Geometry(fit="pad_square"))
    return Signature((face,), tuple(outputs), tuple(map(float, range(101))))
