"""face-api.js's network in plain NumPy, and its weights in TensorFlow.js's format.

Written from the operations of face-api.js (src/xception/TinyXception.ts, src/ageGenderNet), with
TensorFlow's formula for `same` padding; it shares no code with the network under test.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAME = "age_gender_model-weights_manifest.json"
MEAN = np.array([122.782, 117.001, 104.298], np.float32)
Weights = Mapping[str, NDArray[np.float32]]
Maps = NDArray[Any]


def shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of all weights, by name and in the published order."""
    found: dict[str, tuple[int, ...]] = {}

    def conv(name: str, side: int, channels: int, outputs: int) -> None:
        found[f"{name}/filters"] = (side, side, channels, outputs)
        found[f"{name}/bias"] = (outputs,)

    def separable(name: str, channels: int, outputs: int) -> None:
        found[f"{name}/depthwise_filter"] = (3, 3, channels, 1)
        found[f"{name}/pointwise_filter"] = (1, 1, channels, outputs)
        found[f"{name}/bias"] = (outputs,)

    def reduction(name: str, channels: int, outputs: int) -> None:
        separable(f"{name}/separable_conv0", channels, outputs)
        separable(f"{name}/separable_conv1", outputs, outputs)
        conv(f"{name}/expansion_conv", 1, channels, outputs)

    conv("entry_flow/conv_in", 3, 3, 32)
    reduction("entry_flow/reduction_block_0", 32, 64)
    reduction("entry_flow/reduction_block_1", 64, 128)
    for block in range(2):
        for index in range(3):
            separable(f"middle_flow/main_block_{block}/separable_conv{index}", 128, 128)
    reduction("exit_flow/reduction_block", 128, 256)
    separable("exit_flow/separable_conv", 256, 512)
    for name, outputs in (("age", 1), ("gender", 2)):
        found[f"fc/{name}/weights"] = (512, outputs)
        found[f"fc/{name}/bias"] = (outputs,)
    return found


def write_weights(folder: Path, seed: int = 0) -> tuple[Path, Weights]:
    """Writes random weights, all but the biases quantized, in two files; returns their values."""
    rng = np.random.default_rng(seed)
    entries: list[dict[str, Any]] = []
    stored: list[bytes] = []
    values: dict[str, NDArray[np.float32]] = {}
    for name, shape in shapes().items():
        entry: dict[str, Any] = {"name": name, "shape": list(shape), "dtype": "float32"}
        if name.endswith("bias"):
            values[name] = rng.normal(0.0, 0.05, shape).astype(np.float32)
            stored.append(values[name].tobytes())
        else:
            inputs = np.prod(shape[:2]) if "depthwise" in name else np.prod(shape[:-1])
            reach = float(np.sqrt(6.0 / inputs))
            codes = rng.integers(0, 256, shape, np.uint8)
            entry["quantization"] = {"dtype": "uint8", "scale": 2 * reach / 255, "min": -reach}
            values[name] = (codes * (2 * reach / 255) - reach).astype(np.float32)
            stored.append(codes.tobytes())
        entries.append(entry)
    data = b"".join(stored)
    names = [f"age_gender_model-shard{index}" for index in (1, 2)]
    (folder / names[0]).write_bytes(data[:1000])
    (folder / names[1]).write_bytes(data[1000:])
    (folder / NAME).write_text(json.dumps([{"weights": entries, "paths": names}]))
    return folder / NAME, values


def forward(faces: NDArray[np.uint8], weights: Weights) -> tuple[Maps, Maps]:
    """Maps uint8 (N, 112, 112, 3) to ages (N,) and gender probabilities (N, 2), male first."""

    def conv(x: Maps, name: str, stride: int) -> Maps:
        filters = weights[f"{name}/filters"]
        windows = _windows(x, filters.shape[0], stride, 0.0)
        out: Maps = np.einsum("nhwijc,ijco->nhwo", windows, filters, optimize=True)
        out += weights[f"{name}/bias"]
        return out

    def separable(x: Maps, name: str) -> Maps:
        windows = _windows(x, 3, 1, 0.0)
        each = np.einsum("nhwijc,ijc->nhwc", windows, weights[f"{name}/depthwise_filter"][..., 0])
        out: Maps = each @ weights[f"{name}/pointwise_filter"][0, 0] + weights[f"{name}/bias"]
        return out

    def reduction(x: Maps, name: str, *, activate: bool = True) -> Maps:
        out = separable(_relu(x) if activate else x, f"{name}/separable_conv0")
        out = separable(_relu(out), f"{name}/separable_conv1")
        pooled: Maps = _windows(out, 3, 2, -np.inf).max(axis=(3, 4))
        pooled += conv(x, f"{name}/expansion_conv", 2)
        return pooled

    x = _relu(conv((faces.astype(np.float32) - MEAN) / 255, "entry_flow/conv_in", 2))
    x = reduction(x, "entry_flow/reduction_block_0", activate=False)
    x = reduction(x, "entry_flow/reduction_block_1")
    for block in range(2):
        out = x
        for index in range(3):
            out = separable(_relu(out), f"middle_flow/main_block_{block}/separable_conv{index}")
        x = x + out
    x = reduction(x, "exit_flow/reduction_block")
    x = _relu(separable(x, "exit_flow/separable_conv")).mean(axis=(1, 2))
    ages = x @ weights["fc/age/weights"] + weights["fc/age/bias"]
    logits = x @ weights["fc/gender/weights"] + weights["fc/gender/bias"]
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return ages[:, 0], exponentials / exponentials.sum(axis=1, keepdims=True)


def _relu(x: Maps) -> Maps:
    return np.maximum(x, 0.0)


def _windows(x: Maps, side: int, stride: int, fill: float) -> Maps:
    """Returns (N, H', W', side, side, C) under TensorFlow's `same` padding."""
    outputs = [-(-size // stride) for size in x.shape[1:3]]
    pads = [(0, 0)]
    for size, output in zip(x.shape[1:3], outputs, strict=True):
        total = max((output - 1) * stride + side - size, 0)
        pads.append((total // 2, total - total // 2))
    padded = np.pad(x, [*pads, (0, 0)], constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
    return windows[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)
