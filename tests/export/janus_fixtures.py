"""A tiny Janus, two tokenizers and transformers' own model as the reference."""

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
ASKED = PromptOptions(prompt="User: {image}\nAge?\n\nBot:", system_prompt=False)
Model = Any
"""transformers' own Janus."""
NORMALIZATION = Normalization(mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.3))


def write_tokenizer(folder: Path, *, merged: bool) -> JanusTokenizer:
    """Byte-level BPE: digits one by one as DeepSeek's, or pairs and a space glued to them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(str(tens), str(ones)) for tens in range(1, 10) for ones in range(10)]
    glued = [("Ġ", a + b) for a, b in pairs] + [("Ġ", str(digit)) for digit in range(10)]
    merges = [*pairs, *glued] if merged else []
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
    """Settings of a random checkpoint."""
    vision = checkpoint.vision
    return JanusFolder(
        layout=layout,
        vision=vision,
        language=checkpoint.language,
        normalization=NORMALIZATION,
        recipe=ImageRecipe(vision.image_size, (127, 102, 76)),
        image=ImageTokens(vision.tokens),
    )


def tiny_prompt(tokenizer: JanusTokenizer, asked: PromptOptions = ASKED) -> AgePrompt:
    """A short question to the tiny Janus."""
    return build_prompt(tokenizer, asked, ImageTokens(RandomJanus("tiny").vision.tokens))


def tiny_expert(prompt: AgePrompt, seed: int = 0) -> JanusAgeExpert:
    """The tiny random Janus with an age head."""
    checkpoint = RandomJanus("tiny", seed)
    return load_expert(settings(checkpoint), checkpoint, prompt)


def faces(count: int, size: int = 48, seed: int = 1) -> torch.Tensor:
    """Noise, uint8 (N, H, W, 3)."""
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.integers(0, 256, (count, size, size, 3), np.uint8))


def transformers_config(checkpoint: RandomJanus) -> dict[str, Any]:
    """What transformers itself needs to know, one entry more than we do."""
    return {**configuration(checkpoint), "image_token_id": 257}


def official_layout(tensors: Mapping[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """The same weights under the official repository's names, with fused q, k, v."""
    tower = "vision_model.vision_tower."
    told = {
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
        for old, new in told.items()
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
    """transformers' own Janus with the same weights; untied, which is not its default."""
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
    """P(age), (N, A): every answer in a sequence of its own, own products and sets.

    Answers of one length run side by side in a batch.
    """
    model.model.config.image_token_id = prompt.image_id
    answers = prompt.age_token_ids
    chances = np.empty((len(pixels), len(answers)))
    goes_on = list(prompt.goes_on_ids)
    for length in {len(answer) for answer in answers}:
        group = [answer for answer in answers if len(answer) == length]
        logits = _answer_logits(model, prompt, pixels, group)
        after = torch.softmax(logits.double(), -1).numpy()  # (N, answers, 1 + length, V)
        for place, answer in enumerate(group):
            chance = np.prod([after[:, place, i, token] for i, token in enumerate(answer)], 0)
            longer = any(o[:length] == answer and o != answer for o in answers)
            if strict or longer:
                chance = chance * np.delete(after[:, place, -1], goes_on, 1).sum(1)
            chances[:, answers.index(answer)] = chance
    return chances


def _answer_logits(
    model: Model,
    prompt: AgePrompt,
    pixels: torch.Tensor,
    answers: list[tuple[int, ...]],
) -> torch.Tensor:
    """Logits from the last prompt token on, (N, answers, 1 + length, V)."""
    image = (prompt.image_id,) * prompt.image_tokens
    asked = (*prompt.before_ids, *image, *prompt.after_ids)
    ids = torch.tensor([asked + answer for answer in answers]).repeat(len(pixels), 1)
    keep = 1 + len(answers[0])
    with torch.no_grad():
        pictures = pixels.repeat_interleave(len(answers), 0)
        logits: torch.Tensor = model(ids, pictures, logits_to_keep=keep).logits
    return logits.reshape(len(pixels), len(answers), keep, -1)


def export_onnx(module: torch.nn.Module, outputs: Sequence[str], path: Path) -> Path:
    """The module as ONNX with a dynamic batch."""
    onnx_from_module(module, signature(outputs), path)
    return path


def signature(outputs: Sequence[str], size: int = 48) -> Signature:
    """What goes into the tiny Janus and what comes out."""
    face = InputSpec("face", size, size, Geometry(fit="pad_square"))
    return Signature((face,), tuple(outputs), tuple(map(float, range(101))))
