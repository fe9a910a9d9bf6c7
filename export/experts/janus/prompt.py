"""The fixed prompt of Janus: its tokens, the trie of all answers, the attention mask.

The language model reads one sequence:

    [prompt before the image][image tokens][prompt after it, answer prefix][nodes of the trie]

The trie holds every answer ("0" … "100") as tokenized by the checkpoint's own tokenizer. A node is
in the sequence if its next-token distribution is needed. It attends to the prompt and its own
ancestors, and its position is its depth, so that it computes the same as a separate forward pass
over that answer. The distributions at the last prompt token and at the nodes give

    P(age) = Π P(token | preceding tokens) · P(the number ends here)

The last factor is the probability of all tokens that do not start with a digit. `where_extended`
applies it only to answers that another answer extends: "2" must end to differ from "20", while "25"
includes all its continuations ("25", "25 years", "25.5", even "250"). `all` applies it to every
answer: "25" no longer includes "250" (but still "25.5"), at the cost of one node per answer.

For the readout `greedy` the trie also holds every other spelling of the ages (`spellings`), so that
the largest logit after each beginning of an answer is known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from export.errors import ExportError
from export.experts.janus.spellings import spelled_ages
from export.experts.janus.trie import AgeTree, Termination, nodes, tree_of, tree_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

Readout = Literal["expectation", "greedy"]

IMAGE = "{image}"
"""Position of the image in a prompt."""

DEFAULT_PROMPT = (
    "<|User|>: {image}\nHow old is the person in this photo? "
    "Answer with the age in years as a number.\n\n<|Assistant|>:"
)
"""The conversation format that Janus-Pro was tuned on, up to the answer."""

SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language.\n\n"
)
"""Put before every conversation by the authors' own processor."""

HIDDEN = -1e4
"""Added to the attention scores of masked tokens; finite in FP16."""

_STARTS_WITH_DIGIT = re.compile(r"[0-9]|<0x3[0-9]>")
"""A digit, or its UTF-8 byte in a byte-fallback vocabulary."""


class Tokenizer(Protocol):
    """The methods of a tokenizer that prompts are built with."""

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text, with the beginning-of-sentence token if configured."""

    def tokens(self) -> dict[str, int]:
        """Returns the id of every token, by its spelling in the vocabulary."""


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """The spelling of the special tokens of an image, and the number of its tokens."""

    count: int = 576
    placeholder: str = "<image_placeholder>"
    begin: str = "<begin_of_image>"
    end: str = "<end_of_image>"


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """The prompt, and the answers that count."""

    prompt: str = DEFAULT_PROMPT
    """The conversation up to the answer; `{image}` marks the image."""
    answer_prefix: str = " "
    """A given beginning of the answer: " ", " The person is ", …"""
    system_prompt: bool = True
    """Starts with the authors' system prompt."""
    ages: tuple[int, int] = (0, 100)
    """First and last age in years."""
    termination: Termination = "where_extended"
    """Answers after which the number must end; see the module."""
    readout: Readout = "expectation"
    """`expectation` of the probabilities, or the number that `greedy` decoding would write."""

    @property
    def text(self) -> str:
        """The text up to the age."""
        return (SYSTEM_PROMPT if self.system_prompt else "") + self.prompt + self.answer_prefix


@dataclass(frozen=True, slots=True)
class AgePrompt:
    """Token ids and layout of the sequence."""

    before_ids: tuple[int, ...]
    """Prompt before the image tokens."""
    after_ids: tuple[int, ...]
    """Prompt after the image tokens, with the answer prefix."""
    image_id: int
    """The placeholder's token."""
    image_tokens: int
    """Number of tokens of the image."""
    ages: tuple[int, ...]
    """The ages in years, increasing."""
    age_token_ids: tuple[tuple[int, ...], ...]
    """The answer for each age."""
    digit_ids: tuple[int, ...]
    """Tokens that start with a digit, and so continue a number."""
    tree: AgeTree
    spelled: AgeTree | None = None
    """Every spelling, with the same nodes as `tree`; None unless the readout is greedy."""
    spelled_ages: tuple[int, ...] = ()
    """The age of each path of `spelled`."""

    @property
    def prompt_token_ids(self) -> tuple[int, ...]:
        """Token ids of the prompt, with one placeholder for all image tokens."""
        return (*self.before_ids, self.image_id, *self.after_ids)

    @property
    def prompt_length(self) -> int:
        """Number of tokens before the trie."""
        return len(self.before_ids) + self.image_tokens + len(self.after_ids)

    @property
    def rows(self) -> int:
        """Number of positions read, at the end of the sequence."""
        return 1 + len(self.tree.node_ids)

    def positions(self) -> NDArray[np.int64]:
        """Returns the position of every token, (S,): consecutive in the prompt, then by depth."""
        depths = np.asarray(self.tree.depths, np.int64)
        return np.concatenate([np.arange(self.prompt_length), self.prompt_length - 1 + depths])

    def mask(self) -> NDArray[np.float32]:
        """Returns the attention mask, float32 (1, 1, S, S): 0 or HIDDEN, added to scores."""
        prompt, length = self.prompt_length, self.prompt_length + len(self.tree.node_ids)
        visible = np.zeros((length, length), bool)
        visible[:prompt, :prompt] = np.tri(prompt, dtype=bool)
        for node, parent in enumerate(self.tree.parents):
            row = prompt + node
            visible[row] = visible[prompt - 1 + parent]
            visible[row, row] = True
        return np.where(visible, 0.0, HIDDEN).astype(np.float32)[None, None]


def build_prompt(
    tokenizer: Tokenizer, options: PromptOptions, image: ImageTokens | None = None
) -> AgePrompt:
    """Tokenizes the prompt together with every answer.

    Where a tokenizer merges trailing spaces of the answer prefix with the digits ("Ġ25"), these
    spaces belong to the answers instead of to the prompt.

    Args:
        tokenizer: the checkpoint's own.
        options: the prompt, and the answers that count.
        image: the special tokens of the image; None means Janus-Pro's.

    Raises:
        ExportError: the prompt has no image, or the tokenizer changes the prompt's last token
            depending on the answer.
    """
    image = image or ImageTokens()
    first, last = options.ages
    if not 0 <= first <= last:
        raise ExportError(f"ages must be 0 ≤ first ≤ last, got {first} to {last}.")
    if options.prompt.count(IMAGE) != 1:
        raise ExportError(
            f"The prompt must contain {IMAGE} exactly once, found {options.prompt.count(IMAGE)} "
            f"times: {options.prompt!r}. Write it where the image belongs."
        )
    vocabulary = tokenizer.tokens()
    image_id = _image_id(vocabulary, image)
    text = options.text.replace(IMAGE, image.begin + image.placeholder + image.end)
    ages = tuple(range(first, last + 1))
    prompt_ids, answers = _split(tokenizer, text, [str(age) for age in ages])
    if prompt_ids.count(image_id) != 1:
        raise ExportError(
            f"The tokenized prompt contains {prompt_ids.count(image_id)} × {image.placeholder!r} "
            f"instead of one: {options.prompt!r}. Mark the image with {IMAGE} only."
        )
    position = prompt_ids.index(image_id)
    spelled = spelled_ages(vocabulary, ages) if options.readout == "greedy" else {}
    rows = tree_rows(nodes(answers, options.termination), nodes(tuple(spelled), "all"))
    return AgePrompt(
        before_ids=prompt_ids[:position],
        after_ids=prompt_ids[position + 1 :],
        image_id=image_id,
        image_tokens=image.count,
        ages=ages,
        age_token_ids=answers,
        digit_ids=tuple(
            sorted(i for token, i in vocabulary.items() if _STARTS_WITH_DIGIT.match(token))
        ),
        tree=tree_of(answers, options.termination, rows),
        spelled=tree_of(tuple(spelled), "all", rows) if spelled else None,
        spelled_ages=tuple(spelled.values()),
    )


def _image_id(vocabulary: dict[str, int], image: ImageTokens) -> int:
    missing = [t for t in (image.begin, image.placeholder, image.end) if t not in vocabulary]
    if missing:
        raise ExportError(
            f"The tokenizer lacks {', '.join(missing)}, the tokens of an image: "
            f"it is not Janus's. Use the tokenizer.json of the checkpoint."
        )
    return vocabulary[image.placeholder]


def _split(
    tokenizer: Tokenizer, text: str, numbers: Sequence[str]
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Returns the ids of the prompt and of each answer that follows it."""
    encoded = [tuple(tokenizer.encode(text + number)) for number in numbers]
    for prompt in dict.fromkeys((text, text.rstrip(" "))):
        head = tuple(tokenizer.encode(prompt))
        broken = [i for i, ids in enumerate(encoded) if not _extends(ids, head)]
        if not broken:
            return head, tuple(ids[len(head) :] for ids in encoded)
    shown = encoded[broken[0]][len(head) - 1 :]
    raise ExportError(
        f"The tokenizer merges prompt and answer: before {numbers[broken[0]]!r} the prompt "
        f"ends in token {head[-1]}, together they become {list(shown)}. "
        f"End the answer prefix with a space or a word: {text[-20:]!r}."
    )


def _extends(ids: tuple[int, ...], head: tuple[int, ...]) -> bool:
    return len(ids) > len(head) and ids[: len(head)] == head
