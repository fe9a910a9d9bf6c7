"""Bias: what to add to one expert's reading, as a smooth function of that reading alone.

Two forms compete, expert by expert, and cross-validation says which one serves:

- `piecewise`: linear between nodes five years apart, the squared second differences penalized;
- `mlp`: the paper's mini-MLP (AgeMoE, MVA 2025), one number in, eight tanh units, one number out.

Both minimize Huber's loss of (true age - reading - bias), so that single wild readings do not
bend the curve. Whatever the form, the table is then drawn towards zero where few readings lie and
kept flat beyond the outermost ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import minimize

from export.calibration.folds import Folds
from export.calibration.tables import (
    AGE_GRID,
    NODES,
    NodeWeights,
    huber,
    on_grid,
    roughness,
    thinned,
)
from runtime.fusion import Floats

Form = Literal["piecewise", "mlp"]

HUBER_YEARS = 2.0
_DOUBT_FACES = 1.0
"""A bias is halved where only so many readings lie within the neighborhood."""
_NEIGHBORHOOD_YEARS = 5.0
_UNITS = 8
_MLP_FACES = 10_000
_SCALE_YEARS = 25.0


@dataclass(frozen=True, slots=True)
class BiasModel:
    """One way to fit a bias."""

    form: Form
    strength: float
    """Penalty on bends (piecewise) or on weights (mlp), in faces."""

    def __str__(self) -> str:
        """The form as reports name it."""
        return f"{self.form}, penalty {self.strength:g}"


BIAS_MODELS = (
    *(BiasModel("piecewise", strength) for strength in (30.0, 10.0, 3.0)),
    BiasModel("mlp", 0.5),
)
"""The contestants."""


def fit_bias(reading_years: Floats, age_years: Floats, form: BiasModel) -> Floats:
    """Fits one expert's bias.

    Args:
        reading_years: (N,) what the expert said.
        age_years: (N,) true ages.
        form: how to fit.

    Returns:
        (101,) years to add, on the age grid, by the expert's reading.
    """
    fit = _piecewise if form.form == "piecewise" else _mlp
    table = fit(reading_years, age_years - reading_years, form.strength)
    return _settled(table, reading_years)


def choose_bias(reading_years: Floats, age_years: Floats, folds: Folds) -> BiasModel:
    """The form with the smallest mean absolute error on held-out faces.

    Args:
        reading_years: (N,) what the expert said.
        age_years: (N,) true ages.
        folds: (N,) the fold of each face.
    """
    errors = [_held_out_error(reading_years, age_years, folds, form) for form in BIAS_MODELS]
    return BIAS_MODELS[int(np.argmin(errors))]


def _held_out_error(
    reading: Floats,
    age: Floats,
    folds: Folds,
    form: BiasModel,
) -> float:
    total = 0.0
    for fold in np.unique(folds):
        held = folds == fold
        table = fit_bias(reading[~held], age[~held], form)
        missed = age[held] - reading[held] - np.interp(reading[held], AGE_GRID, table)
        total += float(np.abs(missed).sum())
    return total / len(age)


def _piecewise(reading: Floats, missing: Floats, strength: float) -> Floats:
    """Iteratively reweighted least squares for Huber's loss; (101,) on the grid."""
    nodes = NodeWeights.of(reading)
    penalty = strength * roughness() + 1e-6 * np.eye(len(NODES))
    table: Floats = np.zeros(len(NODES))
    for _ in range(30):
        errors = np.abs(missing - nodes.values(table))
        weights = HUBER_YEARS / np.maximum(errors, HUBER_YEARS)
        matrix = nodes.normal_matrix(weights) + penalty
        update = np.asarray(np.linalg.solve(matrix, nodes.gather(weights * missing)), np.float64)
        change = float(np.abs(update - table).max())
        table = update
        if change < 1e-3:
            break
    return on_grid(table)


def _mlp(reading: Floats, missing: Floats, strength: float) -> Floats:
    """A network of one hidden layer, from a fixed start; (101,) on the grid."""
    rows = thinned(len(reading), _MLP_FACES, seed=0)
    inputs, targets = _scaled(reading[rows]), missing[rows]
    starts = np.linspace(inputs.min(), inputs.max(), _UNITS)
    start = np.concatenate([np.ones(_UNITS), -starts, np.zeros(_UNITS), [np.median(targets)]])

    def objective(parameters: Floats) -> tuple[float, Floats]:
        slopes, shifts, outputs, offset = np.split(parameters, [_UNITS, 2 * _UNITS, 3 * _UNITS])
        hidden = np.tanh(np.outer(inputs, slopes) + shifts)
        loss, pull = huber(hidden @ outputs + offset - targets, HUBER_YEARS)
        through = np.outer(pull, outputs) * (1.0 - hidden**2)
        excess = np.concatenate([slopes - 1.0, np.zeros(_UNITS), outputs, [0.0]])
        gradient = np.concatenate(
            [inputs @ through, through.sum(axis=0), pull @ hidden, [pull.sum()]]
        )
        value = float(loss.sum()) + strength * float(excess @ excess)
        return value / len(inputs), (gradient + 2.0 * strength * excess) / len(inputs)

    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 60})
    slopes, shifts, outputs, offset = np.split(found.x, [_UNITS, 2 * _UNITS, 3 * _UNITS])
    hidden = np.tanh(np.outer(_scaled(AGE_GRID), slopes) + shifts)
    return np.asarray(hidden @ outputs + offset)


def _scaled(reading: Floats) -> Floats:
    return np.asarray((np.clip(reading, AGE_GRID[0], AGE_GRID[-1]) - 50.0) / _SCALE_YEARS)


def _settled(table: Floats, reading: Floats) -> Floats:
    """Draws a table towards zero where readings are rare; flat beyond the outermost readings."""
    readings = np.sort(reading)
    known = np.clip(AGE_GRID, readings[0], readings[-1])
    near = np.searchsorted(readings, known + _NEIGHBORHOOD_YEARS, side="right")
    near -= np.searchsorted(readings, known - _NEIGHBORHOOD_YEARS, side="left")
    trust = near / (near + _DOUBT_FACES)
    return np.asarray(trust * np.interp(known, AGE_GRID, table))
