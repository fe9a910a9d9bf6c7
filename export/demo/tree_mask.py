"""Draws the attention mask of Janus's question: `python -m export.demo.tree_mask PNG`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.experts.janus.files import JanusTokenizer
from export.experts.janus.placeholder import write_tokenizer
from export.experts.janus.prompt import AgePrompt, ImageTokens, PromptOptions, build_prompt

_QUESTION = PromptOptions("User: {image} Age? Bot:", system_prompt=False)
_IMAGE_TOKENS = 6
"""Instead of 576, so that the answers remain visible."""


def small_prompt() -> AgePrompt:
    """Returns a short question about a small picture, with all ages."""
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder), _QUESTION)
        return build_prompt(JanusTokenizer(Path(folder)), _QUESTION, ImageTokens(_IMAGE_TOKENS))


def draw_tree_mask(prompt: AgePrompt, path: Path) -> None:
    """Draws the mask; a row's token attends to the dark columns."""
    from matplotlib.figure import Figure

    visible = prompt.mask()[0, 0] == 0.0
    shades = visible.astype(float)
    shades[prompt.prompt_length :] *= 2.0  # a separate color for the trie
    figure = Figure(figsize=(7.5, 7.0), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shades, cmap="Blues", vmin=0.0, vmax=2.6, interpolation="nearest")
    names = _names(prompt)
    ticks = np.arange(len(names))
    axes.set_xticks(ticks, names, rotation=90, fontsize=7)
    axes.set_yticks(ticks, names, fontsize=7)
    axes.set_xticks(ticks[1:] - 0.5, minor=True)
    axes.set_yticks(ticks[1:] - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.7)
    axes.tick_params(which="both", length=0)
    axes.set_ylabel("token")
    axes.set_xlabel("attends to (dark)")
    axes.set_title("Each answer attends to the question and its own prefix, not to other answers")
    figure.savefig(path, dpi=110)


def _names(prompt: AgePrompt) -> list[str]:
    spelled = {ids: age for age, ids in zip(prompt.ages, prompt.age_token_ids, strict=True)}
    prefixes: list[tuple[int, ...]] = [()]
    for token, parent in zip(prompt.tree.node_ids, prompt.tree.parents, strict=True):
        prefixes.append((*prefixes[parent], token))
    return [
        *(f"before {i + 1}" for i in range(len(prompt.before_ids))),
        *(f"image {i + 1}" for i in range(prompt.image_tokens)),
        *(f"after {i + 1}" for i in range(len(prompt.after_ids))),
        *(f"“{spelled[prefix]}…”" for prefix in prefixes[1:]),
    ]


def main(arguments: Sequence[str]) -> int:
    """Writes the picture to the path in `arguments`."""
    draw_tree_mask(small_prompt(), Path(arguments[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
