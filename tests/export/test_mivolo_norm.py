"""The norm over channels and positions against PyTorch's, in PyTorch and in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from export.config.contract import Signature
from export.experts.mivolo.blocks import WideNorm
from export.graph.conversion import onnx_from_module
from runtime.geometry import Geometry
from runtime.manifest import InputSpec

SHAPE = (384, 48, 48)
"""Of D1 at 384 pixels: 884,736 values."""
IMAGE = (512, 576, 3)
"""As many values."""
RELATIVE_TOLERANCE = 2e-6


class Normed(nn.Module):
    """A norm of pixels as values of `SHAPE`, spread as in a MiVOLO with random weights."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, image: Tensor) -> tuple[Tensor]:
        values = (image.float() * 0.008 - 0.5).reshape(-1, *SHAPE)
        return (self.norm(values).reshape(-1, 1, SHAPE[0] * SHAPE[1] * SHAPE[2]),)


def random_norm(kind: type[nn.LayerNorm], shape: tuple[int, ...]) -> nn.LayerNorm:
    norm = kind(shape)
    torch.manual_seed(0)
    nn.init.normal_(norm.weight, 1, 0.2)
    nn.init.normal_(norm.bias, 0, 0.2)
    return norm


def expected(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    weights = norm.weight.double(), norm.bias.double()
    return F.layer_norm(x.double(), x.shape[1:], *weights, norm.eps)


def scale_error(found: NDArray[np.float32], wanted: Tensor) -> float:
    """Returns by which share all values are too large: the error that shifts every age."""
    exact = wanted.detach().numpy().ravel()
    return float(abs((found.ravel() * exact).sum() / (exact * exact).sum() - 1))


@pytest.mark.parametrize("shape", [(2, 1, 1), (6, 5, 3), SHAPE])
@pytest.mark.parametrize(("mean", "deviation"), [(0, 1), (100, 1), (0.01, 0.003), (0, 0)])
def test_norm(shape: tuple[int, ...], mean: float, deviation: float) -> None:
    norm = random_norm(WideNorm, shape)
    x = mean + deviation * torch.randn(2, *shape)
    with torch.inference_mode():
        torch.testing.assert_close(norm(x).double(), expected(norm, x), rtol=0, atol=2e-4)


@pytest.mark.conversion
@pytest.mark.parametrize(
    ("kind", "accurate"),
    [pytest.param(WideNorm, True, id="ours"), pytest.param(nn.LayerNorm, False, id="layer-norm")],
)
def test_onnx_runtime_sums_accurately(
    kind: type[nn.LayerNorm], accurate: bool, tmp_path: Path
) -> None:
    """The second case shows what the first is for; when it fails, LayerNorm can be used again."""
    module = Normed(random_norm(kind, SHAPE)).eval()
    signature = Signature((InputSpec("image", *IMAGE[:2], Geometry()),), ("normed",))
    onnx_from_module(module, signature, tmp_path / "norm.onnx")
    image = np.random.default_rng(0).integers(0, 256, (2, *IMAGE), np.uint8)
    session = onnxruntime.InferenceSession(
        tmp_path / "norm.onnx", providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"image": image})
    values = (torch.from_numpy(image).float() * 0.008 - 0.5).reshape(-1, *SHAPE)
    wanted = expected(module.norm, values)
    errors = [scale_error(a, b) for a, b in zip(found, wanted, strict=True)]
    assert (max(errors) < RELATIVE_TOLERANCE) == accurate, errors
