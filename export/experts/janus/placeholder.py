"""Files of a Janus checkpoint for placeholder weights: random and demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from export.config.settings import Normalization
from export.experts.janus.files import ImageRecipe, JanusFolder
from export.experts.janus.prompt import IMAGE, ImageTokens, PromptOptions
from export.experts.janus.weights import RandomJanus

MEAN = STD = (0.5, 0.5, 0.5)
PAD_COLOR = (127, 127, 127)
"""Janus-Pro's, int(mean · 255)."""
_BEGIN_OF_SENTENCE = "<|begin▁of▁sentence|>"
_UNKNOWN = "<unk>"
_PIECES = r"\d| ?\p{L}+|\n+|[^\p{L}\d\s]|\s"
"""Single digits, and words with the space before them: the sequence is about as long as with
DeepSeek's tokenizer."""


def placeholder_folder(checkpoint: RandomJanus) -> JanusFolder:
    """Returns the configuration of a random checkpoint."""
    vision = checkpoint.vision
    return JanusFolder(
        layout="transformers",
        vision=vision,
        language=checkpoint.language,
        normalization=Normalization(mean=MEAN, std=STD),
        recipe=ImageRecipe(vision.image_size, PAD_COLOR),
        image=ImageTokens(vision.tokens),
    )


def write_tokenizer(folder: Path, question: PromptOptions) -> None:
    """Writes a tokenizer whose vocabulary is digits and the words of one prompt."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    split = pre_tokenizers.Split(Regex(_PIECES), "isolated")
    words = [piece for piece, _ in split.pre_tokenize_str(question.text.replace(IMAGE, ""))]
    digits = [str(digit) for digit in range(10)]
    spellings = dict.fromkeys([_UNKNOWN, *digits, *words, " ", "\n", "."])
    vocabulary = {spelling: number for number, spelling in enumerate(spellings)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, _UNKNOWN))
    tokenizer.pre_tokenizer = split
    image = ImageTokens()
    tokenizer.add_special_tokens([_BEGIN_OF_SENTENCE, image.placeholder, image.begin, image.end])
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(folder / "tokenizer_config.json", {"bos_token": _BEGIN_OF_SENTENCE})


def configuration(checkpoint: RandomJanus) -> dict[str, Any]:
    """Returns the content of config.json as transformers writes it."""
    vision, language = checkpoint.vision, checkpoint.language
    return {
        "model_type": "janus",
        "tie_word_embeddings": False,
        "vision_config": {
            "hidden_size": vision.width,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "mlp_ratio": vision.mlp_width / vision.width,
            "projection_dim": vision.aligner_width,
            "depth": vision.aligner_depth,
            "num_image_tokens": vision.tokens,
        },
        "text_config": {
            "model_type": "llama",
            "hidden_size": language.width,
            "num_hidden_layers": language.layers,
            "num_attention_heads": language.heads,
            "num_key_value_heads": language.kv_heads,
            "head_dim": language.head_width,
            "intermediate_size": language.mlp_width,
            "vocab_size": language.vocabulary,
            "tie_word_embeddings": False,
        },
    }


def write_configuration(folder: Path, checkpoint: RandomJanus) -> None:
    """Writes config.json and preprocessor_config.json as transformers does."""
    _write(folder / "config.json", configuration(checkpoint))
    side = checkpoint.vision.image_size
    _write(
        folder / "preprocessor_config.json",
        {
            "image_mean": MEAN,
            "image_std": STD,
            "min_size": 14,
            "resample": 3,
            "size": {"height": side, "width": side},
        },
    )


def _write(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
