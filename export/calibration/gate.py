"""The gate: the weight of each expert by age.

A gate turns the corrected predictions c of a face into one age, in the two steps of
`runtime.fusion`: a pivot age (a weighted mean with the same weights for every face), and weights
that are tables over that pivot. Four models compete in cross-validation:

- `gated`: the paper's gating network (AgeMoE, MVA 2025) as tables with nodes five years apart and
  a penalty on squared second differences;
- `constant`: the same weights at all ages;
- `equal`: the plain average;
- `best`: the best expert alone.

Weights and pivot are fitted together on Huber's loss of the fused error, from several starts.
`gated` is preferred; a simpler model is chosen where it is better by more than one standard error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax

from export.calibration.tables import NODES, NodeWeights, huber, on_grid, roughness, thinned
from runtime.fusion import Floats

HUBER_YEARS = 3.0
_LEVEL_PENALTY_FACES = 0.3
"""Pulls all weights toward each other."""
_START_FACES = 1000
"""The starts are tried on this many faces; the best one continues with all."""
_TRIAL_STEPS = 15
_ALONE_LOGIT = 25.0
"""Added to the best expert: e^25 leaves the others no weight as long as it answers."""

Objective = Callable[[Floats], tuple[float, Floats]]


@dataclass(frozen=True, slots=True)
class GateModel:
    """A model of the gate."""

    kind: Literal["best", "equal", "constant", "gated"]
    penalty: float = 0.0
    """On bends, in faces; of `gated` alone. More faces loosen it."""

    def __str__(self) -> str:
        """The model's name in reports."""
        return f"{self.kind}, penalty {self.penalty:g}" if self.penalty else self.kind


BEST = GateModel("best")
GATE_MODELS = (GateModel("gated", 300.0), GateModel("constant"), GateModel("equal"), BEST)
"""The models that compete; the first is preferred."""


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """A fitted gate."""

    base_logit: Floats
    """(E,) log weight of each expert in the pivot, up to a constant."""
    node_logit: Floats
    """(E, 21) log weight of each expert at the nodes, by pivot age, up to a constant."""

    @property
    def gate_logit(self) -> Floats:
        """(E, 101) `node_logit` on the age grid."""
        return np.stack([on_grid(table) for table in self.node_logit])


def choose_gate(errors_years: Floats) -> GateModel:
    """Returns the first model, unless another one is better by more than one standard error.

    The errors are the (N, F) absolute errors of each of `GATE_MODELS` on held-out faces.
    """
    best = int(np.argmin(errors_years.mean(axis=0)))
    lead = errors_years[:, 0] - errors_years[:, best]
    standard_error = lead.std() / np.sqrt(len(lead))
    return GATE_MODELS[best] if lead.mean() > standard_error else GATE_MODELS[0]


def fit_gate(corrected_years: Floats, age_years: Floats, model: GateModel) -> Gate:
    """Fits a gate to (N, E) corrected predictions and (N,) true ages."""
    experts = corrected_years.shape[1]
    if model.kind == "equal" or experts == 1:
        return _constant(np.zeros(experts))
    errors = np.abs(corrected_years - age_years[:, None]).mean(axis=0)
    start = _constant(-2.0 * np.log(np.maximum(errors, 0.1)))
    if model.kind == "best":
        alone = np.where(np.arange(experts) == np.argmin(errors), _ALONE_LOGIT, 0.0)
        return _constant(start.base_logit + alone)
    if model.kind == "constant":
        objective = _constant_objective(corrected_years, age_years)
        return _constant(_minimum(objective, start.base_logit)[1])
    return _fit_gated(corrected_years, age_years, model.penalty, start)


def _constant(logit: Floats) -> Gate:
    """Returns the same weights at every age; the mean logit, which has no effect, becomes 0."""
    centered = logit - logit.mean()
    return Gate(centered, np.repeat(centered[:, None], len(NODES), axis=1))


def _constant_objective(corrected: Floats, age: Floats) -> Objective:
    """Returns loss and gradient as a function of (E,) logits."""

    def objective(logit: Floats) -> tuple[float, Floats]:
        weights = softmax(logit)
        fused = corrected @ weights
        loss, slope = huber(fused - age, HUBER_YEARS)
        to_logit = ((corrected - fused[:, None]) * slope[:, None]).sum(axis=0) * weights
        level = logit - logit.mean()
        value = float(loss.sum()) + _LEVEL_PENALTY_FACES * float(level @ level)
        return value / len(age), (to_logit + 2.0 * _LEVEL_PENALTY_FACES * level) / len(age)

    return objective


def _fit_gated(corrected: Floats, age: Floats, penalty: float, start: Gate) -> Gate:
    """Tries several starts on some faces and continues from the best with all."""
    some = thinned(len(age), _START_FACES, seed=0)
    trial = _gated_objective(corrected[some], age[some], penalty)
    tried = [_minimum(trial, parameters, _TRIAL_STEPS) for parameters in _starts(start)]
    best = min(tried, key=lambda pair: pair[0])[1]
    found = _minimum(_gated_objective(corrected, age, penalty), best)[1]
    return _flat_outside(_gate_of(found, corrected.shape[1]), corrected)


def _flat_outside(gate: Gate, corrected: Floats) -> Gate:
    """Makes the tables flat beyond the outermost pivots of the data."""
    pivot = corrected @ softmax(gate.base_logit)
    known = np.clip(NODES, pivot.min(), pivot.max())
    tables = [np.interp(known, NODES, table) for table in gate.node_logit]
    return Gate(gate.base_logit, np.stack(tables))


def _starts(start: Gate) -> list[Floats]:
    """Returns parameters with other pivots: by precision, equal, and each expert leading."""
    leaders = 2.0 * np.eye(len(start.base_logit))
    pivots = [start.base_logit, np.zeros(len(leaders)), *leaders]
    return [np.concatenate([pivot, start.node_logit.ravel()]) for pivot in pivots]


def _gate_of(parameters: Floats, experts: int) -> Gate:
    """Splits parameters, (E) of the pivot and (E * 21) of the nodes."""
    return Gate(parameters[:experts], parameters[experts:].reshape(experts, len(NODES)))


def _gated_objective(corrected: Floats, age: Floats, penalty: float) -> Objective:
    """Returns loss and gradient of pivot and tables together."""
    faces, experts = corrected.shape
    bends = roughness()

    def objective(parameters: Floats) -> tuple[float, Floats]:
        gate = _gate_of(parameters, experts)
        shares = softmax(gate.base_logit)
        pivot = corrected @ shares
        nodes = NodeWeights.of(pivot)
        weights = softmax(
            np.stack([nodes.values(table) for table in gate.node_logit], axis=1), axis=1
        )
        fused = (weights * corrected).sum(axis=1)
        loss, slope = huber(fused - age, HUBER_YEARS)

        to_logits = weights * (corrected - fused[:, None]) * slope[:, None]
        slopes = np.stack([nodes.slopes(table) for table in gate.node_logit], axis=1)
        to_pivot = (to_logits * slopes).sum(axis=1)
        to_base = ((corrected - pivot[:, None]) * to_pivot[:, None]).sum(axis=0) * shares
        to_nodes = np.stack([nodes.gather(column) for column in to_logits.T])

        rough, level = gate.node_logit @ bends, gate.node_logit - gate.node_logit.mean(axis=0)
        value = float(loss.sum()) + penalty * float((rough * gate.node_logit).sum())
        value += _LEVEL_PENALTY_FACES * (
            float((level**2).sum()) + float((gate.base_logit**2).sum())
        )
        to_nodes += 2.0 * (penalty * rough + _LEVEL_PENALTY_FACES * level)
        to_base += 2.0 * _LEVEL_PENALTY_FACES * gate.base_logit
        return value / faces, np.concatenate([to_base, to_nodes.ravel()]) / faces

    return objective


def _minimum(objective: Objective, start: Floats, steps: int = 100) -> tuple[float, Floats]:
    """Returns the smallest value found and its parameters."""
    options = {"maxiter": steps, "ftol": 1e-6}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    return float(found.fun), np.asarray(found.x)
