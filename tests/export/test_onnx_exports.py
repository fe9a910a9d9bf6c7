"""Networks that PyTorch exports for one batch size, and public files that come with `onnx`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from export.experts.onnx_file.wrapper import external_expert
from export.graph.checks import check_graph
from runtime.geometry import Geometry
from tests.export.tiny_onnx import SIDE, image, settings

YEARS = 0.002
LIGHT = sorted((Path(onnx.__file__).parent / "backend" / "test" / "data" / "light").glob("*.onnx"))


class Attention(nn.Module):
    """A transformer layer over patches, the batch first or second."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=batch_first)
        self.head = nn.Linear(32, 1)
        self.first = batch_first

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        x = self.patches(picture).flatten(2)
        x = self.layer(x.permute(0, 2, 1) if self.first else x.permute(2, 0, 1))
        return torch.as_tensor(self.head(x.mean(dim=1 if self.first else 0)))


class Recurrent(nn.Module):
    """An LSTM over patches, whose initial state holds the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.layer = nn.LSTM(32, 16, batch_first=True)
        self.head = nn.Linear(16, 1)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        x, _ = self.layer(self.patches(picture).flatten(2).permute(0, 2, 1))
        return torch.as_tensor(self.head(x[:, -1]))


def vision_transformer() -> nn.Module:
    import timm

    name = "vit_tiny_patch16_224"
    module: nn.Module = timm.create_model(name, img_size=SIDE, patch_size=8, depth=2, num_classes=1)
    return module


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "attention": lambda: Attention(batch_first=False),
    "attention, batch first": lambda: Attention(batch_first=True),
    "recurrent": Recurrent,
    "vision transformer": vision_transformer,
}


def export(network: nn.Module, path: Path, batch: int, *, traced: bool) -> None:
    """Exports for one batch size, by PyTorch's present exporter or its former one."""
    example = (torch.zeros(batch, 3, SIDE, SIDE),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if traced:
            torch.onnx.export(network, example, path, dynamo=False, opset_version=14)
        else:
            torch.onnx.export(network, example, path, dynamo=True, verbose=False)


CASES = [
    ("attention", 1, True),
    ("recurrent", 1, True),
    *[
        pytest.param(name, batch, traced, marks=pytest.mark.slow)
        for name in NETWORKS
        for batch in (1, 2)
        for traced in (False, True)
        if (name, batch, traced) not in {("recurrent", 2, True), ("attention", 1, True)}
    ],
]
"""A traced LSTM for two faces expands a constant of two faces, which is refused with its node."""


@pytest.mark.conversion
@pytest.mark.parametrize(("name", "batch", "traced"), CASES)
def test_exports_for_one_batch(tmp_path: Path, name: str, batch: int, traced: bool) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    export(network, tmp_path / "given.onnx", batch, traced=traced)
    given = settings(head={"years_per_unit": 10.0})
    expert = external_expert(tmp_path / "given.onnx", given, Geometry())
    path = tmp_path / "wrapped.onnx"
    expert.write_onnx(path)
    check_graph(path, expert.signature)
    faces = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), np.uint8)
    found = ort.InferenceSession(str(path)).run(["age_years"], {"face": faces})[0]
    with torch.inference_mode():
        wanted = network(torch.from_numpy(image(faces)))[:, 0].numpy() * 10
    np.testing.assert_allclose(found, wanted, atol=YEARS)
    assert np.ptp(found) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("source", LIGHT, ids=lambda path: path.stem)
def test_files_of_the_model_zoo(tmp_path: Path, source: Path) -> None:
    """IR 3 with weights among the inputs, opset 9, batch 1 in the targets of Reshape."""
    given = settings(head={"years_per_unit": 1000.0}, columns=(5, 5), height=224, width=224)
    expert = external_expert(source, given, Geometry())
    path = tmp_path / "wrapped.onnx"
    expert.write_onnx(path)
    check_graph(path, expert.signature)
    faces = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8)
    found = ort.InferenceSession(str(path)).run(["age_years"], {"face": faces})[0]
    np.testing.assert_allclose(found, expert.reference({"face": faces})["age_years"], atol=YEARS)
