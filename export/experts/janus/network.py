"""Janus-Pro's network, in modules that export without shape arithmetic.

SigLIP's vision tower, a two-layer aligner and a Llama decoder over a sequence of fixed length,
whose parameter names follow transformers' (see `weights.py`). Every reshape has constant
dimensions and one -1. N is the batch, T the image tokens, S the length of the sequence, R the
positions that are read, C the width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class VisionShape:
    """Sizes of the vision tower and the aligner."""

    image_size: int = 384
    patch_size: int = 16
    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_width: int = 4096
    eps: float = 1e-6
    aligner_width: int = 2048
    aligner_depth: int = 2

    @property
    def tokens(self) -> int:
        """Number of tokens of an image."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, slots=True)
class LanguageShape:
    """Sizes of the Llama decoder."""

    width: int = 2048
    layers: int = 24
    heads: int = 16
    kv_heads: int = 16
    head_width: int = 128
    mlp_width: int = 5632
    vocabulary: int = 102400
    eps: float = 1e-6
    rope_theta: float = 10000.0


class Attention(nn.Module):
    """Multi-head attention of the vision tower."""

    def __init__(self, width: int, heads: int) -> None:
        """Creates the four projections."""
        super().__init__()
        self.heads, self.width = heads, width
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.projection_layer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, T, C) to the same shape."""
        q, k, v = (_heads(p(x), self.heads) for p in (self.q_proj, self.k_proj, self.v_proj))
        return self.projection_layer(_joined(_attend(q, k, v)))  # type: ignore[no-any-return]


class VisionMlp(nn.Module):
    """Two layers with an exact GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        """Creates the two layers."""
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, T, C) to the same shape."""
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class VisionLayer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, shape: VisionShape) -> None:
        """Creates norms, attention and MLP."""
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(shape.width, shape.eps)
        self.self_attn = Attention(shape.width, shape.heads)
        self.layer_norm2 = nn.LayerNorm(shape.width, shape.eps)
        self.mlp = VisionMlp(shape.width, shape.mlp_width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, T, C) to the same shape."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))  # type: ignore[no-any-return]


class VisionTower(nn.Module):
    """SigLIP without its pooling head."""

    def __init__(self, shape: VisionShape) -> None:
        """Creates patch and position embedding, layers and the last norm."""
        super().__init__()
        self.tokens, self.width = shape.tokens, shape.width
        self.patch_embedding = nn.Conv2d(3, shape.width, shape.patch_size, shape.patch_size)
        self.position_embedding = nn.Parameter(torch.empty(shape.tokens, shape.width))
        self.layers = nn.ModuleList(VisionLayer(shape) for _ in range(shape.layers))
        self.post_layernorm = nn.LayerNorm(shape.width, shape.eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps normalized pixels (N, 3, H, W) to tokens (N, T, C)."""
        patches = self.patch_embedding(pixels).reshape(-1, self.width, self.tokens)
        x = patches.permute(0, 2, 1) + self.position_embedding
        for layer in self.layers:
            x = layer(x)
        return self.post_layernorm(x)  # type: ignore[no-any-return]


class Aligner(nn.Module):
    """Projection from the vision tower's width to the language model's."""

    def __init__(self, shape: VisionShape) -> None:
        """Creates the layers."""
        super().__init__()
        width = shape.aligner_width
        self.fc1 = nn.Linear(shape.width, width)
        self.hidden_layers = nn.ModuleList(
            nn.Linear(width, width) for _ in range(1, shape.aligner_depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, T, vision width) to (N, T, language width)."""
        x = self.fc1(x)
        for layer in self.hidden_layers:
            x = layer(F.gelu(x))
        return x


class RmsNorm(nn.Module):
    """Division by the root mean square.

    Pow, ReduceMean, Sqrt and Div occur nowhere else in the graph, so that these types select the
    norm for FP32; the root is never below sqrt(eps), so that Div is safe where a product with its
    reciprocal is not.
    """

    def __init__(self, width: int, eps: float) -> None:
        """Creates the weight."""
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, S, C) to the same shape."""
        mean_square = x.pow(2).mean(-1, keepdim=True)
        return x / torch.sqrt(mean_square + self.eps) * self.weight


class LanguageAttention(nn.Module):
    """Grouped-query attention with rotary positions; queries are the last `rows` positions."""

    kv_of_head: Tensor
    partner: Tensor

    def __init__(self, shape: LanguageShape, rows: int) -> None:
        """Creates the four projections."""
        super().__init__()
        self.heads, self.kv_heads, self.rows = shape.heads, shape.kv_heads, rows
        queries, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
        self.q_proj = nn.Linear(shape.width, queries, bias=False)
        self.k_proj = nn.Linear(shape.width, keys, bias=False)
        self.v_proj = nn.Linear(shape.width, keys, bias=False)
        self.o_proj = nn.Linear(queries, shape.width, bias=False)
        kv_of_head = torch.arange(shape.heads, device="cpu") // (shape.heads // shape.kv_heads)
        self.register_buffer("kv_of_head", kv_of_head, persistent=False)
        # Rotary positions rotate pairs whose elements lie half a head apart.
        partner = torch.arange(shape.head_width, device="cpu").roll(shape.head_width // 2)
        self.register_buffer("partner", partner, persistent=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """Maps (N, S, C) to (N, rows, C); cos, signed sin (1, 1, S, D), mask (1, 1, S, S)."""
        rows = slice(-self.rows, None)
        q = _heads(self.q_proj(x[:, rows]), self.heads)
        k, v = (_heads(p(x), self.kv_heads) for p in (self.k_proj, self.v_proj))
        q = q * cos[:, :, rows] + q.index_select(3, self.partner) * sin[:, :, rows]
        k = k * cos + k.index_select(3, self.partner) * sin
        if self.kv_heads < self.heads:
            k, v = k.index_select(1, self.kv_of_head), v.index_select(1, self.kv_of_head)
        return self.o_proj(_joined(_attend(q, k, v, mask[:, :, rows])))  # type: ignore[no-any-return]


class LanguageMlp(nn.Module):
    """Gated MLP."""

    def __init__(self, width: int, hidden: int) -> None:
        """Creates the three layers."""
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, S, C) to the same shape."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class LanguageLayer(nn.Module):
    """Pre-norm decoder layer that computes the last `rows` positions."""

    def __init__(self, shape: LanguageShape, rows: int) -> None:
        """Creates norms, attention and MLP."""
        super().__init__()
        self.rows = rows
        self.input_layernorm = RmsNorm(shape.width, shape.eps)
        self.self_attn = LanguageAttention(shape, rows)
        self.post_attention_layernorm = RmsNorm(shape.width, shape.eps)
        self.mlp = LanguageMlp(shape.width, shape.mlp_width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """Maps (N, S, C) to (N, rows, C)."""
        attended = self.self_attn(self.input_layernorm(x), cos, sin, mask)
        x = x[:, -self.rows :] + attended
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class LanguageModel(nn.Module):
    """Llama decoder over a fixed sequence; its last layer computes only the positions read."""

    cos: Tensor
    sin: Tensor
    mask: Tensor

    def __init__(
        self,
        shape: LanguageShape,
        mask: NDArray[np.float32],
        positions: NDArray[np.int64],
        rows: int,
    ) -> None:
        """Creates the layers.

        Args:
            shape: sizes.
            mask: added to attention scores, (1, 1, S, S).
            positions: of every token, (S,); their angles are float32, as in training.
            rows: number of positions read, at the end of the sequence.
        """
        super().__init__()
        computed = [len(positions)] * (shape.layers - 1) + [rows]
        self.layers = nn.ModuleList(LanguageLayer(shape, count) for count in computed)
        self.norm = RmsNorm(shape.width, shape.eps)
        even = torch.arange(0, shape.head_width, 2, dtype=torch.float32, device="cpu")
        frequencies = 1.0 / shape.rope_theta ** (even / shape.head_width)
        angles = (torch.from_numpy(positions).float()[:, None] * frequencies).repeat(1, 2)[
            None, None
        ]
        constant(self, "cos", angles.cos())
        first = torch.arange(shape.head_width, device="cpu") < shape.head_width // 2
        constant(self, "sin", torch.where(first, -angles.sin(), angles.sin()))
        constant(self, "mask", torch.from_numpy(mask))

    def forward(self, x: Tensor) -> Tensor:
        """Maps embeddings (N, S, C) to the last hidden states at the positions read (N, R, C)."""
        for layer in self.layers:
            x = layer(x, self.cos, self.sin, self.mask)
        return self.norm(x)  # type: ignore[no-any-return]


def constant(module: nn.Module, name: str, value: Tensor) -> None:
    """Registers a float32 constant of the graph that is not in the checkpoint."""
    module.register_buffer(name, value.to(torch.float32), persistent=False)


def _heads(x: Tensor, heads: int) -> Tensor:
    """Maps (N, S, C) to (N, heads, S, C / heads)."""
    return x.reshape(-1, x.shape[1], heads, x.shape[2] // heads).permute(0, 2, 1, 3)


def _joined(x: Tensor) -> Tensor:
    """Maps (N, heads, S, D) to (N, S, heads · D)."""
    return x.permute(0, 2, 1, 3).reshape(-1, x.shape[2], x.shape[1] * x.shape[3])


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Computes softmax attention; scaling queries first keeps the product small in FP16."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return torch.softmax(scores if mask is None else scores + mask, -1) @ v
