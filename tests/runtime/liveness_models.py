"""Made-up liveness models of a kilobyte: `weights` times the mean of each input channel; noise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.parser import parse_model

from runtime.files import sha256_of

WEIGHTS = ((4.0, -1.0, 0.5), (-2.0, 3.0, 1.0))
"""Of the red, green and blue channel, for each value of the output."""
BIAS = (0.25, -0.5)
SQUARE = (10.0, 20.0, 32.0, 32.0)
"""The box of a face in `noise`."""


def noise(seed: int = 1, height: int = 120, width: int = 100) -> NDArray[np.uint8]:
    """Returns noise with another brightness in each channel and at each place."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(0.2, 1.0, width)[:, np.newaxis] * np.array([1.0, 0.6, 0.3])
    pixels: NDArray[np.uint8] = (rng.integers(0, 256, (height, width, 3)) * slope).astype(np.uint8)
    return pixels


def write_model(
    path: Path,
    *,
    side: int = 32,
    layout: str = "NCHW",
    weights: Sequence[Sequence[float]] = WEIGHTS,
    bias: Sequence[float] = BIAS,
    outputs: Sequence[str] = ("scores",),
    rows: str = "N",
) -> Path:
    """Writes a model whose output is (N, len(weights))."""
    shape = f"{rows},3,{side},{side}" if layout == "NCHW" else f"{rows},{side},{side},3"
    axes = "2, 3" if layout == "NCHW" else "1, 2"
    count = len(weights)
    columns = np.array(weights, np.float64).T  # (3, count)
    listed = ", ".join(f"float[{rows},{count}] {name}" for name in outputs)
    copies = "\n".join(f"{name} = Add(times, bias)" for name in outputs)
    text = f"""<ir_version: 10, opset_import: ["" : 18]>
    tiny (float[{shape}] input) => ({listed})
    <float[3, {count}] columns = {{{", ".join(map(str, columns.ravel()))}}},
     float[{count}] bias = {{{", ".join(map(str, bias))}}}, int64[2] axes = {{{axes}}}>
    {{
       mean = ReduceMean <keepdims = 0> (input, axes)
       times = MatMul(mean, columns)
       {copies}
    }}"""
    onnx.save(parse_model(text), path)
    return path


def write_description(model: Path, **changes: Any) -> Path:
    """Writes the description of a model beside it; a change to None leaves a key out."""
    values: dict[str, Any] = {
        "checkpoint": model.name,
        "sha256": sha256_of(model),
        "input_size": 32,
        "color_order": "RGB",
        "scale": 1.0 / 255.0,
        "head": "softmax",
        "column": 0,
        "threshold": 0.5,
    } | changes
    path = model.with_suffix(".toml")
    path.write_text(toml(values), encoding="utf-8")
    return path


def toml(values: Mapping[str, Any]) -> str:
    """Writes strings, numbers, booleans, lists and inline tables as TOML."""
    given = {key: value for key, value in values.items() if value is not None}
    return "".join(f"{key} = {_value(value)}\n" for key, value in given.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)


def twin_values(
    face: NDArray[np.uint8],
    *,
    scale: float = 1.0 / 255.0,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    bgr: bool = False,
    weights: Sequence[Sequence[float]] = WEIGHTS,
    bias: Sequence[float] = BIAS,
) -> list[float]:
    """Computes the output for a face, uint8 RGB (H, W, 3), number by number in float64."""
    means = [float(np.mean(face[:, :, channel], dtype=np.float64)) for channel in range(3)]
    if bgr:
        means.reverse()
    normal = [(means[c] * scale - mean[c]) / std[c] for c in range(3)]
    return [
        sum(normal[c] * row[c] for c in range(3)) + b for row, b in zip(weights, bias, strict=True)
    ]
