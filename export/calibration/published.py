"""Fusion as AgeMoE's authors published it: their PyTorch file becomes fusion tables.

Their estimator (AgeTransformer-VLM-based-Augmentation, `moe_estimator.py`, 2025) corrects each raw
prediction x_i with a network Linear(1, H), ReLU, Linear(H, 1), whose output is clamped at 0 from
below, and weights the results by softmax(A x + b), where a missing prediction enters as 0 years,
gets no weight, and the remaining weights are divided by their sum. Predictions over 150 years count
as missing. The corrector is piecewise linear, with a knot wherever a hidden unit switches and
wherever the output crosses 0, and is therefore exact in a table on these knots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from export.checkpoints.loading import load_checkpoint
from export.checkpoints.sources import find_checkpoint
from export.errors import CheckpointError
from runtime.files import sha256_of
from runtime.fusion import ExpertTable, Floats, FusionTables, LinearGate
from runtime.printing import bullets

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_RAW_YEARS = 150.0
"""The published program drops predictions above it."""
SMALLEST_RAW_YEARS = -150.0
"""First knot of a corrector; no expert predicts less."""
_LAYERS = ("0.weight", "0.bias", "2.weight", "2.bias")


def published_fusion(path: Path, names: Sequence[str]) -> FusionTables:
    """Reads the published fusion.

    Args:
        path: the authors' `best_dynamic_moe_model.pth` or a file of the same layout.
        names: experts in the order of the file's inputs; theirs is Janus-Pro, VGG16, MiVOLO,
            ResNet50.

    Returns:
        Tables with a linear gate and without intervals, bound to no checkpoints.

    Raises:
        CheckpointError: the file cannot be read, has another layout or other number of experts.
    """
    loaded = load_checkpoint(find_checkpoint(str(path)))
    state = {key: value.double().numpy() for key, value in _tensors(loaded.state).items()}
    _check_layout(path, state, len(names))
    experts = {
        name: corrector_table(*(state[f"expert_mlps.{i}.mlp.{layer}"] for layer in _LAYERS))
        for i, name in enumerate(names)
    }
    gate = LinearGate(tuple(names), state["gating.weight"], state["gating.bias"])
    oldest = max(float((t.knots_years + t.bias_years).max()) for t in experts.values())
    return FusionTables(
        np.arange(max(np.ceil(oldest), 1.0) + 1.0),
        experts,
        gate,
        largest_raw_years=LARGEST_RAW_YEARS,
        provenance={
            "method": "as published by AgeMoE's authors: ReLU correctors and a linear gate",
            "published_sha256": sha256_of(path),
            "knots": {name: len(table.knots_years) for name, table in experts.items()},
        },
    )


def describe_published(path: Path, tables: FusionTables) -> str:
    """Returns a few lines about the content of the published file."""
    gate = tables.gate
    if not isinstance(gate, LinearGate):
        raise TypeError("A published fusion has a linear gate.")
    lines = [f"{path}: {len(gate.names)} experts, linear gate, correctors as tables:"]
    for name, row, bias in zip(gate.names, gate.slopes, gate.bias, strict=True):
        table = tables.experts[name]
        at = ", ".join(
            f"{age} → {age + np.interp(age, table.knots_years, table.bias_years):.1f}"
            for age in (10, 30, 60)
        )
        slopes = " ".join(f"{slope:+.4f}" for slope in row)
        lines.append(
            f"  {name}: {len(table.knots_years)} knots, years {at}; gate {bias:+.3f} {slopes}"
        )
    return "\n".join(lines)


def corrector_table(
    hidden_weight: Floats, hidden_bias: Floats, weight: Floats, bias: Floats
) -> ExpertTable:
    """Tabulates max(0, W relu(V x + v) + b) - x, exactly, between the smallest and largest x.

    Args:
        hidden_weight: V, (H, 1).
        hidden_bias: v, (H,).
        weight: W, (1, H).
        bias: b, (1,).
    """

    def output(x: Floats) -> Floats:
        hidden = np.maximum(x[:, None] * hidden_weight[:, 0] + hidden_bias, 0.0)
        return np.asarray(hidden @ weight[0] + bias[0])

    moving = hidden_weight[:, 0] != 0.0
    switches = -hidden_bias[moving] / hidden_weight[moving, 0]
    inside = switches[(switches > SMALLEST_RAW_YEARS) & (switches < LARGEST_RAW_YEARS)]
    knots = np.unique([SMALLEST_RAW_YEARS, *inside, LARGEST_RAW_YEARS])
    left, right = output(knots[:-1]), output(knots[1:])
    crossing = left * right < 0.0
    share = left[crossing] / (left[crossing] - right[crossing])
    crossings = knots[:-1][crossing] + share * np.diff(knots)[crossing]
    knots = np.unique([*knots, *crossings])
    corrected = np.maximum(output(knots), 0.0)
    corrected[np.isin(knots, crossings)] = 0.0
    return ExpertTable(knots, corrected - knots)


def _tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if value.is_floating_point()}


def _check_layout(path: Path, state: Mapping[str, Floats], experts: int) -> None:
    """Compares names and shapes with the published layout and lists every difference."""
    found = len({key.split(".")[1] for key in state if key.startswith("expert_mlps.")})
    if found != experts:
        raise CheckpointError(
            f"{path} holds correctors of {found} experts, and --experts names {experts}. Name them "
            f"in the file's order; the published one is janus vgg16 mivolo resnet50."
        )
    width = len(state.get("expert_mlps.0.mlp.0.bias", ()))
    shapes = {"gating.weight": (experts, experts), "gating.bias": (experts,)}
    for i in range(experts):
        layers = zip(_LAYERS, ((width, 1), (width,), (1, width), (1,)), strict=True)
        shapes |= {f"expert_mlps.{i}.mlp.{layer}": shape for layer, shape in layers}
    problems = [
        f"{key}: {state[key].shape if key in state else 'missing'}, expected {shape}"
        for key, shape in shapes.items()
        if key not in state or state[key].shape != shape
    ]
    problems += [f"{key}: unknown" for key in sorted(set(state) - set(shapes))]
    if problems:
        raise CheckpointError(
            f"{path} is not a fusion as AgeMoE's authors published it:", *bullets(problems)
        )
