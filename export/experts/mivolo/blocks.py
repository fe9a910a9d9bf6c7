"""MiVOLO's attention blocks, formulated to export to little more than matrix products.

They are equivalent to timm's VOLO and MiVOLO's cross attention, under the same parameter names.
With a dynamic batch TensorRT turns every run-time slice, split, squeeze, pad or expand into a
dozen layers of shape arithmetic, and every product of unequal ranks into two. Therefore tokens are
rows throughout, (N·T, C); weights are split instead of activations, and keys' weights include the
scale of the logits (the exporter folds both away); and windows are gathered and summed by exact
products with matrices of zeros and ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers.mlp import Mlp as ConvMlp
from torch import Tensor, nn

WINDOW = 3
"""Side of an outlook window; its stride is 2 and its padding 1 in every published VOLO."""


def window_matrix(side: int) -> Tensor:
    """Builds the matrix that gathers windows along one axis.

    Args:
        side: length of the axis, even.

    Returns:
        (3 * side / 2, side) of zeros and ones: row 3 i + k selects position 2 i + k - 1, or nothing
        beyond the edge. Its transpose sums overlapping windows.
    """
    if side % 2:
        raise ValueError(f"Outlook attention supports even sides only, got {side}.")
    positions = 2 * torch.arange(side // 2)[:, None] + torch.arange(WINDOW) - 1
    return (positions.reshape(-1, 1) == torch.arange(side)).float()


class Linear(nn.Linear):
    """A linear layer over rows; its bias has the rank of the rows, which saves TensorRT a layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Transforms rows (N, C)."""
        return affine(x, self.weight, self.bias)


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Multiplies rows (N, C) with a weight (D, C) and adds a bias (D,)."""
    return torch.addmm(bias.reshape(1, -1), x, weight.T)


class Mlp(nn.Module):
    """Two linear layers over rows with a GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        """Creates the layers for `dim` channels."""
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Transforms rows (N, C)."""
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y


class OutlookAttention(nn.Module):
    """Attention within 3×3 windows of values, with weights predicted from their 2×2 centers.

    Formula: VOLO (arXiv 2106.13112), section 3.1.
    """

    def __init__(self, dim: int, heads: int, side: int) -> None:
        """Creates the three projections for maps of side × side positions and `dim` channels."""
        super().__init__()
        self.side = side
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.v = nn.Linear(dim, dim, bias=False)
        self.attn = Linear(dim, WINDOW**4 * heads)
        self.proj = Linear(dim, dim)
        self.register_buffer("gather", window_matrix(side), persistent=False)
        self.gather: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Attends over rows (N·side², C)."""
        half, dim, cells = self.side // 2, x.shape[-1], WINDOW**2
        center = x.reshape(-1, half, 2, half, 2, dim).mean((2, 4)).reshape(-1, dim)
        logits = affine(center, self.attn.weight * self.scale, self.attn.bias * self.scale)
        weights = logits.reshape(-1, half**2, self.heads, cells, cells).softmax(-1)
        mixed: Tensor = self.proj(self.fold(weights @ self.unfold(self.v(x))))
        return mixed

    def unfold(self, x: Tensor) -> Tensor:
        """Gathers rows (N·side², C) into windows (N, side² / 4, heads, 9, C / heads)."""
        side, half, dim = self.side, self.side // 2, x.shape[-1]
        lines = self.gather @ x.reshape(-1, side, side * dim)
        windows = self.gather @ lines.reshape(-1, WINDOW * half, side, dim)
        windows = windows.reshape(-1, half, WINDOW, half, WINDOW, self.heads, dim // self.heads)
        windows = windows.permute(0, 1, 3, 5, 2, 4, 6)
        return windows.reshape(-1, half**2, self.heads, WINDOW**2, dim // self.heads)

    def fold(self, windows: Tensor) -> Tensor:
        """Sums overlapping windows into rows: the adjoint of `unfold`."""
        side, half, depth = self.side, self.side // 2, windows.shape[-1]
        windows = windows.reshape(-1, half, half, self.heads, WINDOW, WINDOW, depth)
        windows = windows.permute(0, 1, 4, 2, 5, 3, 6)
        windows = windows.reshape(-1, WINDOW * half, WINDOW * half, self.heads * depth)
        lines = (self.gather.T @ windows).reshape(-1, WINDOW * half, side * self.heads * depth)
        return (self.gather.T @ lines).reshape(-1, self.heads * depth)


class SelfAttention(nn.Module):
    """Multi-head attention among the tokens of one image."""

    def __init__(self, dim: int, heads: int, tokens: int) -> None:
        """Creates the projections of `dim` channels, for images of `tokens` rows."""
        super().__init__()
        self.heads = heads
        self.tokens = tokens
        self.scale = (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Attends over rows (N·T, C)."""
        for_q, for_k, for_v = parts_of(self.qkv.weight, 3)
        weights = (for_q, for_k * self.scale, for_v)
        q, k, v = (split_heads(F.linear(x, w), self.tokens, self.heads) for w in weights)
        mixed: Tensor = self.proj(attend(q, k, v).transpose(1, 2).reshape(-1, x.shape[-1]))
        return mixed


class ClassAttention(nn.Module):
    """Multi-head attention whose only query is the class token."""

    def __init__(self, dim: int, heads: int, tokens: int) -> None:
        """Creates the projections of `dim` channels, for `tokens` other tokens."""
        super().__init__()
        self.heads = heads
        self.tokens = tokens
        self.scale = (dim // heads) ** -0.5
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.q = nn.Linear(dim, dim, bias=False)
        self.proj = Linear(dim, dim)

    def forward(self, first: Tensor, others: Tensor) -> Tensor:
        """Attends from the class tokens (N, C) to themselves and the others (N·T, C)."""
        dim = first.shape[-1]
        tokens = [first.reshape(-1, 1, dim), others.reshape(-1, self.tokens, dim)]
        rows = torch.cat(tokens, 1).reshape(-1, dim)
        for_k, for_v = parts_of(self.kv.weight, 2)
        weights = (for_k * self.scale, for_v)
        k, v = (split_heads(F.linear(rows, w), 1 + self.tokens, self.heads) for w in weights)
        q = split_heads(self.q(first), 1, self.heads)
        mixed: Tensor = self.proj(attend(q, k, v).reshape(-1, dim))
        return mixed


class CrossAttention(nn.Module):
    """Attention from face to person and from person to face, joined into one map.

    Formula: MiVOLO's feature enhancer (arXiv 2307.04616, section 3.2): one head, relative position
    logits by row and by column, LayerNorm over channels and positions at once.
    """

    def __init__(self, dim: int, side: int) -> None:
        """Creates the block for two maps of `dim` channels and side × side positions."""
        super().__init__()
        self.side = side
        self.qkv_f = nn.Conv2d(dim, 3 * dim, 1, bias=False)
        self.qkv_p = nn.Conv2d(dim, 3 * dim, 1, bias=False)
        self.pos_embed = RelativePosition(dim, side)
        self.norm = WideNorm([2 * dim, side, side])
        self.mlp = ConvMlp(2 * dim, 4 * dim, dim, use_conv=True)

    def forward(self, face: Tensor, person: Tensor) -> Tensor:
        """Joins two maps (N, C, side, side) into one."""
        q_face, k_face, v_face = self._project(self.qkv_f, face)
        q_person, k_person, v_person = self._project(self.qkv_p, person)
        attended = [
            attend(q_face, k_person, v_person, self.pos_embed(q_face)),
            attend(q_person, k_face, v_face, self.pos_embed(q_person)),
        ]
        both = torch.cat(attended, -1).transpose(1, 2)
        joined: Tensor = self.mlp(self.norm(both.reshape(-1, both.shape[1], *face.shape[2:])))
        return joined

    def _project(self, qkv: nn.Conv2d, x: Tensor) -> list[Tensor]:
        """Returns queries, scaled keys and values, each (N, side², C)."""
        dim, tokens = x.shape[1], self.side**2
        rows = x.reshape(-1, dim, tokens).transpose(1, 2).reshape(-1, dim)
        for_q, for_k, for_v = parts_of(qkv.weight.flatten(1), 3)
        weights = (for_q, for_k * dim**-0.5, for_v)
        return [F.linear(rows, w).reshape(-1, tokens, dim) for w in weights]


class WideNorm(nn.LayerNorm):
    """LayerNorm over channels and positions, with sums in steps and the mean before the squares.

    ONNX Runtime's LayerNormalization scaled the 884,736 values of D1 at 384 pixels wrongly by up to
    2e-5 on the CPU, which changed ages by up to 0.0018 years (random weights, scale of v2).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes maps (N, C, H, W)."""
        centered = x - self._mean(x)
        deviation = (self._mean(centered * centered) + self.eps).sqrt()
        y: Tensor = centered / deviation * self.weight + self.bias
        return y

    @staticmethod
    def _mean(x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True).mean(1, keepdim=True)


class RelativePosition(nn.Module):
    """Logits of the distances between query and key, in rows and in columns."""

    def __init__(self, dim: int, side: int) -> None:
        """Creates one vector of `dim` per distance -(side-1)..side-1, for rows and for columns."""
        super().__init__()
        self.side = side
        self.height_rel = nn.Parameter(torch.empty(2 * side - 1, dim))
        self.width_rel = nn.Parameter(torch.empty(2 * side - 1, dim))
        positions = torch.arange(side)
        distance = positions - positions[:, None] + side - 1  # [query, key]
        self.register_buffer("distance", distance, persistent=False)
        self.distance: Tensor

    def forward(self, q: Tensor) -> Tensor:
        """Turns queries (N, side², C) into logits (N, side², side²)."""
        side, dim = self.side, q.shape[-1]
        grid = q.reshape(-1, side, side, dim)
        by_row = grid @ self.height_rel[self.distance].transpose(1, 2)
        by_column = grid.transpose(1, 2) @ self.width_rel[self.distance].transpose(1, 2)
        by_row = by_row.reshape(-1, side, side, side, 1)
        by_column = by_column.transpose(1, 2).reshape(-1, side, side, 1, side)
        return (by_row + by_column).reshape(-1, side**2, side**2)


def parts_of(weight: Tensor, count: int) -> list[Tensor]:
    """Splits a stacked weight by slices: unlike them, Split is not folded away."""
    size = weight.shape[0] // count
    return [weight[size * part : size * (part + 1)] for part in range(count)]


def split_heads(rows: Tensor, tokens: int, heads: int) -> Tensor:
    """Turns rows (N·T, C) into (N, heads, T, C / heads)."""
    return rows.reshape(-1, tokens, heads, rows.shape[-1] // heads).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attends from queries (..., Q, C) to keys (..., T, C), which include the scale C ** -0.5."""
    logits = q @ k.transpose(-2, -1)
    return (logits if bias is None else logits + bias).softmax(-1) @ v
