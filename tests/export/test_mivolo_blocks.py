"""Each rewritten operator against timm's and PyTorch's, over sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.layers.bottleneck_attn import PosEmbedRel
from timm.models import volo
from torch import Tensor, nn

from export.experts.mivolo.blocks import (
    ClassAttention,
    OutlookAttention,
    RelativePosition,
    SelfAttention,
    window_matrix,
)

SIDES = [2, 4, 6, 10, 14, 28]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def outlook(side: int, heads: int = 2, dim: int = 8) -> OutlookAttention:
    return OutlookAttention(dim, heads, side)


def same_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Gives both modules the same random values, biases included."""
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    theirs.load_state_dict(ours.state_dict(), strict=True)


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("batch", [1, 3])
def test_windows_equal_those_of_unfold(side: int, batch: int) -> None:
    x = torch.randn(batch, side, side, 8)
    expected = F.unfold(x.permute(0, 3, 1, 2), 3, padding=1, stride=2)
    expected = expected.reshape(batch, 2, 4, 9, -1).permute(0, 4, 1, 3, 2)
    assert torch.equal(outlook(side).unfold(x.reshape(-1, 8)), expected)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("batch", [1, 3])
def test_summed_windows_equal_those_of_fold(side: int, batch: int) -> None:
    windows = torch.randn(batch, side**2 // 4, 2, 9, 4)
    columns = windows.permute(0, 2, 4, 3, 1).reshape(batch, 8 * 9, -1)
    expected = F.fold(columns, (side, side), 3, padding=1, stride=2).permute(0, 2, 3, 1)
    assert_close(outlook(side).fold(windows).reshape(expected.shape), expected)


@pytest.mark.parametrize("side", [1, 3, 7, 27])
def test_odd_sides_are_rejected(side: int) -> None:
    with pytest.raises(ValueError, match=f"even sides only, got {side}"):
        window_matrix(side)


@pytest.mark.parametrize("side", SIDES)
def test_outlook_attention_equals_that_of_timm(side: int) -> None:
    ours, theirs = outlook(side), volo.OutlookAttention(8, 2, stride=2)
    same_weights(ours, theirs)
    x = torch.randn(2, side, side, 8)
    assert_close(ours(x.reshape(-1, 8)).reshape(x.shape), theirs(x))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 3), (4, 6)])
def test_self_attention_equals_that_of_timm(height: int, width: int) -> None:
    ours, theirs = SelfAttention(8, 2, height * width), volo.Attention(8, 2)
    same_weights(ours, theirs)
    x = torch.randn(2, height, width, 8)
    assert_close(ours(x.reshape(-1, 8)).reshape(x.shape), theirs(x))


@pytest.mark.parametrize("tokens", [1, 5, 16])
def test_class_attention_equals_that_of_timm(tokens: int) -> None:
    ours, theirs = ClassAttention(8, 2, tokens), volo.ClassAttention(8, 2)
    same_weights(ours, theirs)
    x = torch.randn(2, 1 + tokens, 8)
    assert_close(ours(x[:, 0], x[:, 1:].reshape(-1, 8)), theirs(x)[:, 0])


@pytest.mark.parametrize("side", [1, 2, 5, 14, 28])
def test_relative_position_equals_that_of_timm(side: int) -> None:
    ours, theirs = RelativePosition(16, side), PosEmbedRel((side, side), 16, scale=1.0)
    same_weights(ours, theirs)
    q = torch.randn(2, side * side, 16)
    assert_close(ours(q), theirs(q))
