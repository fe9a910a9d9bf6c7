"""The age head: a fixed prompt, and the exact probability of every age in one forward pass.

`prompt.py` defines the sequence; here its logits become probabilities.
N is the batch, R the positions that are read, V the vocabulary, A the ages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.experts.janus.network import (
    Aligner,
    LanguageModel,
    LanguageShape,
    VisionShape,
    VisionTower,
    constant,
)
from export.graph.preprocessing import Normalize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from export.config.settings import Normalization
    from export.experts.janus.prompt import AgePrompt
    from export.experts.janus.trie import AgeTree

NEVER = -1e4
"""Added to the logits of excluded tokens; `exp` makes it zero."""


class AgeReadout(nn.Module):
    """Maps logits at the positions read to the log probability of every age."""

    digits: Tensor
    edge_rows: Tensor
    edges: Tensor
    ends: Tensor
    paths: Tensor

    def __init__(self, prompt: AgePrompt, vocabulary: int) -> None:
        """Stores the steps of the trie as indices."""
        super().__init__()
        tree = prompt.tree
        self.all_rows, self.rows, self.vocabulary = prompt.rows, tree.rows, vocabulary
        self.path_shape = (-1, len(prompt.ages), tree.paths.shape[1])
        digits = torch.zeros(vocabulary, device="cpu")
        digits[list(prompt.digit_ids)] = NEVER
        rows = [row for row, _ in tree.edges]
        constant(self, "digits", digits)
        _indices(self, "edge_rows", rows)
        _indices(self, "edges", [row * vocabulary + token for row, token in tree.edges])
        _indices(self, "ends", tree.ends)
        _indices(self, "paths", tree.paths.ravel().tolist())

    def forward(self, logits: Tensor) -> Tensor:
        """Maps (N · R, V) to (N, A)."""
        if self.all_rows > self.rows:  # the others serve the greedy readout
            logits = logits.reshape(-1, self.all_rows, self.vocabulary)[:, : self.rows]
        flat = logits.reshape(-1, self.rows * self.vocabulary)
        logits = logits.reshape(-1, self.rows, self.vocabulary)
        totals = log_sum_exp(logits)  # (N, R)
        steps = flat.index_select(1, self.edges) - totals.index_select(1, self.edge_rows)
        if self.ends.numel():
            stopping = log_sum_exp(logits.index_select(1, self.ends) + self.digits)
            steps = torch.cat([steps, stopping - totals.index_select(1, self.ends)], 1)
        steps = F.pad(steps, (0, 1))  # the step of probability 1
        return steps.index_select(1, self.paths).reshape(self.path_shape).sum(2)


class GreedyReadout(nn.Module):
    """Maps logits at the positions read to the number that greedy decoding would write."""

    digits: Tensor
    edge_rows: Tensor
    edge_tokens: Tensor
    ends: Tensor
    paths: Tensor
    ages: Tensor

    def __init__(
        self, tree: AgeTree, ages: Sequence[int], digit_ids: Sequence[int], vocabulary: int
    ) -> None:
        """Stores the steps of all spellings as indices.

        Args:
            tree: of the spellings of ages.
            ages: of its paths, in years.
            digit_ids: the tokens that continue a number.
            vocabulary: number of tokens.
        """
        super().__init__()
        self.rows = 1 + len(tree.node_ids)
        self.path_shape = (-1, *tree.paths.shape)
        digits = torch.zeros(vocabulary, device="cpu")
        digits[list(digit_ids)] = 1.0
        constant(self, "digits", digits)
        constant(self, "ages", torch.tensor(ages, dtype=torch.float32, device="cpu"))
        _indices(self, "edge_rows", [row for row, _ in tree.edges])
        _indices(self, "edge_tokens", [token for _, token in tree.edges])
        _indices(self, "ends", tree.ends)
        _indices(self, "paths", tree.paths.ravel().tolist())

    def forward(self, logits: Tensor) -> Tensor:
        """Maps (N · R, V) to ages in years (N,); NaN where no age would be written."""
        chosen = logits.argmax(-1).reshape(-1, self.rows)
        taken = (chosen.index_select(1, self.edge_rows) == self.edge_tokens).to(self.ages.dtype)
        ended = 1.0 - self.digits[chosen.index_select(1, self.ends)]
        steps = F.pad(torch.cat([taken, ended], 1), (0, 1), value=1.0)
        written = steps.index_select(1, self.paths).reshape(self.path_shape).amin(2)
        return (written * self.ages).sum(1) / written.sum(1)  # of at most one spelling, or 0 / 0


class JanusAgeExpert(nn.Module):
    """Janus-Pro with a fixed prompt: from a face to the probability of every age."""

    embeddings: Tensor
    ages: Tensor

    def __init__(
        self,
        vision: VisionShape,
        language: LanguageShape,
        normalization: Normalization,
        prompt: AgePrompt,
    ) -> None:
        """Creates all parts; the prompt's embeddings are loaded with the weights."""
        super().__init__()
        self.prompt = prompt
        length = prompt.prompt_length + len(prompt.tree.node_ids)
        self.before = len(prompt.before_ids)
        self.after = length - self.before - prompt.image_tokens
        with torch.device("cpu"):  # its constants are not loaded from the checkpoint
            self.pixels = Normalize(normalization)
        self.vision_model = VisionTower(vision)
        self.aligner = Aligner(vision)
        self.language_model = LanguageModel(
            language, prompt.mask(), prompt.positions(), prompt.rows
        )
        self.lm_head = nn.Linear(language.width, language.vocabulary, bias=False)
        self.readout = AgeReadout(prompt, language.vocabulary)
        self.greedy = prompt.spelled and GreedyReadout(
            prompt.spelled, prompt.spelled_ages, prompt.digit_ids, language.vocabulary
        )
        # Embeddings of all tokens; the image's are zero, so that the two can be added.
        self.register_buffer("embeddings", torch.empty(1, length, language.width))
        constant(self, "ages", torch.tensor(prompt.ages, dtype=torch.float32, device="cpu"))

    def tokens(self, face: Tensor) -> Tensor:
        """Maps uint8 (N, H, W, 3) RGB to image tokens (N, T, C)."""
        return self.aligner(self.vision_model(self.pixels(face)))  # type: ignore[no-any-return]

    def hidden(self, tokens: Tensor) -> Tensor:
        """Maps image tokens (N, T, C) to the output layer's inputs at the rows read (N, R, C)."""
        sequence = F.pad(tokens, (0, 0, self.before, self.after)) + self.embeddings
        return self.language_model(sequence)  # type: ignore[no-any-return]

    def forward(self, face: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps uint8 (N, H, W, 3) RGB to age_years (N,), age_probs (N, A), answer_mass (N,).

        `age_probs` adds up to 1; `answer_mass` is the probability that the model answers with
        one of these ages at all. `age_years` is the expectation of `age_probs`, or what the model
        would write: a whole number, or NaN.
        """
        return self.answer(self.tokens(face))

    def answer(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps image tokens (N, T, C) to the outputs of `forward`."""
        hidden = self.hidden(tokens)
        # Two axes make the product a Gemm, the only one, so that FP16 can keep it in FP32 by type.
        logits = self.lm_head(hidden.reshape(-1, self.lm_head.in_features))
        log_probs = self.readout(logits)
        log_mass = log_sum_exp(log_probs)
        age_probs = (log_probs - log_mass[:, None]).exp()
        age_years = self.greedy(logits) if self.greedy else (age_probs * self.ages).sum(1)
        return age_years, age_probs, log_mass.exp()


def log_sum_exp(x: Tensor) -> Tensor:
    """Returns the logarithm of Σ exp(x) over the last axis, shifted by the maximum.

    Written out because TensorRT imports ReduceLogSumExp without the shift.
    """
    largest = x.amax(-1, keepdim=True)
    return (x - largest).exp().sum(-1).log() + largest[..., 0]


def _indices(module: nn.Module, name: str, values: Sequence[int]) -> None:
    index = torch.tensor(list(values), dtype=torch.int64, device="cpu")
    module.register_buffer(name, index, persistent=False)
