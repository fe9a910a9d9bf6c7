"""Small ONNX files as other projects publish them, and the same network in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.build.parity import check_parity
from export.config.settings import AgeHead, Normalization
from export.experts.onnx_file.settings import OnnxSettings
from export.experts.onnx_file.wrapper import external_expert
from export.faces.verification import verification_images
from export.graph.checks import check_graph
from runtime.geometry import Geometry
from runtime.manifest import InputSpec

SIDE = 32
YEARS = 0.002
"""Tolerance: FP32 arithmetic of two libraries."""
UNIT = {"years_per_unit": 30.0, "years_offset": 40.0}
GRID = (0.0, 10.0, 30.0, 60.0, 90.0)
FEATURES = 8
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class Tiny:
    """Convolution, ReLU, mean over the picture and a linear layer."""

    outputs: int
    channels: int = 3
    seed: int = 0
    scale: float = 1.0
    weights: dict[str, NDArray[np.float32]] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        shapes = {
            "w": (FEATURES, self.channels, 3, 3),
            "hw": (FEATURES, self.outputs),
            "hb": (self.outputs,),
        }
        self.weights = {
            name: (rng.normal(size=shape) * 0.4 * self.scale ** (name != "w")).astype(np.float32)
            for name, shape in shapes.items()
        }

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """The last layer by PyTorch, (N, outputs), from (N, C, H, W)."""
        w, hw, hb = (torch.from_numpy(self.weights[name]) for name in ("w", "hw", "hb"))
        maps = torch.nn.functional.conv2d(torch.from_numpy(image), w, stride=2)
        return np.asarray((torch.relu(maps).mean(dim=(2, 3)) @ hw + hb).numpy())

    def tensors(self, dtype: Any = np.float32) -> list[TensorProto]:
        return [numpy_helper.from_array(a.astype(dtype), n) for n, a in self.weights.items()]


def body(last: Sequence[onnx.NodeProto] = (), source: str = "x") -> list[onnx.NodeProto]:
    """Nodes of a `Tiny`, up to `out`, or followed by others from `logits` to `out`."""
    end = "logits" if last else "out"
    return [
        helper.make_node("Conv", [source, "w"], ["c"], "conv", strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], "gap"),
        helper.make_node("Flatten", ["g"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "hw", "hb"], [end], "fc"),
        *last,
    ]


def model(
    tensors: Sequence[TensorProto],
    nodes: Sequence[onnx.NodeProto],
    *,
    batch: int | str | None = 1,
    channels: int = 3,
    kind: int = TensorProto.FLOAT,
    output_kind: int = TensorProto.FLOAT,
    shape: Sequence[int | str | None] | None = (),
    opset: int = 17,
    ir: int = 8,
    **changes: Any,
) -> onnx.ModelProto:
    """A model from `x` to `out`."""
    declared = [batch, channels, SIDE, SIDE] if shape == () else shape
    graph = helper.make_graph(
        list(nodes),
        "given",
        [helper.make_tensor_value_info("x", kind, declared)],
        [helper.make_tensor_value_info("out", output_kind, None)],
        list(tensors),
    )
    opsets = [helper.make_opsetid("", opset), *changes.pop("opsets", ())]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir, **changes)


def save(written: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "given.onnx"
    path.write_bytes(written.SerializeToString())
    return path


def settings(kind: str = "regression", **changes: Any) -> OnnxSettings:
    values: dict[str, Any] = {
        "height": SIDE,
        "width": SIDE,
        "normalization": Normalization(),
        "head": AgeHead(kind, **changes.pop("head", {})),
        "layout": "NCHW",
        "output": None,
        "probabilities": False,
    }
    if kind == "ordinal":
        values["first_age"] = 0.0
    return OnnxSettings(**{**values, **changes})


def image(faces: NDArray[np.uint8]) -> NDArray[np.float32]:
    """ImageNet's normalization, as the default settings: (N, 3, H, W)."""
    pixels = (faces.astype(np.float64) / 255.0 - MEAN) / STD
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32)


def softmax(logits: NDArray[Any], axis: int = -1) -> NDArray[np.float64]:
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=axis, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=axis, keepdims=True))


def sigmoid(logits: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(1.0 / (1.0 + np.exp(-logits.astype(np.float64))))


def toml(folder: Path, table: Mapping[str, object], name: str = "mine") -> Path:
    """Writes experts.toml with one expert of architecture onnx."""
    lines = [f"[experts.{name}]", "architecture = 'onnx'", "checkpoint = 'given.onnx'"]
    lines += [f"{key} = {_toml(value)}" for key, value in table.items()]
    path = folder / "experts.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def faces() -> NDArray[np.uint8]:
    """The verification faces: uint8 (N, SIDE, SIDE, 3)."""
    return verification_images((InputSpec("face", SIDE, SIDE, Geometry()),))["face"]


def ages(folder: Path, written: onnx.ModelProto, given: OnnxSettings) -> NDArray[Any]:
    """Wraps a file, verifies graph and parity as a build does, and predicts in one batch."""
    expert = external_expert(save(written, folder), given, Geometry())
    path = folder / "wrapped.onnx"
    expert.write_onnx(path)
    check_graph(path, expert.signature, tensorrt=False)
    images = verification_images(expert.signature.inputs)
    grid = expert.signature.age_grid if given.head.round_years else None
    precision = "fp16" if expert.signature.half_precision else "fp32"
    check_parity(path, precision, images, expert.reference(images), age_grid=grid)
    found = ort.InferenceSession(str(path)).run(["age_years"], dict(images))[0]
    return np.asarray(found)


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
