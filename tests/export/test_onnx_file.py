from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from export.build.parity import check_parity
from export.config.settings import AgeHead, Normalization
from export.errors import GraphError
from export.experts.onnx_file.settings import OnnxSettings
from export.experts.onnx_file.wrapper import external_expert
from export.faces.verification import verification_images
from export.graph.checks import check_graph
from export.variants.fp16 import fp16_from_fp32
from runtime.geometry import Geometry

pytestmark = pytest.mark.conversion

SIDE = 32


class Network(nn.Module):
    """A float network as published by other projects."""

    def __init__(self, outputs: int, layout: str, *, flat: bool, softmax: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.head = nn.Linear(8, outputs)
        self.layout, self.flat, self.softmax = layout, flat, softmax

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image if self.layout == "NCHW" else image.permute(0, 3, 1, 2)
        x = self.head(torch.relu(self.conv(x)).mean(dim=(2, 3)))
        x = torch.softmax(x, dim=1) if self.softmax else x
        return x.reshape(-1) if self.flat else x


def write(path: Path, network: Network, batch: int = 1) -> Path:
    shape = (batch, 3, SIDE, SIDE) if network.layout == "NCHW" else (batch, SIDE, SIDE, 3)
    program = torch.onnx.export(
        network.eval(),
        (torch.zeros(shape),),
        dynamo=True,
        opset_version=18,
        input_names=["data"],
        output_names=["fc1"],
        verbose=False,
    )
    assert program is not None
    onnx.save(program.model_proto, path)
    return path


def settings(**changes: Any) -> OnnxSettings:
    values: dict[str, Any] = {
        "height": SIDE,
        "width": SIDE,
        "normalization": Normalization(),
        "head": AgeHead(),
        "layout": "NCHW",
        "output": None,
        "probabilities": False,
    }
    return OnnxSettings(**{**values, **changes})


HEADS = {
    "one column": (1, {}, AgeHead("regression", years_per_unit=30.0, years_offset=50.0)),
    "flat": (1, {"flat": True}, AgeHead("regression", years_per_unit=100.0)),
    "logits": (5, {}, AgeHead(age_grid=(0.0, 10.0, 30.0, 60.0, 90.0))),
    "probabilities": (5, {"softmax": True}, AgeHead(age_grid=(0.0, 10.0, 30.0, 60.0, 90.0))),
}


def test_rounded_ages_of_a_given_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Network(5, "NCHW", flat=False, softmax=False)
    source = write(tmp_path / "given.onnx", network)
    head = AgeHead(age_grid=(0.0, 10.0, 30.0, 60.0, 90.0), round_years=True)
    expert = external_expert(source, settings(head=head), Geometry())
    path = tmp_path / "wrapped.onnx"
    expert.write_onnx(path)
    check_graph(path, expert.signature)
    images = verification_images(expert.signature.inputs)
    check_parity(path, "fp32", images, expert.reference(images), age_grid=head.age_grid)
    ages, shares = ort.InferenceSession(str(path)).run(None, dict(images))
    exact = np.asarray(shares, np.float64) @ np.array(head.age_grid)
    clear = np.abs(exact - np.floor(exact) - 0.5) > 1e-3
    np.testing.assert_array_equal(np.asarray(ages)[clear], np.around(exact)[clear])
    assert len(np.unique(ages)) > 1


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("head", HEADS)
def test_wrapped_files_match_the_given_ones(tmp_path: Path, layout: str, head: str) -> None:
    torch.manual_seed(0)
    outputs, shape, age_head = HEADS[head]
    network = Network(outputs, layout, **{"flat": False, "softmax": False, **shape})
    normalization = Normalization(1.0, (127.5, 120.0, 110.0), (128.0, 100.0, 90.0), "BGR")
    given = settings(
        normalization=normalization,
        head=age_head,
        layout=layout,
        probabilities=head == "probabilities",
    )
    expert = external_expert(write(tmp_path / "given.onnx", network), given, Geometry())
    path = tmp_path / "wrapped.onnx"
    expert.write_onnx(path)
    check_graph(path, expert.signature)
    images = verification_images(expert.signature.inputs)
    check_parity(path, "fp32", images, expert.reference(images))  # batches 1, 3, 7, 9
    # The reference is verified in turn by the PyTorch network on pixels normalized here.
    bgr = images["face"][..., ::-1].astype(np.float32)
    mean, std = (np.array(v, np.float32) for v in (normalization.mean, normalization.std))
    pixels = (bgr - mean) / std
    image = torch.from_numpy(pixels if layout == "NHWC" else pixels.transpose(0, 3, 1, 2))
    with torch.inference_mode():
        last = network(image.contiguous()).reshape(len(pixels), -1)
    if age_head.kind == "regression":
        wanted = last[:, 0] * age_head.years_per_unit + age_head.years_offset
    else:
        last = last if head == "probabilities" else torch.softmax(last, dim=1)
        wanted = last @ torch.tensor(age_head.age_grid)
    found = ort.InferenceSession(str(path)).run(["age_years"], dict(images))[0]
    np.testing.assert_allclose(found, wanted.numpy(), atol=2e-3)


def test_a_wrapped_file_has_an_fp16_variant(tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = write(tmp_path / "given.onnx", Network(101, "NCHW", flat=False, softmax=False))
    expert = external_expert(given, settings(), Geometry())
    single, half = tmp_path / "e.fp32.onnx", tmp_path / "e.fp16.onnx"
    expert.write_onnx(single)
    fp16_from_fp32(single, half)
    images = verification_images(expert.signature.inputs)
    check_parity(half, "fp16", images, expert.reference(images), single)


def test_the_graph_has_the_constants_of_the_settings(tmp_path: Path) -> None:
    given = write(tmp_path / "given.onnx", Network(3, "NCHW", flat=False, softmax=False))
    with pytest.raises(GraphError, match="Check `layout` and `input_size`"):
        external_expert(given, settings(height=48), Geometry())
    with pytest.raises(GraphError, match="Check `layout` and `input_size`"):
        external_expert(given, settings(layout="NHWC"), Geometry())
    with pytest.raises(
        GraphError, match=r"has outputs fc1; name the one with the age in `output`.*got 'age'"
    ):
        external_expert(given, settings(output="age"), Geometry())
    with pytest.raises(GraphError, match="has 3 values per face"):
        external_expert(given, settings(output="fc1"), Geometry())


@pytest.mark.parametrize("content", [b"", b"not onnx", b"\x08\x08"])
def test_files_that_are_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "given.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphError, match="is not a valid ONNX file"):
        external_expert(path, settings(), Geometry())


def test_two_inputs_are_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "given.onnx", Network(1, "NCHW", flat=False, softmax=False))
    model = onnx.load(path)
    second = onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, [1])
    model.graph.input.append(second)
    onnx.save(model, path)
    with pytest.raises(GraphError, match=r"has inputs \['data', 'mask'\], expected one image"):
        external_expert(path, settings(), Geometry())
