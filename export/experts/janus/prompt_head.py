"""The age head: a fixed prompt, and the exact probability of every age in one forward pass.

`age_prompt.py` says which sequence is computed and why; here its logits become probabilities.
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

NEVER = -1e4
"""Added to the logit of a token that must not count; `exp` makes it zero."""


class AgeReadout(nn.Module):
    """Logits at the positions read to the log probability of every age."""

    goes_on: Tensor
    edge_rows: Tensor
    edges: Tensor
    ends: Tensor
    paths: Tensor

    def __init__(self, prompt: AgePrompt, vocabulary: int) -> None:
        """Freeze the trie's steps as indices."""
        super().__init__()
        tree = prompt.tree
        self.rows, self.vocabulary = prompt.rows, vocabulary
        self.path_shape = (-1, len(prompt.ages), tree.paths.shape[1])
        goes_on = torch.zeros(vocabulary, device="cpu")
        goes_on[list(prompt.goes_on_ids)] = NEVER
        rows = [row for row, _ in tree.edges]
        constant(self, "goes_on", goes_on)
        _indices(self, "edge_rows", rows)
        _indices(self, "edges", [row * vocabulary + token for row, token in tree.edges])
        _indices(self, "ends", tree.ends)
        _indices(self, "paths", tree.paths.ravel().tolist())

    def forward(self, logits: Tensor) -> Tensor:
        """(N · R, V) to (N, A)."""
        flat = logits.reshape(-1, self.rows * self.vocabulary)
        logits = logits.reshape(-1, self.rows, self.vocabulary)
        totals = log_sum_exp(logits)  # (N, R)
        steps = flat.index_select(1, self.edges) - totals.index_select(1, self.edge_rows)
        if self.ends.numel():
            stopping = log_sum_exp(logits.index_select(1, self.ends) + self.goes_on)
            steps = torch.cat([steps, stopping - totals.index_select(1, self.ends)], 1)
        steps = F.pad(steps, (0, 1))  # the step that costs nothing
        return steps.index_select(1, self.paths).reshape(self.path_shape).sum(2)


class JanusAgeExpert(nn.Module):
    """A face to the probability of every age, as Janus-Pro's language model sees it."""

    embeddings: Tensor
    ages: Tensor

    def __init__(
        self,
        vision: VisionShape,
        language: LanguageShape,
        normalization: Normalization,
        prompt: AgePrompt,
    ) -> None:
        """Make all parts; the prompt's embeddings are loaded with the weights."""
        super().__init__()
        self.prompt = prompt
        length = prompt.prompt_length + len(prompt.tree.node_ids)
        self.before = len(prompt.before_ids)
        self.after = length - self.before - prompt.image_tokens
        with torch.device("cpu"):  # its constants are no weights, to be loaded later
            self.pixels = Normalize(normalization)
        self.vision_model = VisionTower(vision)
        self.aligner = Aligner(vision)
        self.language_model = LanguageModel(
            language, prompt.mask(), prompt.positions(), prompt.rows
        )
        self.lm_head = nn.Linear(language.width, language.vocabulary, bias=False)
        self.readout = AgeReadout(prompt, language.vocabulary)
        # Embeddings of all tokens but the image's, which are zero: the two are simply added.
        self.register_buffer("embeddings", torch.empty(1, length, language.width))
        constant(self, "ages", torch.tensor(prompt.ages, dtype=torch.float32, device="cpu"))

    def tokens(self, face: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) RGB to image tokens (N, T, C)."""
        return self.aligner(self.vision_model(self.pixels(face)))  # type: ignore[no-any-return]

    def hidden(self, tokens: Tensor) -> Tensor:
        """Image tokens (N, T, C) to what the output layer sees at the rows read (N, R, C)."""
        sequence = F.pad(tokens, (0, 0, self.before, self.after)) + self.embeddings
        return self.language_model(sequence)  # type: ignore[no-any-return]

    def forward(self, face: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 (N, H, W, 3) RGB to age_years (N,), age_probs (N, A) and answer_mass (N,).

        `age_probs` adds up to 1; `answer_mass` is the probability that the model answers with
        one of these ages at all.
        """
        return self.answer(self.tokens(face))

    def answer(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Image tokens (N, T, C) to what `forward` returns."""
        hidden = self.hidden(tokens)
        # Two axes make the product a Gemm, the only one: the head's FP32 island by operator type.
        log_probs = self.readout(self.lm_head(hidden.reshape(-1, self.lm_head.in_features)))
        log_mass = log_sum_exp(log_probs)
        age_probs = (log_probs - log_mass[:, None]).exp()
        return (age_probs * self.ages).sum(1), age_probs, log_mass.exp()


def log_sum_exp(x: Tensor) -> Tensor:
    """Logarithm of Σ exp(x) over the last axis, shifted by the maximum.

    Written out because TensorRT imports ReduceLogSumExp without the shift.
    """
    largest = x.amax(-1, keepdim=True)
    return (x - largest).exp().sum(-1).log() + largest[..., 0]


def _indices(module: nn.Module, name: str, values: Sequence[int]) -> None:
    index = torch.tensor(list(values), dtype=torch.int64, device="cpu")
    module.register_buffer(name, index, persistent=False)
