"""The published prompt: the same token ids as the authors' chat processor makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from export.build.experts_file import read_experts
from export.experts.janus.files import JanusTokenizer
from export.experts.janus.prompt import ImageTokens, build_prompt
from runtime.geometry import Resize
from tests.export.janus_fixtures import write_tokenizer

QUESTION = (
    "Please provide a numerical age. Only answer with a number. If unable to answer, say unknown."
)
SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
IMAGE_TOKENS = 576
TOML = f"""
[experts.janus]
architecture = "janus"
prompt = "<|User|>: {{image}}\\n{QUESTION}\\n\\n<|Assistant|>:"
answer_prefix = ""
ages = "0..150"
readout = "greedy"
[experts.janus.geometry]
before = [{{ resize = 256, interpolation = "pillow_lanczos" }}]
"""


def _deepseek_like(folder: Path) -> JanusTokenizer:
    """Byte-level BPE with DeepSeek's pre-tokenizer, and merges that cross spaces and newlines."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("Ċ", "Ċ"), ("Ġ", "P"), ("a", "n"), ("Ġ", "a"), ("Ġa", "n"), ("o", "u"), (">", ":")]
    merges = [*pairs, (":", "Ċ"), ("Y", "ou")]
    spellings = [*alphabet, *(a + b for a, b in merges)]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(spellings)}, merges))
    steps = [
        pre_tokenizers.Split(Regex(r"[\r\n]+"), "isolated"),
        pre_tokenizers.Split(Regex(r"\s?\p{L}+"), "isolated"),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    bos = "<｜begin▁of▁sentence｜>"
    image = ["<image_placeholder>", "<begin_of_image>", "<end_of_image>"]
    tokenizer.add_special_tokens([bos, *image, "<|User|>", "<|Assistant|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": bos}))
    return JanusTokenizer(folder)


def _conversation_ids(tokenizer: JanusTokenizer) -> list[int]:
    """The steps of the authors' processor.

    The messages, stripped, are joined as in DeepSeek's template; the text is tokenized as a whole,
    and the placeholder's token becomes the image's tokens between their begin and end.
    """
    messages = [("<|User|>", f"<image_placeholder>\n{QUESTION}"), ("<|Assistant|>", "")]
    text = SYSTEM + "\n\n"
    for role, content in messages:
        text += f"{role}: {content.strip()}\n\n" if content else f"{role}:"
    vocabulary = tokenizer.tokens()
    ids = []
    for token in tokenizer.encode(text.strip()):
        if token == vocabulary["<image_placeholder>"]:
            ids += [vocabulary["<begin_of_image>"], *[token] * IMAGE_TOKENS]
            ids += [vocabulary["<end_of_image>"]]
        else:
            ids.append(token)
    return ids


@pytest.mark.parametrize("kind", ["deepseek_like", "single_digits", "merged_digits"])
def test_the_published_prompt_has_the_authors_token_ids(tmp_path: Path, kind: str) -> None:
    (tmp_path / "experts.toml").write_text(TOML)
    problems: list[str] = []
    config = read_experts(tmp_path / "experts.toml", problems)["janus"]
    assert not problems
    assert config.geometry.before == (Resize(256, 256, "pillow_lanczos"),)
    tokenizer = (
        _deepseek_like(tmp_path)
        if kind == "deepseek_like"
        else write_tokenizer(tmp_path, merged=kind == "merged_digits")
    )
    prompt = build_prompt(tokenizer, config.settings.question, ImageTokens())
    assert prompt.image_tokens == IMAGE_TOKENS
    found = [*prompt.before_ids, *[prompt.image_id] * IMAGE_TOKENS, *prompt.after_ids]
    assert found == _conversation_ids(tokenizer)
    if kind != "merged_digits":
        assert prompt.rows == 1 + 2 * 151 + 1
