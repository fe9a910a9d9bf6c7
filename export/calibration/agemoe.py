"""The fusion in the form that AgeMoE's authors published, fitted on labeled faces.

Each expert's corrector is a ReLU network of one number, clamped at 0 from below; the gate is a
softmax of a linear function of all raw predictions (`published`, `runtime.fusion.LinearGate`). All
parameters are fitted together by L-BFGS on Huber's loss of the fused error, plus a share of each
corrected prediction's own loss, so that every corrector is right where other experts are missing.
Penalties on bends of the correctors and on slopes of the gate are chosen by cross-validation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax

from export.calibration.folds import Folds
from export.calibration.published import LARGEST_RAW_YEARS, corrector_table
from export.calibration.tables import huber, thinned
from runtime.fusion import AGE_GRID, ExpertTable, Floats, FusionTables, LinearGate

HIDDEN_UNITS = 16
"""As published."""
_HUBER_YEARS = 3.0
_ALONE_SHARE = 0.3
"""Weight of the corrected predictions' own losses, divided among the experts."""
_SCALE_YEARS = 25.0
_MOST_FACES = 10_000
_STEPS = 150


@dataclass(frozen=True, slots=True)
class AgemoeModel:
    """Penalties of a fit, in faces; more faces loosen them."""

    bends: float
    """On changes of a corrector's slope."""
    slopes: float
    """On the gate's dependence on the predictions."""

    def __str__(self) -> str:
        """The model's name in reports."""
        return f"linear gate, penalties {self.bends:g} and {self.slopes:g}"


AGEMOE_MODELS = (AgemoeModel(30.0, 30.0), AgemoeModel(100.0, 100.0), AgemoeModel(10.0, 3.0))
"""The models that compete; the first is taken where they are equal."""


def choose_agemoe(predictions_years: Floats, age_years: Floats, folds: Folds) -> AgemoeModel:
    """Returns the model with the smallest fused error on held-out faces, (N, E) and (N,)."""
    names = [str(column) for column in range(predictions_years.shape[1])]

    def held_out_error(model: AgemoeModel) -> float:
        total = 0.0
        for fold in np.unique(folds):
            held = folds == fold
            tables = fit_agemoe(names, predictions_years[~held], age_years[~held], model)
            fused = tables.fuse(names, predictions_years[held]).age_years
            total += float(np.abs(fused - age_years[held]).sum())
        return total

    return min(AGEMOE_MODELS, key=held_out_error)


def fit_agemoe(
    names: Sequence[str], predictions_years: Floats, age_years: Floats, model: AgemoeModel
) -> FusionTables:
    """Fits correctors and gate to (N, E) raw predictions and (N,) true ages."""
    rows = thinned(len(age_years), _MOST_FACES, seed=0)
    raw, age = predictions_years[rows], age_years[rows]
    start = _start(raw, age)
    objective = _objective(raw / _SCALE_YEARS, age, model)
    options = {"maxiter": _STEPS, "ftol": 1e-7}
    found = minimize(objective, start.flat(), jac=True, method="L-BFGS-B", options=options)
    return _tables(names, _Parameters.of(np.asarray(found.x), raw.shape[1]))


@dataclass(frozen=True, slots=True, eq=False)
class _Parameters:
    """Predictions enter in units of `_SCALE_YEARS`, corrected ones leave in years."""

    hidden_weight: Floats
    """(E, H)"""
    hidden_bias: Floats
    """(E, H)"""
    weight: Floats
    """(E, H)"""
    bias: Floats
    """(E,)"""
    slopes: Floats
    """(E, E)"""
    gate_bias: Floats
    """(E,)"""

    def flat(self) -> Floats:
        return np.concatenate([getattr(self, name).ravel() for name in self.__slots__])

    @classmethod
    def of(cls, values: Floats, experts: int) -> _Parameters:
        shapes = [(experts, HIDDEN_UNITS)] * 3 + [(experts,), (experts, experts), (experts,)]
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
        parts = zip(np.split(values, ends), shapes, strict=True)
        return cls(*(part.reshape(shape) for part, shape in parts))


def _start(raw: Floats, age: Floats) -> _Parameters:
    """Identity correctors with knots at the predictions' quantiles; weights by precision."""
    experts = raw.shape[1]
    knots = np.quantile(raw, np.linspace(0.0, 0.95, HIDDEN_UNITS - 1), axis=0).T / _SCALE_YEARS
    weight = np.zeros((experts, HIDDEN_UNITS))
    weight[:, 0] = _SCALE_YEARS  # the first unit passes every prediction from 0 years on
    errors = np.abs(raw - age[:, None]).mean(axis=0)
    return _Parameters(
        hidden_weight=np.ones((experts, HIDDEN_UNITS)),
        hidden_bias=np.column_stack([np.zeros(experts), -knots]),
        weight=weight,
        bias=np.median(age[:, None] - raw, axis=0),
        slopes=np.zeros((experts, experts)),
        gate_bias=-2.0 * np.log(np.maximum(errors, 0.1)),
    )


def _objective(
    scaled: Floats, age: Floats, model: AgemoeModel
) -> Callable[[Floats], tuple[float, Floats]]:
    """Returns loss and gradient as a function of the flat parameters."""
    faces, experts = scaled.shape

    def objective(values: Floats) -> tuple[float, Floats]:
        p = _Parameters.of(values, experts)
        inner = scaled[:, :, None] * p.hidden_weight + p.hidden_bias  # (N, E, H)
        hidden = np.maximum(inner, 0.0)
        output = (hidden * p.weight).sum(axis=2) + p.bias
        corrected = np.maximum(output, 0.0)
        weights = softmax(scaled @ p.slopes.T + p.gate_bias, axis=1)
        fused = (weights * corrected).sum(axis=1)

        loss, slope = huber(fused - age, _HUBER_YEARS)
        own_loss, own_slope = huber(corrected - age[:, None], _HUBER_YEARS)
        share = _ALONE_SHARE / experts
        to_logits = weights * (corrected - fused[:, None]) * slope[:, None]
        to_output = (weights * slope[:, None] + share * own_slope) * (output > 0.0)
        to_inner = to_output[:, :, None] * p.weight * (inner > 0.0)

        bends = p.weight[:, 1:] / _SCALE_YEARS
        value = float(loss.sum()) + share * float(own_loss.sum())
        value += model.bends * float((bends**2).sum()) + model.slopes * float((p.slopes**2).sum())
        to_weight = (to_output[:, :, None] * hidden).sum(axis=0)
        to_weight[:, 1:] += 2.0 * model.bends * bends / _SCALE_YEARS
        gradient = _Parameters(
            hidden_weight=(to_inner * scaled[:, :, None]).sum(axis=0),
            hidden_bias=to_inner.sum(axis=0),
            weight=to_weight,
            bias=to_output.sum(axis=0),
            slopes=to_logits.T @ scaled + 2.0 * model.slopes * p.slopes,
            gate_bias=to_logits.sum(axis=0),
        )
        return value / faces, gradient.flat() / faces

    return objective


def _tables(names: Sequence[str], p: _Parameters) -> FusionTables:
    """Tabulates the networks; rounded, since machines differ in the last bits."""
    experts = {}
    for index, name in enumerate(names):
        table = corrector_table(
            p.hidden_weight[index, :, None] / _SCALE_YEARS,
            p.hidden_bias[index],
            p.weight[index, None, :],
            p.bias[index, None],
        )
        knots, first = np.unique(np.round(table.knots_years, 4), return_index=True)
        experts[name] = ExpertTable(knots, np.round(table.bias_years[first], 4))
    slopes = np.round(p.slopes / _SCALE_YEARS, 7)
    gate = LinearGate(tuple(names), slopes, np.round(p.gate_bias, 5))
    return FusionTables(AGE_GRID, experts, gate, largest_raw_years=LARGEST_RAW_YEARS)
