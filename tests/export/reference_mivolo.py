"""A second implementation of MiVOLO, with PyTorch's own `fold` and `unfold`.

Plain functions over a state dict; to be independent they share nothing with `export.experts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MEAN = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)
STD = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)


class Weights:
    """The entries of a state dict under a prefix, in float64."""

    def __init__(self, state: Mapping[str, Tensor], prefix: str = "") -> None:
        self.state, self.prefix = state, prefix

    def __getitem__(self, name: str) -> Tensor:
        return self.state[self.prefix + name].double()

    def get(self, name: str) -> Tensor | None:
        return self[name] if self.prefix + name in self.state else None

    def at(self, name: str) -> Weights:
        return Weights(self.state, f"{self.prefix}{name}.")

    def numbered(self) -> list[Weights]:
        """Returns the children 0, 1, 2, … under this prefix."""
        start = len(self.prefix)
        names = {k[start:].split(".")[0] for k in self.state if k.startswith(self.prefix)}
        return [self.at(n) for n in sorted(names, key=int)]


def raw_outputs(
    state: Mapping[str, Tensor], heads: Sequence[int], face: Tensor, person: Tensor | None
) -> Tensor:
    """Maps images uint8 (N, H, W, 3) RGB to raw outputs, float64 (N, 1 or 3)."""
    w = Weights(state)
    x = patch_embed(w.at("patch_embed"), face, person).permute(0, 2, 3, 1)
    stages = iter(heads)
    for index, stage in enumerate(w.at("network").numbered()):
        if index == 1:
            x = conv(stage.at("proj"), x.permute(0, 3, 1, 2), stride=2).permute(0, 2, 3, 1)
            x = x + w["pos_embed"]
            continue
        attention, count = (outlook if index == 0 else self_attention), next(stages)
        for block in stage.numbered():
            x = x + attention(block.at("attn"), norm(block.at("norm1"), x), count)
            x = x + mlp(block.at("mlp"), norm(block.at("norm2"), x))
    tokens = x.flatten(1, 2)
    tokens = torch.cat([w["cls_token"].expand(len(tokens), -1, -1), tokens], 1)
    for block in w.at("post_network").numbered():
        first = tokens[:, :1]
        first = first + class_attention(
            block.at("attn"), norm(block.at("norm1"), tokens), heads[-1]
        )
        first = first + mlp(block.at("mlp"), norm(block.at("norm2"), first))
        tokens = torch.cat([first, tokens[:, 1:]], 1)
    tokens = norm(w.at("norm"), tokens)
    aux = linear(w.at("aux_head"), tokens[:, 1:])
    return linear(w.at("head"), tokens[:, 0]) + 0.5 * aux.max(1).values


def patch_embed(w: Weights, face: Tensor, person: Tensor | None) -> Tensor:
    if person is None:
        return conv(w.at("proj"), stem(w.at("conv"), normalize(face)), stride=4)
    maps = [
        conv(w.at(proj), stem(w.at(name), normalize(image)), stride=4)
        for name, proj, image in (("conv1", "proj1", face), ("conv2", "proj2", person))
    ]
    return cross_attention(w.at("map"), maps[0], maps[1])


def normalize(image: Tensor) -> Tensor:
    return ((image.double() / 255 - MEAN) / STD).permute(0, 3, 1, 2)


def stem(w: Weights, x: Tensor) -> Tensor:
    for index, (stride, padding) in enumerate(((2, 3), (1, 1), (1, 1))):
        x = conv(w.at(str(3 * index)), x, stride=stride, padding=padding)
        bn = w.at(str(3 * index + 1))
        x = F.batch_norm(x, bn["running_mean"], bn["running_var"], bn["weight"], bn["bias"])
        x = F.relu(x)
    return x


def cross_attention(w: Weights, face: Tensor, person: Tensor) -> Tensor:
    n, dim, side, _ = face.shape
    q_f, k_f, v_f = conv(w.at("qkv_f"), face).flatten(2).chunk(3, 1)
    q_p, k_p, v_p = conv(w.at("qkv_p"), person).flatten(2).chunk(3, 1)
    outputs = []
    for q, k, v in ((q_f, k_p, v_p), (q_p, k_f, v_f)):
        logits = torch.einsum("ncq,nck->nqk", q, k) * dim**-0.5
        logits = logits + relative_logits(w.at("pos_embed"), q, side)
        outputs.append(torch.einsum("nqk,nck->ncq", logits.softmax(-1), v))
    x = torch.cat(outputs, 1).reshape(n, 2 * dim, side, side)
    x = F.layer_norm(x, x.shape[1:], w["norm.weight"], w["norm.bias"])
    return conv(w.at("mlp.fc2"), F.gelu(conv(w.at("mlp.fc1"), x)))


def relative_logits(w: Weights, q: Tensor, side: int) -> Tensor:
    """Computes the logits of one query position at a time, from all row and column offsets."""
    logits = q.new_empty(len(q), side * side, side * side)
    for row in range(side):
        for column in range(side):
            query = q[:, :, row * side + column]
            rows = query @ w["height_rel"][side - 1 - row : 2 * side - 1 - row].T
            columns = query @ w["width_rel"][side - 1 - column : 2 * side - 1 - column].T
            logits[:, row * side + column] = (rows[:, :, None] + columns[:, None, :]).flatten(1)
    return logits


def outlook(w: Weights, x: Tensor, heads: int) -> Tensor:
    n, height, width, dim = x.shape
    windows = F.unfold(linear(w.at("v"), x).permute(0, 3, 1, 2), 3, padding=1, stride=2)
    count = windows.shape[-1]
    windows = windows.reshape(n, heads, dim // heads, 9, count)
    center = F.avg_pool2d(x.permute(0, 3, 1, 2), 2, 2, ceil_mode=True).permute(0, 2, 3, 1)
    logits = linear(w.at("attn"), center).reshape(n, count, heads, 9, 9)
    weights = (logits * (dim // heads) ** -0.5).softmax(-1)
    mixed = torch.einsum("nwhij,nhdjw->nhdiw", weights, windows).reshape(n, dim * 9, count)
    folded = F.fold(mixed, (height, width), 3, padding=1, stride=2)
    return linear(w.at("proj"), folded.permute(0, 2, 3, 1))


def self_attention(w: Weights, x: Tensor, heads: int) -> Tensor:
    n, height, width, dim = x.shape
    qkv = linear(w.at("qkv"), x.flatten(1, 2)).chunk(3, -1)
    q, k, v = (split_heads(part, heads) for part in qkv)
    mixed = F.scaled_dot_product_attention(q, k, v)
    return linear(w.at("proj"), mixed.transpose(1, 2).reshape(n, height, width, dim))


def class_attention(w: Weights, x: Tensor, heads: int) -> Tensor:
    projected = linear(w.at("q"), x[:, :1]), *linear(w.at("kv"), x).chunk(2, -1)
    q, k, v = (split_heads(part, heads) for part in projected)
    mixed = F.scaled_dot_product_attention(q, k, v)
    return linear(w.at("proj"), mixed.transpose(1, 2).flatten(2))


def split_heads(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def mlp(w: Weights, x: Tensor) -> Tensor:
    return linear(w.at("fc2"), F.gelu(linear(w.at("fc1"), x)))


def norm(w: Weights, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w["weight"], w["bias"])


def linear(w: Weights, x: Tensor) -> Tensor:
    return F.linear(x, w["weight"], w.get("bias"))


def conv(w: Weights, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    return F.conv2d(x, w["weight"], w.get("bias"), stride=stride, padding=padding)
