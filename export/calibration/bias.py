"""Bias: the correction of one expert's raw prediction, a smooth function of that prediction alone.

Two models compete for each expert in cross-validation:

- `piecewise`: linear between nodes five years apart, with a penalty on squared second differences;
- `mlp`: the paper's mini-MLP (AgeMoE, MVA 2025): one input, eight tanh units, one output.

Both minimize Huber's loss of (true age - prediction - bias), so that single outliers do not bend
the curve. The table of either model is shrunk toward zero where predictions are rare and is flat
beyond the outermost ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import minimize

from export.calibration.folds import Folds
from export.calibration.tables import NODES, NodeWeights, huber, on_grid, roughness, thinned
from runtime.fusion import AGE_GRID, Floats

HUBER_YEARS = 2.0
_NEIGHBORHOOD_YEARS = 5.0
_HALF_TRUST_FACES = 1.0
"""A bias is halved where its neighborhood holds this many predictions."""
_UNITS, _MLP_FACES, _SCALE_YEARS = 8, 10_000, 25.0


@dataclass(frozen=True, slots=True)
class BiasModel:
    """A model of an expert's bias."""

    kind: Literal["piecewise", "mlp"]
    penalty: float
    """On bends (piecewise) or on weights (mlp), in faces."""

    def __str__(self) -> str:
        """The model's name in reports."""
        return f"{self.kind}, penalty {self.penalty:g}"


BIAS_MODELS = (
    *(BiasModel("piecewise", penalty) for penalty in (30.0, 10.0, 3.0)),
    BiasModel("mlp", 0.5),
)
"""The models that compete."""


def fit_bias(predicted_years: Floats, age_years: Floats, model: BiasModel) -> Floats:
    """Fits one expert's bias to its (N,) raw predictions; (101,) years to add, on the age grid."""
    fit = _piecewise if model.kind == "piecewise" else _mlp
    table = fit(predicted_years, age_years - predicted_years, model.penalty)
    return _shrunk(table, predicted_years)


def choose_bias(predicted_years: Floats, age_years: Floats, folds: Folds) -> BiasModel:
    """Returns the model with the smallest error on held-out faces of one expert, all (N,)."""

    def held_out_error(model: BiasModel) -> float:
        total = 0.0
        for fold in np.unique(folds):
            held = folds == fold
            table = fit_bias(predicted_years[~held], age_years[~held], model)
            bias = np.interp(predicted_years[held], AGE_GRID, table)
            total += float(np.abs(age_years[held] - predicted_years[held] - bias).sum())
        return total

    return min(BIAS_MODELS, key=held_out_error)


def _piecewise(predicted: Floats, target: Floats, penalty: float) -> Floats:
    """Returns a (101,) table, by iteratively reweighted least squares for Huber's loss."""
    nodes = NodeWeights.of(predicted)
    ridge = penalty * roughness() + 1e-6 * np.eye(len(NODES))
    table: Floats = np.zeros(len(NODES))
    for _ in range(30):
        errors = np.abs(target - nodes.values(table))
        weights = HUBER_YEARS / np.maximum(errors, HUBER_YEARS)
        matrix = nodes.normal_matrix(weights) + ridge
        update = np.asarray(np.linalg.solve(matrix, nodes.gather(weights * target)), np.float64)
        change, table = float(np.abs(update - table).max()), update
        if change < 1e-3:
            break
    return on_grid(table)


def _mlp(predicted: Floats, target: Floats, penalty: float) -> Floats:
    """Returns the (101,) table of a network with one hidden layer, fitted from a fixed start."""
    rows = thinned(len(predicted), _MLP_FACES, seed=0)
    inputs, targets = _scaled(predicted[rows]), target[rows]
    starts = np.linspace(inputs.min(), inputs.max(), _UNITS)
    start = np.concatenate([np.ones(_UNITS), -starts, np.zeros(_UNITS), [np.median(targets)]])
    parts = [_UNITS, 2 * _UNITS, 3 * _UNITS]

    def objective(parameters: Floats) -> tuple[float, Floats]:
        slopes, shifts, outputs, offset = np.split(parameters, parts)
        hidden = np.tanh(np.outer(inputs, slopes) + shifts)
        loss, slope = huber(hidden @ outputs + offset - targets, HUBER_YEARS)
        inner = np.outer(slope, outputs) * (1.0 - hidden**2)
        excess = np.concatenate([slopes - 1.0, np.zeros(_UNITS), outputs, [0.0]])
        gradient = np.concatenate(
            [inputs @ inner, inner.sum(axis=0), slope @ hidden, [slope.sum()]]
        )
        value = float(loss.sum()) + penalty * float(excess @ excess)
        return value / len(inputs), (gradient + 2.0 * penalty * excess) / len(inputs)

    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 60})
    slopes, shifts, outputs, offset = np.split(found.x, parts)
    hidden = np.tanh(np.outer(_scaled(AGE_GRID), slopes) + shifts)
    return np.asarray(hidden @ outputs + offset)


def _scaled(predicted: Floats) -> Floats:
    return np.asarray((np.clip(predicted, AGE_GRID[0], AGE_GRID[-1]) - 50.0) / _SCALE_YEARS)


def _shrunk(table: Floats, predicted: Floats) -> Floats:
    """Shrinks a (101,) table toward zero where predictions are rare; flat beyond the outermost."""
    ordered = np.sort(predicted)
    known = np.clip(AGE_GRID, ordered[0], ordered[-1])
    near = np.searchsorted(ordered, known + _NEIGHBORHOOD_YEARS, side="right")
    near -= np.searchsorted(ordered, known - _NEIGHBORHOOD_YEARS, side="left")
    trust = near / (near + _HALF_TRUST_FACES)
    return np.asarray(trust * np.interp(known, AGE_GRID, table))
