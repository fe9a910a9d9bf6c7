"""The gate: whom to believe at which age.

A gate turns the corrected readings c of a face into one age, in the two steps of `runtime.fusion`:
a pivot age (a weighted mean with the same weights for every face), and weights that are tables
over that pivot. Four kinds compete in cross-validation:

- `gated`: the paper's gating network (AgeMoE, MVA 2025) as tables with nodes five years apart,
  the squared second differences penalized;
- `constant`: the same weights at all ages;
- `equal`: plain averaging;
- `best`: one expert alone, whichever is best.

Weights and pivot are fitted together on Huber's loss of the fused error, from several starts. The
first is preferred; a simpler one is taken where it is better by more than one standard error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import minimize

from export.calibration.tables import NODES, NodeWeights, huber, on_grid, roughness, thinned
from runtime.fusion import Floats

Kind = Literal["best", "equal", "constant", "gated"]

HUBER_YEARS = 3.0
_PULL_FACES = 0.3
"""Penalty that draws all weights towards each other, in faces."""
_START_FACES = 1000
"""The starts are tried on so many faces; the best goes on with all."""
_TRIAL_STEPS = 15
_ALONE_LOGIT = 25.0
"""e^25: all others together weigh nothing beside the best expert, as long as it answers."""


@dataclass(frozen=True, slots=True)
class GateModel:
    """One way to fit a gate."""

    kind: Kind
    smoothness: float = 0.0
    """Penalty on bends, in faces; of `gated` alone."""

    def __str__(self) -> str:
        """The form as reports name it."""
        return f"{self.kind}, penalty {self.smoothness:g}" if self.smoothness else self.kind


BEST = GateModel("best")
GATE_MODELS = (GateModel("gated", 300.0), GateModel("constant"), GateModel("equal"), BEST)
"""The contestants; the first is preferred. The penalty is in faces: more of them loosen it."""


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """A fitted gate."""

    base_logit: Floats
    """(E,) each expert's say in the pivot."""
    node_logit: Floats
    """(E, 21) each expert's say at the nodes, by pivot age."""

    @property
    def gate_logit(self) -> Floats:
        """(E, 101) on the age grid."""
        return np.stack([on_grid(table) for table in self.node_logit])


def preferred_gate(errors_years: Floats) -> GateModel:
    """The first of `GATE_MODELS`, unless another one is better by more than one standard error.

    Args:
        errors_years: (N, F) absolute errors of each form on held-out faces.
    """
    best = int(np.argmin(errors_years.mean(axis=0)))
    lead = errors_years[:, 0] - errors_years[:, best]
    noise = lead.std() / np.sqrt(len(lead))
    return GATE_MODELS[best] if lead.mean() > noise else GATE_MODELS[0]


def fit_gate(corrected_years: Floats, age_years: Floats, form: GateModel) -> Gate:
    """Fits a gate.

    Args:
        corrected_years: (N, E) readings after bias correction.
        age_years: (N,) true ages.
        form: how to fit.
    """
    experts = corrected_years.shape[1]
    if form.kind == "equal" or experts == 1:
        return _constant(np.zeros(experts))
    errors = np.abs(corrected_years - age_years[:, None]).mean(axis=0)
    start = _constant(-2.0 * np.log(np.maximum(errors, 0.1)))
    if form.kind == "best":
        alone = np.where(np.arange(experts) == np.argmin(errors), _ALONE_LOGIT, 0.0)
        return _constant(start.base_logit + alone)
    if form.kind == "constant":
        return _fit_constant(corrected_years, age_years, start)
    return _fit_gated(corrected_years, age_years, form.smoothness, start)


def _constant(logit: Floats) -> Gate:
    """The same weights at every age; only differences of logits matter, so their mean is 0."""
    centered = logit - logit.mean()
    return Gate(centered, np.repeat(centered[:, None], len(NODES), axis=1))


def _fit_constant(corrected: Floats, age: Floats, start: Gate) -> Gate:
    def objective(logit: Floats) -> tuple[float, Floats]:
        weights = _softmax(logit[None, :])
        fused = corrected @ weights[0]
        loss, pull = huber(fused - age, HUBER_YEARS)
        toward = ((corrected - fused[:, None]) * pull[:, None]).sum(axis=0) * weights[0]
        centered = logit - logit.mean()
        value = float(loss.sum()) + _PULL_FACES * float(centered @ centered)
        return value / len(age), (toward + 2.0 * _PULL_FACES * centered) / len(age)

    return _constant(_minimum(objective, start.base_logit)[1])


def _fit_gated(corrected: Floats, age: Floats, smoothness: float, start: Gate) -> Gate:
    """Tries several starts on some faces, goes on from the best with all."""
    some = thinned(len(age), _START_FACES, seed=0)
    trial = _gated_objective(corrected[some], age[some], smoothness)
    tried = [_minimum(trial, _packed(gate), _TRIAL_STEPS) for gate in _starts(start)]
    promising = min(tried, key=lambda pair: pair[0])[1]
    full = _gated_objective(corrected, age, smoothness)
    return _flat_outside(_unpacked(_minimum(full, promising)[1], corrected.shape[1]), corrected)


def _flat_outside(gate: Gate, corrected: Floats) -> Gate:
    """Keeps the tables flat beyond the outermost pivots that were seen."""
    pivot = corrected @ _softmax(gate.base_logit[None, :])[0]
    known = np.clip(NODES, pivot.min(), pivot.max())
    tables = [np.interp(known, NODES, table) for table in gate.node_logit]
    return Gate(gate.base_logit, np.stack(tables))


def _starts(start: Gate) -> list[Gate]:
    """Pivots to begin with: by precision, equal, and each expert leading in turn."""
    leaders = 2.0 * np.eye(len(start.base_logit))
    pivots = [start.base_logit, np.zeros(len(leaders)), *leaders]
    return [Gate(pivot, start.node_logit) for pivot in pivots]


def _gated_objective(
    corrected: Floats, age: Floats, smoothness: float
) -> Callable[[Floats], tuple[float, Floats]]:
    """Loss and gradient of pivot and tables together, by hand: the tables make autograd idle."""
    faces, experts = corrected.shape
    bends = roughness()

    def objective(parameters: Floats) -> tuple[float, Floats]:
        gate = _unpacked(parameters, experts)
        shares = _softmax(gate.base_logit[None, :])[0]
        pivot = corrected @ shares
        nodes = NodeWeights.of(pivot)
        logits = np.stack([nodes.values(table) for table in gate.node_logit], axis=1)
        weights = _softmax(logits)
        fused = (weights * corrected).sum(axis=1)
        loss, pull = huber(fused - age, HUBER_YEARS)

        to_logits = weights * (corrected - fused[:, None]) * pull[:, None]
        slopes = np.stack([nodes.slopes(table) for table in gate.node_logit], axis=1)
        to_pivot = (to_logits * slopes).sum(axis=1)
        to_base = ((corrected - pivot[:, None]) * to_pivot[:, None]).sum(axis=0) * shares
        to_nodes = np.stack([nodes.gather(column) for column in to_logits.T])

        rough, level = gate.node_logit @ bends, gate.node_logit - gate.node_logit.mean(axis=0)
        value = float(loss.sum()) + smoothness * float((rough * gate.node_logit).sum())
        value += _PULL_FACES * (float((level**2).sum()) + float((gate.base_logit**2).sum()))
        to_nodes += 2.0 * (smoothness * rough + _PULL_FACES * level)
        to_base += 2.0 * _PULL_FACES * gate.base_logit
        return value / faces, np.concatenate([to_base, to_nodes.ravel()]) / faces

    return objective


def _packed(gate: Gate) -> Floats:
    return np.concatenate([gate.base_logit, gate.node_logit.ravel()])


def _unpacked(parameters: Floats, experts: int) -> Gate:
    return Gate(parameters[:experts], parameters[experts:].reshape(experts, len(NODES)))


def _softmax(logits: Floats) -> Floats:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def _minimum(
    objective: Callable[[Floats], tuple[float, Floats]], start: Floats, steps: int = 100
) -> tuple[float, Floats]:
    options = {"maxiter": steps, "ftol": 1e-6}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    return float(found.fun), np.asarray(found.x)
