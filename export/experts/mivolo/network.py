"""The MiVOLO network, under the parameter names of the published checkpoints.

VOLO (arXiv 2106.13112) with the patch embedding of MiVOLO (arXiv 2307.04616). The attention is in
`blocks.py`; parts that export well are timm's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.models.volo import Downsample, PatchEmbed
from torch import Tensor, nn

from export.experts.mivolo.blocks import (
    ClassAttention,
    CrossAttention,
    Linear,
    Mlp,
    OutlookAttention,
    SelfAttention,
    affine,
)

PATCH = 8
"""Pixels per side of a patch; the grid is halved once more after the first stage."""

CLASS_BLOCKS = 2


@dataclass(frozen=True, slots=True)
class VoloShape:
    """Sizes of a VOLO; per stage: blocks, channels and heads."""

    layers: tuple[int, ...]
    embed_dims: tuple[int, ...]
    num_heads: tuple[int, ...]
    stem_width: int = 64
    mlp_ratio: int = 3


VARIANTS = {
    "d1": VoloShape((4, 4, 8, 2), (192, 384, 384, 384), (6, 12, 12, 12)),
    "d2": VoloShape((6, 4, 10, 4), (256, 512, 512, 512), (8, 16, 16, 16)),
    "d3": VoloShape((8, 8, 16, 4), (256, 512, 512, 512), (8, 16, 16, 16)),
    "d4": VoloShape((8, 8, 16, 4), (384, 768, 768, 768), (12, 16, 16, 16)),
    "d5": VoloShape((12, 12, 20, 4), (384, 768, 768, 768), (12, 16, 16, 16), 128, 4),
    "demo": VoloShape((1, 1, 2, 1), (32, 128, 128, 128), (2, 4, 4, 16), 16),
}
"""The published sizes, and the small one of the demo."""


class MiVoloNet(nn.Module):
    """The network from normalized images to raw outputs."""

    def __init__(
        self, shape: VoloShape, *, with_person: bool, input_size: int, columns: int
    ) -> None:
        """Creates the network for square images of `input_size` pixels, a multiple of 16."""
        super().__init__()
        self.side = input_size // PATCH
        dim, tokens = shape.embed_dims[-1], (self.side // 2) ** 2
        self.patch_embed = FacePersonEmbed(shape, self.side) if with_person else _face_embed(shape)
        self.pos_embed = nn.Parameter(torch.empty(1, self.side // 2, self.side // 2, dim))
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.network = nn.ModuleList(_stages(shape, self.side))
        self.post_network = nn.ModuleList(
            ClassBlock(ClassAttention(dim, shape.num_heads[-1], tokens), dim, shape.mlp_ratio)
            for _ in range(CLASS_BLOCKS)
        )
        self.norm = nn.LayerNorm(dim)
        self.head = Linear(dim, columns)
        self.aux_head = Linear(dim, columns)
        self.register_buffer("no_token", torch.zeros(1, tokens), persistent=False)
        self.no_token: Tensor

    def forward(self, *images: Tensor) -> Tensor:
        """Maps float32 (N, 3, H, W) images, face and optionally person, to (N, columns)."""
        grid = self.patch_embed(*images).permute(0, 2, 3, 1)
        outlookers, downsample, *transformers = self.network
        rows = outlookers(grid.reshape(-1, grid.shape[-1]))
        grid = downsample(rows.reshape(-1, self.side, self.side, rows.shape[-1])) + self.pos_embed
        rows = grid.reshape(-1, grid.shape[-1])
        for stage in transformers:
            rows = stage(rows)
        first = self._class_tokens(rows)
        for block in self.post_network:
            first = block(first, rows)
        aux = self.aux_head
        half = affine(self.norm(rows), aux.weight * 0.5, aux.bias * 0.5)
        overall: Tensor = self.head(self.norm(first))
        return overall + half.reshape(-1, self.no_token.shape[1], aux.out_features).amax(1)

    def _class_tokens(self, rows: Tensor) -> Tensor:
        """Repeats the class token for every image: a product with zeros, plus the token."""
        zeros = self.no_token @ rows.reshape(-1, self.no_token.shape[1], rows.shape[-1])
        return zeros.reshape(-1, rows.shape[-1]) + self.cls_token[0]


class FacePersonEmbed(nn.Module):
    """Two stems, one for the face and one for the person, joined by cross attention."""

    def __init__(self, shape: VoloShape, grid: int) -> None:
        """Creates the stems and the cross attention for maps of grid × grid patches."""
        super().__init__()
        face, person = _face_embed(shape), _face_embed(shape)
        self.conv1, self.proj1 = face.conv, face.proj
        self.conv2, self.proj2 = person.conv, person.proj
        self.map = CrossAttention(shape.embed_dims[0], grid)

    def forward(self, face: Tensor, person: Tensor) -> Tensor:
        """Maps two (N, 3, H, W) images to one map (N, C, H/8, W/8)."""
        joined: Tensor = self.map(self.proj1(self.conv1(face)), self.proj2(self.conv2(person)))
        return joined


class Block(nn.Module):
    """Attention and MLP, each with a LayerNorm before it and a residual connection."""

    def __init__(self, attention: nn.Module, dim: int, mlp_ratio: int) -> None:
        """Creates the block around an attention over `dim` channels."""
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_ratio * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Transforms (..., C)."""
        x = x + self.attn(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class ClassBlock(Block):
    """A block that transforms the class token only; the other tokens are keys and values."""

    def forward(self, first: Tensor, others: Tensor) -> Tensor:  # type: ignore[override]
        """Transforms the class tokens (N, C), given the others (N·T, C)."""
        first = first + self.attn(self.norm1(first), self.norm1(others))
        y: Tensor = first + self.mlp(self.norm2(first))
        return y


def _face_embed(shape: VoloShape) -> PatchEmbed:
    return PatchEmbed(
        stem_conv=True,
        stem_stride=2,
        patch_size=PATCH,
        hidden_dim=shape.stem_width,
        embed_dim=shape.embed_dims[0],
    )


def _stages(shape: VoloShape, side: int) -> list[nn.Module]:
    """Returns a stage of outlookers, a downsampling, and the stages of transformers."""
    stages: list[nn.Module] = []
    for depth, dim, heads in zip(shape.layers, shape.embed_dims, shape.num_heads, strict=True):
        stage = nn.Sequential()
        for _ in range(depth):
            attention = (
                SelfAttention(dim, heads, (side // 2) ** 2)
                if stages
                else OutlookAttention(dim, heads, side)
            )
            stage.append(Block(attention, dim, shape.mlp_ratio))
        stages.append(stage)
    return [stages[0], Downsample(*shape.embed_dims[:2]), *stages[1:]]
