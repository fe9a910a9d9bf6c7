"""The light head: attention pooling over Janus's image tokens instead of the language model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.errors import CheckpointError
from export.experts.janus.network import Aligner, VisionTower
from export.experts.janus.weights import weights
from export.graph.preprocessing import Normalize

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from export.experts.janus.files import JanusFolder

HEAD_PREFIX = "light_head."
"""Before the head's keys in a distilled checkpoint."""
HEADS = 8
"""Number of learned queries."""


class LightHead(nn.Module):
    """Attention pooling of the image tokens by learned queries, followed by an MLP.

    With C the tokens' width it has about C²/2 + C²/16 parameters: 2.4 M for Janus-Pro-1B.
    """

    ages: Tensor

    def __init__(self, width: int, ages: Sequence[int]) -> None:
        """Creates the layers.

        Args:
            width: of the image tokens, at least 4 · HEADS.
            ages: of the classes, in years.
        """
        super().__init__()
        self.depth = width // (4 * HEADS)
        self.hidden = hidden = HEADS * self.depth
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.empty(1, HEADS, 1, self.depth).normal_(std=0.02))
        self.k_proj = nn.Linear(width, hidden)
        self.v_proj = nn.Linear(width, hidden)
        self.fc1 = nn.Linear(hidden, hidden)
        self.fc2 = nn.Linear(hidden, len(ages))
        years = torch.tensor(list(ages), dtype=torch.float32, device="cpu")
        self.register_buffer("ages", years, persistent=False)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Maps image tokens (N, T, C) to age_years (N,) and age_probs (N, A)."""
        age_probs = torch.softmax(self.logits(tokens), -1)
        return (age_probs * self.ages).sum(1), age_probs

    def logits(self, tokens: Tensor) -> Tensor:
        """Maps image tokens (N, T, C) to unnormalized log probabilities (N, A)."""
        tokens = self.norm(tokens)
        k, v = self._split(self.k_proj(tokens)), self._split(self.v_proj(tokens))
        scores = (self.queries * self.depth**-0.5) @ k.transpose(-2, -1)
        pooled = (torch.softmax(scores, -1) @ v).reshape(-1, self.hidden)
        return self.fc2(F.gelu(self.fc1(pooled)))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        """Maps (N, T, hidden) to (N, HEADS, T, depth)."""
        return x.reshape(-1, x.shape[1], HEADS, self.depth).permute(0, 2, 1, 3)


class LightAgeExpert(nn.Module):
    """Janus's vision tower with a light head: from a face to the probability of every age."""

    def __init__(self, settings: JanusFolder, ages: Sequence[int]) -> None:
        """Creates all parts."""
        super().__init__()
        with torch.device("cpu"):  # its constants are not loaded from the checkpoint
            self.pixels = Normalize(settings.normalization)
        self.vision_model = VisionTower(settings.vision)
        self.aligner = Aligner(settings.vision)
        self.head = LightHead(settings.vision.aligner_width, ages)

    def tokens(self, face: Tensor) -> Tensor:
        """Maps uint8 (N, H, W, 3) RGB to image tokens (N, T, C), the inputs of the head."""
        return self.aligner(self.vision_model(self.pixels(face)))  # type: ignore[no-any-return]

    def forward(self, face: Tensor) -> tuple[Tensor, Tensor]:
        """Maps uint8 (N, H, W, 3) RGB to age_years (N,) and age_probs (N, A)."""
        return self.head(self.tokens(face))  # type: ignore[no-any-return]


def load_light_expert(
    settings: JanusFolder,
    tensors: Mapping[str, Tensor],
    head: Mapping[str, Tensor],
    ages: Sequence[int],
) -> LightAgeExpert:
    """Builds the light expert from a Janus checkpoint and a distilled head.

    Args:
        settings: from `read_folder`.
        tensors: the Janus checkpoint by key; only vision tower and aligner are read.
        head: state of a `LightHead`, for example from a safetensors file.
        ages: of the classes that the head was distilled for, in years.

    Raises:
        CheckpointError: the head is for other ages or another width.
    """
    with torch.device("meta"):
        expert = LightAgeExpert(settings, ages)
    expected = {name: tuple(tensor.shape) for name, tensor in expert.head.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in head.items()}
    wrong = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"The light head does not fit {len(ages)} ages and image tokens of width "
            f"{settings.vision.aligner_width}: {name} is {found.get(name)}, expected "
            f"{expected.get(name)}. Distill it again for this checkpoint and these ages."
        )
    trunk = {n: p for n, p in expert.named_parameters() if not n.startswith("head.")}
    state = weights(trunk, tensors, settings.layout)
    state |= {f"head.{name}": tensor.to(torch.float32) for name, tensor in head.items()}
    expert.load_state_dict(state, assign=True)
    return expert.eval()
